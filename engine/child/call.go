package child

import (
	"context"
	"sync"

	"lorry/engine"
)

// call is one question to the child. The pipe's reader puts messages in and never waits, so that one slow caller holds
// up no other; what is held is at most the answer.
type call struct {
	id   string
	wake chan struct{} // holds a token when there may be something to take

	mu    sync.Mutex
	queue []*message
}

func newCall(id string) *call { return &call{id: id, wake: make(chan struct{}, 1)} }

func (c *call) put(m *message) {
	c.mu.Lock()
	c.queue = append(c.queue, m)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// next is the oldest message, nil where there is none.
func (c *call) next() *message {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return nil
	}
	m := c.queue[0]
	c.queue = c.queue[1:]
	return m
}

// fail ends the call with an error of this end's.
func (c *call) fail(err *engine.Error) { c.put(&message{Kind: kindError, Error: err}) }

// listener is who hears of a run before its end. Each may be nil.
type listener struct {
	emit  func(engine.Chunk)
	save  func(*engine.Resume)
	began func()
}

func (l listener) hear(m *message) {
	switch {
	case m.Kind == kindChunk && l.emit != nil:
		l.emit(*m.Chunk)
	case m.Kind == kindSaved && l.save != nil:
		l.save(m.Resume)
	case m.Kind == kindBegan && l.began != nil:
		l.began()
	}
}

// wait tells l of messages until the call's last one, which it returns, or ctx ends, perhaps by l.
func (c *call) wait(ctx context.Context, l listener) (*message, error) {
	for ctx.Err() == nil {
		m := c.next()
		switch {
		case m == nil:
			select {
			case <-c.wake:
			case <-ctx.Done():
			}
		case m.Kind == kindError:
			return nil, m.Error
		case m.last():
			return m, nil
		default:
			l.hear(m)
		}
	}
	return nil, context.Cause(ctx)
}
