package access

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/watch"
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

// Run keeps the view until ctx ends. While the server is away the last view stands.
func (s *Store) Run(ctx context.Context) error {
	see := func(e jetstream.KeyValueEntry) { s.apply(changed(e)) }
	return watch.Bucket{JS: s.cfg.JS, Name: Bucket, Load: s.load, See: see, Log: s.cfg.Log}.Run(ctx)
}

// load reads the bucket anew. The zero record stands for an unreadable one.
func (s *Store) load(all []jetstream.KeyValueEntry) {
	v := newView()
	for _, e := range all {
		_ = v.apply(changed(e))
	}
	s.swap(v)
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

// readTime bounds the reading of the bucket.
const readTime = 10 * time.Second

// read is the bucket as it is now.
func read(ctx context.Context, kv jetstream.KeyValue) (view, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	v := newView()
	err := watch.Each(ctx, kv, ">", func(e jetstream.KeyValueEntry) { _ = v.apply(changed(e)) })
	if err != nil {
		return v, fmt.Errorf("access: read keys: %w", err)
	}
	return v, nil
}
