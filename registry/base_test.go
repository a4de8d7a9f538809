package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"lorry/blob"
	"lorry/engine"
	"lorry/engine/enginetest"
	"lorry/queue/queuetest"
)

func TestAddModel(t *testing.T) {
	r, store := start(t, queuetest.JetStream(t)), weights(t)
	add := func(b Base, seed byte) (Model, error) {
		return r.AddModel(t.Context(), store, b, bytes.NewReader(enginetest.TinyModel(t, seed)))
	}
	m, err := add(Base{Name: "my", OwnedBy: "ops"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	want := Model{V: V, Name: "my", Base: m.Base, Runtime: "llama", OwnedBy: "ops", Stored: true, Size: int64(len(enginetest.TinyModel(t, 1))), Format: "f16", KV: m.KV}
	got, err := r.Resolve("my")
	if err != nil {
		t.Fatal(err)
	}
	want.Created = got.Created
	if _, err := store.Stat(t.Context(), m.Base); err != nil || got != want || !blob.Valid(m.Base) || m.KV <= 0 {
		t.Errorf("registered %+v, %v, want %+v", got, err, want)
	}
	// What a worker finds out is added to what was pushed, and stays when the file is pushed again.
	if err := r.Put(t.Context(), Model{Name: "my", Base: m.Base, Template: other, Context: 128, Runtime: "llama", File: "my.gguf", OwnedBy: "lorry"}); err != nil {
		t.Fatal(err)
	}
	want.Template, want.Context, want.File = other, 128, "my.gguf"
	if got, _ := r.Resolve("my"); got != want {
		t.Errorf("served, it is %+v, want %+v", got, want)
	}
	if _, err := add(Base{Name: "my", OwnedBy: "ops"}, 1); err != nil {
		t.Errorf("the same file again: %v", err)
	}
	if got, _ := r.Resolve("my"); got != want {
		t.Errorf("pushed again, it is %+v, want %+v", got, want)
	}
	if _, err := add(Base{Name: "my"}, 2); !errors.Is(err, ErrTaken) || stored(t, store) != 1 {
		t.Errorf("another file under its name: %v, and %d files are kept", err, stored(t, store))
	}
	if _, err := add(Base{Name: "my:2"}, 2); err != nil || stored(t, store) != 2 {
		t.Errorf("another version: %v, and %d files are kept", err, stored(t, store))
	}
}

func TestAddModelRefuses(t *testing.T) {
	r, store := start(t, queuetest.JetStream(t)), weights(t)
	if err := r.Put(t.Context(), Model{Name: "base", Base: base, Runtime: "llama", File: smallBase(t)}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.AddAdapter(t.Context(), store, Adapter{Name: "poet", Base: "base"}, bytes.NewReader(smallAdapter.File(t))); err != nil {
		t.Fatal(err)
	}
	good := enginetest.TinyModel(t, 1)
	says := func(err error) func(context.Context, string) error {
		return func(context.Context, string) error { return err }
	}
	deadly := engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "model", "it ended: GGML_ASSERT")
	for name, c := range map[string]struct {
		add  Base
		file []byte
		want error
	}{
		"no name":           {Base{}, good, ErrName},
		"an alias":          {Base{Name: "a@b"}, good, ErrName},
		"an adapter's name": {Base{Name: "poet"}, good, ErrTaken},
		"a worker's own":    {Base{Name: "base"}, good, ErrTaken},
		"text":              {Base{Name: "a"}, []byte(strings.Repeat("hello", 99)), ErrModel},
		"nothing":           {Base{Name: "a"}, nil, ErrModel},
		"cut off":           {Base{Name: "a"}, good[:len(good)-1], ErrModel},
		"an adapter":        {Base{Name: "a"}, smallAdapter.File(t), ErrModel},
		"too long":          {Base{Name: "a", Most: int64(len(good)) - 1}, good, blob.ErrTooLarge},
		"refused by llama":  {Base{Name: "a", Try: says(deadly)}, good, ErrModel},
		"not tried":         {Base{Name: "a", Try: says(io.ErrUnexpectedEOF)}, good, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := r.AddModel(t.Context(), store, c.add, bytes.NewReader(c.file)); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if _, err := r.Resolve("a"); err == nil || stored(t, store) != 1 {
				t.Errorf("it is registered, or kept: %d files are, want the adapter", stored(t, store))
			}
		})
	}
}

// TestNoGGUFAtOnce: of a file that is none, no more is read than the beginning.
func TestNoGGUFAtOnce(t *testing.T) {
	r, store := start(t, queuetest.JetStream(t)), weights(t)
	long := &io.LimitedReader{R: zeros{}, N: 1 << 40}
	if _, err := r.AddModel(t.Context(), store, Base{Name: "a"}, long); !errors.Is(err, ErrModel) || 1<<40-long.N > 1<<20 {
		t.Errorf("%v after %d bytes", err, 1<<40-long.N)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// closed notes that it was.
type closed struct {
	io.Reader
	yes bool
}

func (c *closed) Close() error { c.yes = true; return nil }

// TestAddQuantized: what is made of the file is served, and the file itself is not kept, whatever comes of it.
func TestAddQuantized(t *testing.T) {
	r, store := start(t, queuetest.JetStream(t)), weights(t)
	before, after := enginetest.TinyModel(t, 1), enginetest.TinyModel(t, 2)
	add := func(name string, made []byte, fails error) (Model, *closed, error) {
		file := &closed{Reader: bytes.NewReader(made)}
		q := func(ctx context.Context, digest string) (io.ReadCloser, error) {
			if _, err := store.Stat(ctx, digest); err != nil {
				t.Errorf("it is made of what is not there: %v", err)
			}
			return file, fails
		}
		m, err := r.AddModel(t.Context(), store, Base{Name: name, Quantize: q}, bytes.NewReader(before))
		return m, file, err
	}
	no := errors.New("the format is not known")
	if _, _, err := add("my", after, no); !errors.Is(err, no) || stored(t, store) != 0 {
		t.Errorf("got %v, and %d files are kept", err, stored(t, store))
	}
	if _, file, err := add("my", []byte("GGUF, and no more"), nil); !errors.Is(err, ErrModel) || stored(t, store) != 0 || !file.yes {
		t.Errorf("got %v, and %d files are kept", err, stored(t, store))
	}
	m, file, err := add("my", after, nil)
	if err != nil || !file.yes || m.Source == "" || m.Source == m.Base || m.Size != int64(len(after)) {
		t.Errorf("registered %+v, %v", m, err)
	}
	if _, err := store.Stat(t.Context(), m.Base); err != nil || stored(t, store) != 1 {
		t.Errorf("%v, and %d files are kept", err, stored(t, store))
	}
	if _, err := r.AddModel(t.Context(), store, Base{Name: "whole"}, bytes.NewReader(before)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := add("my", after, nil); err != nil || stored(t, store) != 2 {
		t.Errorf("a file that has a name is gone: %v, %d files are kept", err, stored(t, store))
	}
}
