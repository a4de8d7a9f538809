package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// retryWatch is how long Run waits after a watch that failed.
	retryWatch = 250 * time.Millisecond
	// rewatch bounds how long a watch that silently died could hide a change.
	rewatch = 5 * time.Minute
	// loadTime bounds the reading of a bucket.
	loadTime = 10 * time.Second
)

var errEnded = errors.New("registry: the watch ended")

// Run keeps the view until ctx ends. While the server is away the last view stands.
func (r *Registry) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.watch(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Log.Warn().Err(err).Msg("models can't be watched; the last view stands")
			select {
			case <-time.After(retryWatch):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// watch reads the bucket and follows it for a while. Records are never taken out of a bucket without a mark, so what is
// read anew only adds to what is there.
func (r *Registry) watch(ctx context.Context) error {
	// No deadline but a timer: with a far deadline, the client would wait that long for an answer that was lost.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(loadTime, cancel)
	defer timer.Stop()
	nc := r.cfg.JS.Conn()
	back := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(back)
	kv, err := r.bucket(ctx)
	if err != nil {
		return err
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("registry: watch: %w", err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return ended(ctx)
			}
			if e == nil {
				timer.Reset(rewatch)
			}
			r.take(e)
		case <-back:
			return nil // a server that was restarted has forgotten the watch; the client would notice 10 to 20 seconds later
		case <-ctx.Done():
			return nil
		}
	}
}

// take is one message of the watch; nil is the mark behind all that was there at its start.
func (r *Registry) take(e jetstream.KeyValueEntry) {
	if e != nil {
		r.apply(e.Key(), decode(e))
		return
	}
	select {
	case <-r.ready:
	default:
		close(r.ready)
	}
}

// apply takes a record in, unless a newer one is there: the watch may lag behind what this process wrote.
func (r *Registry) apply(key string, e entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.revision > r.models[key].revision {
		r.models[key] = e
	}
}

// ended tells a watch that was to end from one that broke.
func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return errEnded
}
