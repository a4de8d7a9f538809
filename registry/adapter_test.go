package registry

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorry/blob"
	"lorry/engine/enginetest"
	"lorry/engine/gguf"
	"lorry/queue/queuetest"
)

// smallBase is the head and weights of a base of one layer that LoRA{Layers: 1, Width: 8, KV: 8, Rank: 2} fits.
func smallBase(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	weight := func(name string) gguf.Tensor {
		return gguf.Tensor{Name: "blk.0." + name + ".weight", Shape: [4]int64{8, 8, 1, 1}, Type: gguf.F32}
	}
	err := gguf.Write(&b, []gguf.Setting{{Key: "general.architecture", Kind: gguf.String, Value: "llama"}},
		[]gguf.Tensor{weight("attn_q"), weight("attn_v")}, func(int) []byte { return make([]byte, 8*8*4) })
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "base.gguf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func weights(t *testing.T) blob.Store {
	t.Helper()
	d, err := blob.OpenDir(blob.DirConfig{Dir: t.TempDir(), MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func stored(t *testing.T, s blob.Store) (n int) {
	t.Helper()
	for _, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

var smallAdapter = enginetest.LoRA{Layers: 1, Width: 8, KV: 8, Rank: 2}

func TestAddAdapter(t *testing.T) {
	r, store := start(t, queuetest.JetStream(t)), weights(t)
	m := Model{Name: "base", Base: base, Template: other, Context: 2048, Runtime: "llama", File: smallBase(t)}
	if err := r.Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	add := func(name string, seed uint64) Model {
		l := smallAdapter
		l.Seed = seed
		got, err := r.AddAdapter(t.Context(), store, Adapter{Name: name, Base: "base"}, bytes.NewReader(l.File(t)))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := add("poet", 1)
	got, err := r.Resolve("poet")
	if err != nil || got.Base != base || got.Template != other || got.Context != 2048 || got.Adapter != first.Adapter || !blob.Valid(got.Adapter) {
		t.Errorf("%+v, %v", got, err)
	}
	if again := add("poet", 1); again.Adapter != first.Adapter || stored(t, store) != 1 {
		t.Errorf("the same adapter again is %+v", again)
	}
	if second := add("poet", 2); second.Adapter == first.Adapter {
		t.Error("another adapter has the digest of the first")
	}
	if now, _ := r.Resolve("poet"); now.Adapter == first.Adapter || stored(t, store) != 2 {
		t.Error("the name still stands for the first, or its bytes are gone before its jobs")
	}
}

func TestAddAdapterRefuses(t *testing.T) {
	r, store := start(t, queuetest.JetStream(t)), weights(t)
	far := Model{Name: "far", Base: other, Runtime: "llama", File: "/on/another/host.gguf"}
	for _, m := range []Model{{Name: "base", Base: base, Runtime: "llama", File: smallBase(t)}, far, {Name: "echo", Base: other, Runtime: "echo"}} {
		if err := r.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	good := smallAdapter.File(t)
	wide := smallAdapter
	wide.Width = 16
	if _, err := r.AddAdapter(t.Context(), store, Adapter{Name: "there", Base: "far"}, bytes.NewReader(good)); err != nil {
		t.Error(err) // its shapes are looked at where the base is
	}
	for name, c := range map[string]struct {
		add  Adapter
		file []byte
		want error
	}{
		"no name":         {Adapter{Base: "base"}, good, ErrName},
		"an alias":        {Adapter{Name: "a@b", Base: "base"}, good, ErrName},
		"no such base":    {Adapter{Name: "a", Base: "gpt"}, good, ErrNotFound},
		"on an adapter":   {Adapter{Name: "a", Base: "there"}, good, ErrBase},
		"another engine":  {Adapter{Name: "a", Base: "echo"}, good, ErrBase},
		"a base's name":   {Adapter{Name: "far", Base: "base"}, good, ErrTaken},
		"text":            {Adapter{Name: "a", Base: "base"}, []byte(strings.Repeat("hello", 99)), ErrAdapter},
		"nothing":         {Adapter{Name: "a", Base: "base"}, nil, ErrAdapter},
		"a base":          {Adapter{Name: "a", Base: "far"}, read(t, smallBase(t)), ErrAdapter},
		"of another base": {Adapter{Name: "a", Base: "base"}, wide.File(t), ErrAdapter},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := r.AddAdapter(t.Context(), store, c.add, bytes.NewReader(c.file)); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if _, err := r.Resolve("a"); err == nil {
				t.Error("it was registered")
			}
			if n := stored(t, store); n != 1 {
				t.Errorf("%d files are kept, want the good one", n)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.AddAdapter(ctx, store, Adapter{Name: "a", Base: "base"}, bytes.NewReader(good)); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that hangs up: %v", err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
