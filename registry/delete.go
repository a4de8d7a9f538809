package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/watch"
)

// ErrHeld is a pushed model that adapters stand on.
var ErrHeld = errors.New("adapters stand on it")

// Delete forgets what a name stands for, if may agrees. Jobs that were accepted keep what they resolved: an adapter's file
// stays until Sweep finds that nothing needs it, and a pushed model is [Registry.Leaving] as long. may is asked anew where
// somebody else changes the name meanwhile, and its error is Delete's; ErrNotFound is a name that stands for nothing,
// ErrHeld a pushed model under its last name that adapters stand on, ErrGoing a file that is being removed. When Delete
// returns, Resolve here knows the name no more; elsewhere after the watch's delay.
func (r *Registry) Delete(ctx context.Context, name string, may func(Model) error) error {
	n, err := ParseName(name)
	if err != nil {
		return err
	}
	kv, err := r.bucket(ctx)
	if err != nil {
		return err
	}
	for {
		old, err := get(ctx, kv, name)
		switch {
		case err != nil:
			return err
		case old.revision == 0 || old.gone:
			return fmt.Errorf("registry: model %s: %w", n, ErrNotFound)
		}
		if err := may(old.Model); err != nil {
			return err
		}
		err = r.take(ctx, kv, n, old)
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue
		}
		if err != nil {
			return fmt.Errorf("registry: delete model %s: %w", n, err)
		}
		r.apply(n.key(), entry{gone: true, revision: old.revision + 1})
		return nil
	}
}

// take takes a name out of the bucket.
func (r *Registry) take(ctx context.Context, kv jetstream.KeyValue, n Name, old entry) error {
	last, err := r.last(ctx, kv, old.Model)
	if err != nil {
		return err
	}
	if last { // in front, so that no worker sees it without either
		if err := r.leave(ctx, kv, old.Model); err != nil {
			return err
		}
	}
	if err := kv.Purge(ctx, n.key(), jetstream.LastRevision(old.revision), jetstream.PurgeTTL(markerTTL)); err != nil || !last {
		return err
	}
	err = r.leave(ctx, kv, old.Model) // again, for a sweep may have seen the name beside the mark, and taken that away
	if errors.Is(err, ErrGoing) {
		return nil
	}
	return err
}

// last says whether a pushed model goes with this name. Adapters hold it then. Where it stays, another of its names is
// touched: who deletes that one at this moment looks again, so that one of both is last.
func (r *Registry) last(ctx context.Context, kv jetstream.KeyValue, m Model) (bool, error) {
	if !m.Pushed() {
		return false, nil
	}
	var adapters []string
	var twin Model
	err := watch.Each(ctx, kv, keyPrefix+">", func(e jetstream.KeyValueEntry) {
		o := decode(e).there()
		switch {
		case o.Base != m.Base || o.Name == m.Name:
		case o.Adapter != "":
			adapters = append(adapters, o.Name)
		default:
			twin = o
		}
	}, jetstream.IgnoreDeletes())
	switch {
	case err != nil:
		return false, err
	case twin.Base != "":
		if err = r.touch(ctx, twin); errors.Is(err, ErrNotFound) { // it has gone meanwhile
			return r.last(ctx, kv, m)
		}
		return false, err
	case len(adapters) > 0:
		slices.Sort(adapters)
		return true, fmt.Errorf("%w: %s", ErrHeld, strings.Join(adapters, ", "))
	}
	return true, nil
}

// displaced marks a pushed model whose name stands for another one now, if that was its last.
func (r *Registry) displaced(ctx context.Context, m Model) error {
	kv, err := r.bucket(ctx)
	if err != nil {
		return err
	}
	last, err := r.last(ctx, kv, m)
	if errors.Is(err, ErrHeld) { // it goes with its adapters
		return nil
	}
	if err != nil || !last {
		return err
	}
	return r.leave(ctx, kv, m)
}

// leave marks a pushed model's file: nothing names it now, and jobs may need it.
func (r *Registry) leave(ctx context.Context, kv jetstream.KeyValue, model Model) error {
	for {
		m, err := getMark(ctx, kv, model.Base)
		switch {
		case err != nil:
			return err
		case m.Going:
			return ErrGoing
		case m.Model != nil && m.Since != 0:
			return nil
		}
		m.Since, m.Left, m.Model = r.cfg.Now().Unix(), r.cfg.Now().Unix(), &model
		if _, err = setMark(ctx, kv, model.Base, m); err == nil || overtaken(err) != nil {
			return err
		}
	}
}

// Leaving are pushed models whose last name was deleted, while jobs that were accepted may need them: who serves models
// serves these too, until they are not among them any more.
func (r *Registry) Leaving() (out []Model) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	named := map[string]bool{}
	for _, e := range r.models {
		named[e.there().Base] = true
	}
	for digest, m := range r.leaving {
		if !m.Going && !named[digest] {
			out = append(out, *m.Model)
		}
	}
	return out
}

// Due says whether Sweep would look now whether a model that leaves is needed.
func (r *Registry) Due() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, m := range r.leaving {
		if m.due(r.cfg.Now()) {
			return true
		}
	}
	return false
}

// seeMark keeps the marks of models that leave.
func seeMark(leaving map[string]mark, digest string, e jetstream.KeyValueEntry) {
	if m := decodeMark(e); e.Operation() == jetstream.KeyValuePut && m.Model != nil {
		leaving[digest] = m
	} else {
		delete(leaving, digest)
	}
}
