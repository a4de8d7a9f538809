package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/blob"
	"lorry/engine"
	"lorry/engine/gguf"
)

// Errors of AddAdapter, for errors.Is.
var (
	// ErrAdapter is a file that is no LoRA adapter for its base.
	ErrAdapter = errors.New("no adapter for this base")
	// ErrTaken is a name that stands for a base.
	ErrTaken = errors.New("the name is a base's")
	// ErrBase is a base that takes no adapters: it is one itself, or its engine keeps its own.
	ErrBase = errors.New("no base for adapters")
)

// MaxAdapter is the longest file of an adapter, in bytes.
const MaxAdapter = 8 << 30

// Adapter is one to be added.
type Adapter struct {
	// Name is what clients will ask for. It may stand for an adapter already: then it stands for the new one from now on;
	// jobs that were accepted before keep theirs.
	Name string
	// Base is the name of a registered model.
	Base string
	// OwnedBy is OpenAI's owned_by.
	OwnedBy string
	// Try, if not nil, has an engine look at the stored file, once its head is good: in a process of its own. An
	// *engine.Error of class Invalid refuses it. Nil: the first worker that needs the adapter tries it.
	Try func(ctx context.Context, base Model, digest string) error
}

// AddAdapter keeps an adapter's file in store, by its digest, and registers it. The head of the file is checked, against
// the base's where its file can be read from here; the engine checks both again. ErrNotFound is a base that is not
// registered, ErrGoing a file that is being removed; blob's errors of Put come as they are. After an error nothing is
// registered.
func (r *Registry) AddAdapter(ctx context.Context, store blob.Store, a Adapter, file io.Reader) (Model, error) {
	base, err := r.adapterBase(a)
	if err != nil {
		return Model{}, err
	}
	kv, err := r.bucket(ctx)
	if err != nil {
		return Model{}, err
	}
	var claimed mark
	ref, err := store.Put(ctx, file, MaxAdapter, func(ref blob.Ref) (err error) {
		claimed, err = claim(ctx, kv, ref.Digest)
		return err
	})
	if err != nil {
		return Model{}, fmt.Errorf("registry: adapter %s: %w", a.Name, err)
	}
	if err = a.check(ctx, store, ref, base); err == nil {
		err = stillThere(ctx, kv, store, ref.Digest)
	}
	if err != nil {
		r.forget(ctx, kv, store, ref.Digest, claimed)
		return Model{}, fmt.Errorf("registry: adapter %s: %w", a.Name, err)
	}
	m := Model{Name: a.Name, Base: base.Base, Adapter: ref.Digest, Template: base.Template, Settings: base.Settings, Context: base.Context,
		Runtime: base.Runtime, OwnedBy: a.OwnedBy}
	return m, r.Put(ctx, m)
}

// adapterBase is what an adapter is to stand on. It is asked before the file is read.
func (r *Registry) adapterBase(a Adapter) (Model, error) {
	if n, err := ParseName(a.Name); err != nil || n.Alias != "" {
		return Model{}, fmt.Errorf("registry: adapter %.140q: %w", a.Name, ErrName)
	}
	base, err := r.Resolve(a.Base)
	if err != nil {
		return Model{}, err
	}
	if base.Adapter != "" || base.Runtime != "llama" {
		return Model{}, fmt.Errorf("registry: adapter %s on %s: %w", a.Name, a.Base, ErrBase)
	}
	if old, err := r.Resolve(a.Name); err == nil && old.Adapter == "" {
		return Model{}, fmt.Errorf("registry: adapter %s: %w", a.Name, ErrTaken)
	}
	return base, nil
}

// check looks at what was kept.
func (a Adapter) check(ctx context.Context, store blob.Store, ref blob.Ref, base Model) error {
	err := checkAdapter(ctx, store, ref, base)
	if err != nil || a.Try == nil {
		return err
	}
	err = a.Try(ctx, base, ref.Digest)
	if errors.Is(err, engine.ErrInvalid) {
		return fmt.Errorf("%w: %s", ErrAdapter, engine.AsError(err).Message)
	}
	return err
}

// checkAdapter reads the head of what was kept.
func checkAdapter(ctx context.Context, store blob.Store, ref blob.Ref, base Model) error {
	f, err := store.Open(ctx, ref.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	head, err := gguf.Read(f, ref.Size)
	if errors.Is(err, gguf.ErrInvalid) {
		return fmt.Errorf("%w: %w", ErrAdapter, err)
	}
	if err != nil {
		return err
	}
	if t := head.Text("general.type"); t != "adapter" {
		return fmt.Errorf("%w: it is of the type %q", ErrAdapter, t)
	}
	under, err := gguf.Open(base.File)
	if err != nil {
		return nil // it is on another host
	}
	if err := gguf.CheckAdapter(head, under); err != nil {
		return fmt.Errorf("%w: %w", ErrAdapter, err)
	}
	return nil
}

// stillThere claims the bytes once more, for their name: another push of the same file may have been refused meanwhile, and
// taken them away. From here on that can't happen.
func stillThere(ctx context.Context, kv jetstream.KeyValue, store blob.Store, digest string) error {
	if _, err := claim(ctx, kv, digest); err != nil {
		return err
	}
	_, err := store.Stat(ctx, digest)
	if errors.Is(err, blob.ErrNotFound) {
		return ErrGoing
	}
	return err
}

// forget deletes the bytes of an adapter that was refused, unless a name stands for them, or they were pushed again
// meanwhile. Once is enough: what stays is Sweep's.
func (r *Registry) forget(ctx context.Context, kv jetstream.KeyValue, store blob.Store, digest string, m mark) {
	if _, err := r.remove(context.WithoutCancel(ctx), kv, store, digest, m); err != nil {
		r.cfg.Log.Warn().Err(err).Str("adapter", digest).Msg("a refused adapter was not deleted")
	}
}
