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

func (c *call) take() []*message {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queue
	c.queue = nil
	return q
}

// fail ends the call with an error of this end's.
func (c *call) fail(err *engine.Error) { c.put(&message{Kind: kindError, Error: err}) }

// wait hands chunks to emit until the call's last message, which it returns, or ctx ends.
func (c *call) wait(ctx context.Context, emit func(engine.Chunk)) (*message, error) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		for _, m := range c.take() {
			if ctx.Err() != nil { // perhaps ended by emit
				return nil, context.Cause(ctx)
			}
			switch {
			case m.Kind == kindError:
				return nil, m.Error
			case m.Kind != kindChunk:
				return m, nil
			case emit != nil:
				emit(*m.Chunk)
			}
		}
	}
}
