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

// ErrModel is a file that is no model which an engine could serve.
var ErrModel = errors.New("no model that can be served")

// MaxModel is the longest file of a model, in bytes, where Base.Most does not say so.
const MaxModel = 128 << 30

// Base is a model to be added that stands on no other.
type Base struct {
	// Name is what clients will ask for. Nothing else may stand under it, but for the same file: what a base's name stands
	// for never changes by a push, so that jobs which were accepted find their base. A version makes a name new.
	Name string
	// OwnedBy is OpenAI's owned_by.
	OwnedBy string
	// Most bounds its file, in bytes. 0: MaxModel.
	Most int64
	// Try, if not nil, has an engine look at a stored file, once its head is good: in a process of its own. An
	// *engine.Error of class Invalid refuses it. Nil: the first worker that serves the model tries it.
	Try func(ctx context.Context, digest string) error
	// Quantize, if not nil, makes the file that is to be served of the stored one. Its Close takes away what it needed.
	Quantize func(ctx context.Context, digest string) (io.ReadCloser, error)
}

// AddModel keeps a model's file in store, by its digest, and registers it: from then on workers fetch and serve it. Its
// head is checked; the engine checks it again. ErrModel is a bad file, ErrTaken a name that stands for something else,
// ErrGoing a file that is being removed; blob's errors of Put come as they are, and so do Quantize's. After an error
// nothing is registered, and nothing is kept.
func (r *Registry) AddModel(ctx context.Context, store blob.Store, b Base, file io.Reader) (Model, error) {
	if err := r.freeFor(b.Name); err != nil {
		return Model{}, err
	}
	m := Model{Name: b.Name, Runtime: "llama", OwnedBy: b.OwnedBy, Stored: true}
	f, err := r.keep(ctx, store, b.upload(ctx, store, &m, file))
	if err == nil && b.Quantize != nil {
		f, err = r.quantize(ctx, store, b, &m, f)
	}
	if err == nil {
		if m, err = r.named(ctx, m); err != nil {
			r.forget(ctx, store, f)
		}
	}
	if err != nil {
		return Model{}, fmt.Errorf("registry: model %s: %w", b.Name, err)
	}
	return m, nil
}

// freeFor says whether a base may be pushed under a name, before its file is read.
func (r *Registry) freeFor(s string) error {
	if n, err := ParseName(s); err != nil || n.Alias != "" {
		return fmt.Errorf("registry: model %.140q: %w", s, ErrName)
	}
	old, err := r.Resolve(s)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case old.Adapter != "":
		return fmt.Errorf("registry: model %s: %w: it is an adapter's", s, ErrTaken)
	case !old.Stored:
		return fmt.Errorf("registry: model %s: %w: a worker serves a file of its own under it", s, ErrTaken)
	}
	return nil // perhaps it is the same file
}

// named registers what was kept, unless its name stands for another file.
func (r *Registry) named(ctx context.Context, m Model) (Model, error) {
	err := r.update(ctx, m.Name, func(old Model) (Model, error) {
		switch {
		case old.Base == "":
		case old.Base != m.Base || old.Adapter != "" || !old.Stored:
			return m, fmt.Errorf("%w: it stands for another file", ErrTaken)
		default: // what workers found out stays
			m.Template, m.Settings, m.Context, m.File = old.Template, old.Settings, old.Context, old.File
		}
		return m, nil
	})
	if err != nil {
		return m, err
	}
	return r.Resolve(m.Name)
}

// upload keeps a file that is good, and notes in m what it is.
func (b Base) upload(ctx context.Context, store blob.Store, m *Model, file io.Reader) upload {
	most := b.Most
	if most == 0 {
		most = MaxModel
	}
	return upload{file, most, func(ref blob.Ref) error { return b.check(ctx, store, m, ref) }, ErrModel}
}

// check looks at what was kept.
func (b Base) check(ctx context.Context, store blob.Store, m *Model, ref blob.Ref) error {
	head, err := readHead(ctx, store, ref)
	if err != nil {
		return err
	}
	if err := gguf.CheckModel(head); err != nil {
		return err
	}
	m.Base, m.Size, m.Format, m.KV = ref.Digest, ref.Size, head.Format(), head.TokenBytes("f16")
	if b.Try == nil {
		return nil
	}
	err = b.Try(ctx, ref.Digest)
	if errors.Is(err, engine.ErrInvalid) {
		return fmt.Errorf("%w: %s", ErrModel, engine.AsError(err).Message)
	}
	return err
}

// quantize keeps what is made of a file, and gives up that one.
func (r *Registry) quantize(ctx context.Context, store blob.Store, b Base, m *Model, first kept) (kept, error) {
	defer r.forget(ctx, store, first)
	small, err := b.Quantize(ctx, first.Digest)
	if err != nil {
		return kept{}, err
	}
	defer small.Close()
	m.Source = first.Digest
	return r.keep(ctx, store, b.upload(ctx, store, m, small))
}
