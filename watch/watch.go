// Package watch keeps a JetStream KV bucket in sight, also when its server is restarted meanwhile.
package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

const (
	// retry is how long Run waits after a watch that failed.
	retry = 250 * time.Millisecond
	// anew bounds how long a watch that silently died could hide a change.
	anew = 5 * time.Minute
	// loadTime bounds the reading of a bucket.
	loadTime = 10 * time.Second
)

// Bucket is what to watch, and whom to tell. All but Log are required. Load and See are called by one goroutine.
type Bucket struct {
	JS   jetstream.JetStream
	Name string
	// Load is told of all records at once: at the start, and again every few minutes and whenever the server was away.
	// Deletions are among them as long as their marks stand.
	Load func([]jetstream.KeyValueEntry)
	// See is told of each change after that. It may be older than what the process wrote itself.
	See func(jetstream.KeyValueEntry)
	Log zerolog.Logger
}

// Run watches until ctx ends. While the server is away nothing is told, and the log says so.
func (b Bucket) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := b.round(ctx); err != nil && ctx.Err() == nil {
			b.Log.Warn().Err(err).Str("bucket", b.Name).Msg("bucket can't be watched; what was seen last stands")
			select {
			case <-time.After(retry):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// round reads the bucket and follows it for a while.
func (b Bucket) round(ctx context.Context) error {
	// No deadline but a timer: with a far deadline, the client would wait that long for an answer that was lost.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(loadTime, cancel)
	defer timer.Stop()
	nc := b.JS.Conn()
	back := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(back)
	kv, err := b.JS.KeyValue(ctx, b.Name)
	if err != nil {
		return fmt.Errorf("watch: bucket %s: %w", b.Name, err)
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch: bucket %s: %w", b.Name, err)
	}
	defer func() { _ = w.Stop() }()
	var all []jetstream.KeyValueEntry
	if err := each(ctx, w, func(e jetstream.KeyValueEntry) { all = append(all, e) }); err != nil {
		return fmt.Errorf("watch: read bucket %s: %w", b.Name, err)
	}
	b.Load(all)
	timer.Reset(anew)
	return b.follow(ctx, w, back)
}

// follow ends when the connection is back: a server that was restarted has forgotten the watch, and the client would
// notice only 10 to 20 seconds later. A revoked key must not work that long, nor a batch rest.
func (b Bucket) follow(ctx context.Context, w jetstream.KeyWatcher, back <-chan nats.Status) error {
	for {
		select {
		case <-back:
			return nil
		case e, ok := <-w.Updates():
			if !ok && ctx.Err() == nil {
				return fmt.Errorf("watch: bucket %s: %w", b.Name, errEnded)
			}
			if e != nil {
				b.See(e)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

var errEnded = errors.New("the watch ended")

// Each calls f with every record of the keys, as they stand now. opts are a watch's, as jetstream.IgnoreDeletes().
func Each(ctx context.Context, kv jetstream.KeyValue, keys string, f func(jetstream.KeyValueEntry), opts ...jetstream.WatchOpt) error {
	w, err := kv.Watch(ctx, keys, opts...)
	if err == nil {
		defer func() { _ = w.Stop() }()
		err = each(ctx, w, f)
	}
	if err != nil {
		return fmt.Errorf("watch: read bucket %s: %w", kv.Bucket(), err)
	}
	return nil
}

// each reads a new watch up to its mark: all that the bucket held.
func each(ctx context.Context, w jetstream.KeyWatcher, f func(jetstream.KeyValueEntry)) error {
	for {
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return errors.Join(errEnded, context.Cause(ctx))
			case e == nil:
				return nil
			}
			f(e)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
