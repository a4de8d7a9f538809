package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// view is the bucket in memory.
type view struct {
	keys      map[string]Key
	tenants   map[string]Settings
	revisions map[string]uint64
}

func newView() view {
	return view{keys: map[string]Key{}, tenants: map[string]Settings{}, revisions: map[string]uint64{}}
}

// change is one record's news; a nil value is its end.
type change struct {
	key      string
	value    []byte
	revision uint64
}

func changed(e jetstream.KeyValueEntry) change {
	c := change{key: e.Key(), revision: e.Revision()}
	if e.Operation() == jetstream.KeyValuePut {
		c.value = e.Value()
	}
	return c
}

// apply takes a change in, unless a newer one is there already: the watch may lag behind what this process wrote.
func (v view) apply(c change) error {
	if c.revision <= v.revisions[c.key] {
		return nil
	}
	v.revisions[c.key] = c.revision
	if id, ok := strings.CutPrefix(c.key, keyKeys); ok {
		return set(v.keys, id, c.value)
	}
	if t, ok := strings.CutPrefix(c.key, tenantKeys); ok {
		return set(v.tenants, t, c.value)
	}
	return nil // a newer version's record
}

// set decodes a record into its map. One that can't be read grants nothing: it is replaced by the zero record.
func set[T any](m map[string]T, name string, value []byte) error {
	if value == nil {
		delete(m, name)
		return nil
	}
	var t T
	err := json.Unmarshal(value, &t)
	m[name] = t
	return err
}

func (s *Store) apply(c change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.view.apply(c); err != nil {
		s.cfg.Log.Error().Err(err).Str("record", c.key).Msg("access record is unreadable")
	}
}

const (
	// retryWatch is how long Run waits after a watch that failed.
	retryWatch = 250 * time.Millisecond
	// rewatch bounds how long a watch that silently died could hide a revoked key.
	rewatch = 5 * time.Minute
	// loadTime bounds the reading of a bucket.
	loadTime = 10 * time.Second
)

var errEnded = errors.New("access: the watch ended")

// Run keeps the view until ctx ends. While the server is away the last view stands.
func (s *Store) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.watch(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn().Err(err).Msg("keys can't be watched; the last view stands")
			select {
			case <-time.After(retryWatch):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// watch reads the bucket anew, swaps it in, and follows it for a while.
func (s *Store) watch(ctx context.Context) error {
	// No deadline but a timer: with a far deadline, the client would wait that long for an answer that was lost.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(loadTime, cancel)
	defer timer.Stop()
	nc := s.cfg.JS.Conn()
	back := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(back)
	kv, err := s.bucket(ctx)
	if err != nil {
		return err
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("access: watch: %w", err)
	}
	defer func() { _ = w.Stop() }()
	v, err := load(ctx, w)
	if err != nil {
		return err
	}
	s.swap(v)
	timer.Reset(rewatch)
	return s.follow(ctx, w, back)
}

// follow ends when the connection is back: a server that was restarted has forgotten the watch, and the client would
// notice only 10 to 20 seconds later. A revoked key must not work that long.
func (s *Store) follow(ctx context.Context, w jetstream.KeyWatcher, back <-chan nats.Status) error {
	for {
		select {
		case <-back:
			return nil
		case e, ok := <-w.Updates():
			if !ok {
				return ended(ctx)
			}
			if e != nil {
				s.apply(changed(e))
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// ended tells a watch that was to end from one that broke.
func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return errEnded
}

// swap replaces the view, keeping what this process itself wrote meanwhile.
func (s *Store) swap(v view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := v.newest()
	for key, revision := range s.view.revisions {
		if revision > newest {
			keep(s.view, v, key)
		}
	}
	s.view = v
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
}

func (v view) newest() (r uint64) {
	for _, n := range v.revisions {
		r = max(r, n)
	}
	return r
}

func keep(from, to view, key string) {
	to.revisions[key] = from.revisions[key]
	if id, ok := strings.CutPrefix(key, keyKeys); ok {
		to.keys[id] = from.keys[id]
	} else if t, ok := strings.CutPrefix(key, tenantKeys); ok {
		to.tenants[t] = from.tenants[t]
	}
}

// load reads a new watch up to its mark: all that the bucket held.
func load(ctx context.Context, w jetstream.KeyWatcher) (view, error) {
	v := newView()
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return v, errEnded
			}
			if e == nil {
				return v, nil
			}
			_ = v.apply(changed(e)) // the zero record stands for an unreadable one
		case <-ctx.Done():
			return v, fmt.Errorf("access: read keys: %w", context.Cause(ctx))
		}
	}
}

// read is the bucket as it is now.
func read(ctx context.Context, kv jetstream.KeyValue) (view, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return view{}, fmt.Errorf("access: read keys: %w", err)
	}
	defer func() { _ = w.Stop() }()
	return load(ctx, w)
}
