package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	"lorry/blob"
	"lorry/engine"
	"lorry/engine/gguf"
)

// Errors of AddAdapter and AddModel, for errors.Is.
var (
	// ErrAdapter is a file that is no LoRA adapter for its base.
	ErrAdapter = errors.New("no adapter for this base")
	// ErrTaken is a name that stands for something else.
	ErrTaken = errors.New("the name is taken")
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
	f, err := r.keep(ctx, store, upload{file, MaxAdapter, func(ref blob.Ref) error { return a.check(ctx, store, ref, base) }, ErrAdapter})
	if err != nil {
		return Model{}, fmt.Errorf("registry: adapter %s: %w", a.Name, err)
	}
	m := Model{Name: a.Name, Base: base.Base, Adapter: f.Digest, Template: base.Template, Settings: base.Settings, Context: base.Context,
		Runtime: base.Runtime, OwnedBy: a.OwnedBy, Size: f.Size}
	if err := r.stand(ctx, m, base); err != nil {
		r.forget(ctx, store, f)
		return Model{}, err
	}
	return r.Resolve(a.Name)
}

// stand registers an adapter, unless its base is deleted meanwhile: then its name stands for what it did before.
func (r *Registry) stand(ctx context.Context, m, base Model) error {
	var old Model
	err := r.update(ctx, m.Name, func(o Model) (Model, error) { old = o; return m, nil })
	if err != nil || !base.Pushed() {
		return err
	}
	if err := r.touch(ctx, base); err != nil {
		return errors.Join(err, r.takeBack(context.WithoutCancel(ctx), m, old))
	}
	return nil
}

// touch makes a new revision of a model's record: a Delete that has not seen who stands on it since fails on that, and looks
// again. ErrNotFound says that the Delete was first.
func (r *Registry) touch(ctx context.Context, m Model) error {
	kv, err := r.bucket(ctx)
	if err != nil {
		return err
	}
	for {
		e, err := get(ctx, kv, m.Name)
		switch {
		case err != nil:
			return err
		case e.there().Base != m.Base:
			return fmt.Errorf("registry: model %s: %w", m.Name, ErrNotFound)
		}
		if err = r.write(ctx, kv, e, e.Model); err == nil || overtaken(err) != nil {
			return err
		}
	}
}

// takeBack undoes what stand wrote, unless somebody wrote the name since.
func (r *Registry) takeBack(ctx context.Context, m, old Model) error {
	if old.Base == "" {
		err := r.Delete(ctx, m.Name, func(now Model) error {
			if now.Adapter != m.Adapter {
				return ErrNotFound
			}
			return nil
		})
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	}
	return r.update(ctx, m.Name, func(now Model) (Model, error) {
		if now.Adapter != m.Adapter {
			return now, nil
		}
		return old, nil
	})
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
	head, err := readHead(ctx, store, ref)
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
	return gguf.CheckAdapter(head, under)
}
