package result

import (
	"context"
	"sync"
	"time"

	"lorry/queue"
)

// company turns what many goroutines accept at the same moment into one exchange with Redis, and one run of the script a
// tenant. Nobody waits for company: while an exchange is under way the next one gathers.
type company struct {
	mu   sync.Mutex
	busy bool
	next *party
}

// party is who shares an exchange.
type party struct {
	jobs []*queue.Job
	done chan struct{}
	err  error
}

// acceptBound bounds an exchange: it serves many, so it can't end with one of them.
const acceptBound = 10 * time.Second

// join adds jobs to the next exchange and returns when it is over, or ctx is: then the jobs may be accepted all the same.
func (c *company) join(ctx context.Context, jobs []*queue.Job, exchange func(context.Context, []*queue.Job) error) error {
	c.mu.Lock()
	if c.next == nil {
		c.next = &party{done: make(chan struct{})}
	}
	p := c.next
	p.jobs = append(p.jobs, jobs...)
	if !c.busy {
		c.busy = true
		go c.serve(exchange)
	}
	c.mu.Unlock()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// serve runs exchanges until nobody waits for one.
func (c *company) serve(exchange func(context.Context, []*queue.Job) error) {
	for {
		c.mu.Lock()
		p := c.next
		c.next, c.busy = nil, p != nil
		c.mu.Unlock()
		if p == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), acceptBound)
		p.err = exchange(ctx, p.jobs)
		cancel()
		close(p.done)
	}
}
