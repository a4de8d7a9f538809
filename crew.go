package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// crew starts the parts of a process in order, and stops them in the opposite order, each when the one after it has
// ended: what needs another part is gone before that part is.
type crew struct {
	log   logger
	grace time.Duration
	parts []*part
	// failed gets the name of a part that ended by itself, and why.
	failed chan error
}

type part struct {
	name   string
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

func newCrew(log logger, grace time.Duration) *crew {
	return &crew{log: log, grace: grace, failed: make(chan error, 64)}
}

// start runs a part until it is stopped. Its context ends only then: the drain is ordered, not simultaneous.
func (c *crew) start(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, ctx: ctx, cancel: cancel, done: make(chan struct{})}
	c.parts = append(c.parts, p)
	go func() {
		defer close(p.done)
		err := run(ctx)
		if ctx.Err() == nil {
			c.failed <- or(err, fmt.Errorf("%s ended by itself", name))
		} else if err != nil && !errors.Is(err, context.Canceled) {
			c.log.Warn().Err(err).Str("part", name).Msg("ended with an error")
		}
	}()
}

// closer adds a part that only has something to close.
func (c *crew) closer(name string, f func()) {
	c.start(name, func(ctx context.Context) error {
		<-ctx.Done()
		f()
		return nil
	})
}

// last is the context of the part started last.
func (c *crew) last() context.Context { return c.parts[len(c.parts)-1].ctx }

// finish waits until ctx ends or a part fails, then drains. The error is the part's.
func (c *crew) finish(ctx context.Context) (err error) {
	select {
	case <-ctx.Done():
	case err = <-c.failed:
	}
	began := time.Now()
	c.log.Info().AnErr("because", err).Msg("draining")
	c.stop()
	c.log.Info().Dur("took", time.Since(began)).Msg("stopped")
	return err
}

// stop drains. A part that does not end within the grace, and some time to tidy up, is left behind.
func (c *crew) stop() {
	for len(c.parts) > 0 {
		p := c.parts[len(c.parts)-1]
		c.parts = c.parts[:len(c.parts)-1]
		began := time.Now()
		p.cancel()
		select {
		case <-p.done:
			c.log.Debug().Str("part", p.name).Dur("took", time.Since(began)).Msg("stopped")
		case <-time.After(c.grace + 15*time.Second):
			c.log.Error().Str("part", p.name).Msg("does not stop, left behind")
		}
	}
}

func or(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
