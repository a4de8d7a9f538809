package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"lorry/blob"
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
}

// AddAdapter keeps an adapter's file in store, by its digest, and registers it. The head of the file is checked, against
// the base's where its file can be read from here; the engine checks both again. ErrNotFound is a base that is not
// registered; blob's errors of Put come as they are. After an error nothing is registered.
func (r *Registry) AddAdapter(ctx context.Context, store blob.Store, a Adapter, file io.Reader) (Model, error) {
	base, err := r.adapterBase(a)
	if err != nil {
		return Model{}, err
	}
	ref, err := store.Put(ctx, file, MaxAdapter, nil)
	if err != nil {
		return Model{}, fmt.Errorf("registry: adapter %s: %w", a.Name, err)
	}
	if err := checkAdapter(ctx, store, ref, base); err != nil {
		r.forget(ctx, store, ref.Digest)
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

// forget deletes the bytes of an adapter that was refused, unless they are registered already. Once is enough: what
// stays is found by its digest, and takes room only.
func (r *Registry) forget(ctx context.Context, store blob.Store, digest string) {
	for _, m := range r.List() {
		if m.Adapter == digest {
			return
		}
	}
	if err := store.Delete(context.WithoutCancel(ctx), digest); err != nil {
		r.cfg.Log.Warn().Err(err).Str("adapter", digest).Msg("a refused adapter was not deleted")
	}
}
