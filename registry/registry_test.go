package registry

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, js jetstream.JetStream) *Registry {
	t.Helper()
	r := New(Config{JS: js, Log: zerolog.Nop()})
	if err := r.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-r.Ready():
	case <-time.After(2 * time.Minute):
		t.Fatal("the registry is not ready")
	}
	return r
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

var base, other = strings.Repeat("ab", 32), strings.Repeat("cd", 32)

func TestPutAndResolve(t *testing.T) {
	js := queuetest.JetStream(t)
	here, there := start(t, js), start(t, js)
	m := Model{Name: "smollm2", Base: base, Context: 2048, Runtime: "llama", File: "smollm2.gguf"}
	if err := here.Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got, err := here.Resolve("smollm2") // at once
	if want := (engine.Model{Name: "smollm2", Base: base}); err != nil || got.Engine() != want || got.Created == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	eventually(t, "the model is known elsewhere", func() bool { _, err := there.Resolve("smollm2"); return err == nil })
	m.Base = other
	if err := there.Put(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new base is known here", func() bool { g, _ := here.Resolve("smollm2"); return g.Base == other })
	if g, _ := here.Resolve("smollm2"); g.Created != got.Created {
		t.Error("an update changed when the model was created")
	}
}

func TestPutOfTheSameWritesNothing(t *testing.T) {
	js := queuetest.JetStream(t)
	r := start(t, js)
	m := Model{Name: "echo", Base: base}
	for range 3 {
		if err := r.Put(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	kv, _ := js.KeyValue(t.Context(), Bucket)
	e, err := kv.Get(t.Context(), "model.echo")
	if err != nil || e.Revision() != 1 {
		t.Errorf("revision %d, %v; want 1", e.Revision(), err)
	}
}

func TestManyWorkersRegisterTheSameModel(t *testing.T) {
	js := queuetest.JetStream(t)
	r := start(t, js)
	errs := make(chan error, 16)
	for i := range 16 {
		go func() {
			errs <- r.Put(context.Background(), Model{Name: "echo", Base: base, File: strconv.Itoa(i % 3)})
		}()
	}
	for range 16 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := r.List(); len(got) != 1 {
		t.Errorf("%d models", len(got))
	}
}

func TestOnlyWhatExistsResolves(t *testing.T) {
	r := start(t, queuetest.JetStream(t))
	for _, n := range []string{"llama", "llama:8b", "org/model-1.5"} {
		if err := r.Put(t.Context(), Model{Name: n, Base: base}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]error{
		"llama": nil, "llama:8b": nil, "org/model-1.5": nil,
		"llama:70b": ErrNotFound, "llama@prod": ErrNotFound, "gpt": ErrNotFound, "org": ErrNotFound, "LLAMA": ErrNotFound,
		"": ErrName, "llama:": ErrName, "llama@": ErrName, "a b": ErrName, "../x": ErrName, "a:b:c": ErrName, "a:b@c": ErrName, "model.>": ErrName, "a\x00": ErrName,
		strings.Repeat("x", 129): ErrName,
	} {
		if _, err := r.Resolve(name); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", name, err, want)
		}
	}
	var names []string
	for _, m := range r.List() {
		names = append(names, m.Name)
	}
	if got := strings.Join(names, " "); got != "llama llama:8b org/model-1.5" {
		t.Errorf("list: %s", got)
	}
}

func TestResolveBeforeTheBucketIsRead(t *testing.T) {
	if _, err := New(Config{}).Resolve("echo"); !errors.Is(err, ErrNotReady) {
		t.Errorf("got %v: an unread bucket must not look like one without the model", err)
	}
}

func TestBadModelsAreRefused(t *testing.T) {
	r := New(Config{JS: queuetest.JetStream(t)})
	if err := r.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		m    Model
		want error
	}{
		"no name":           {Model{Base: base}, ErrName},
		"an alias":          {Model{Name: "a@b", Base: base}, ErrName},
		"no base":           {Model{Name: "a"}, ErrDigest},
		"short base":        {Model{Name: "a", Base: base[1:]}, ErrDigest},
		"upper case":        {Model{Name: "a", Base: strings.ToUpper(base)}, ErrDigest},
		"bad adapter":       {Model{Name: "a", Base: base, Adapter: "x"}, ErrDigest},
		"a subject's stars": {Model{Name: "a.*", Base: base}, ErrName},
	} {
		if err := r.Put(t.Context(), c.m); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if err := r.Put(t.Context(), Model{Name: "a", Base: base, Context: -1}); err == nil {
		t.Error("a negative context was accepted")
	}
}

func TestDeletedModelResolvesNoMore(t *testing.T) {
	js := queuetest.JetStream(t)
	r := start(t, js)
	if err := r.Put(t.Context(), Model{Name: "a", Base: base}); err != nil {
		t.Fatal(err)
	}
	kv, _ := js.KeyValue(t.Context(), Bucket)
	if err := kv.Delete(t.Context(), "model.a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the model is gone", func() bool { _, err := r.Resolve("a"); return errors.Is(err, ErrNotFound) })
	if err := r.Put(t.Context(), Model{Name: "a", Base: other}); err != nil {
		t.Fatal(err)
	}
	if m, err := r.Resolve("a"); err != nil || m.Base != other {
		t.Errorf("registered again: %+v, %v", m, err)
	}
}

// TestDelete: a name that may go goes at once here, and soon elsewhere; what stands for it can be registered again.
func TestDelete(t *testing.T) {
	js := queuetest.JetStream(t)
	r, elsewhere := start(t, js), start(t, js)
	adapter := Model{Name: "a", Base: base, Adapter: other}
	if err := r.Put(t.Context(), adapter); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the model is known elsewhere", func() bool { _, err := elsewhere.Resolve("a"); return err == nil })
	no := errors.New("not yours")
	if err := r.Delete(t.Context(), "a", func(m Model) error { return no }); !errors.Is(err, no) {
		t.Errorf("refused: %v", err)
	}
	if m, err := r.Resolve("a"); err != nil || m.Adapter != other {
		t.Errorf("behind a refusal: %+v %v", m, err)
	}
	if err := r.Delete(t.Context(), "a", func(m Model) error {
		if m.Adapter == other { // somebody is quicker: what stands then is asked about
			adapter.Adapter = base
			return elsewhere.Put(t.Context(), adapter)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted, and still resolved: %v", err)
	}
	eventually(t, "the model is gone elsewhere", func() bool { _, err := elsewhere.Resolve("a"); return errors.Is(err, ErrNotFound) })
	for name, want := range map[string]error{"a": ErrNotFound, "never": ErrNotFound, "a b": ErrName} {
		if err := r.Delete(t.Context(), name, func(Model) error { return nil }); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
	if err := r.Put(t.Context(), adapter); err != nil {
		t.Fatal(err)
	}
	if m, err := r.Resolve("a"); err != nil || m.Adapter != base {
		t.Errorf("registered again: %+v %v", m, err)
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"smollm2", "a:b", "a@b", "org/a.b-c_d", ":", "a..b", "a//b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			return
		}
		if n.String() != s {
			t.Errorf("%q parsed to %+v", s, n)
		}
		if k := n.key(); strings.ContainsAny(k, ":@*> \x00") || strings.Contains(k, "..") || strings.HasSuffix(k, ".") {
			t.Errorf("%q has the bad key %q", s, k)
		}
	})
}
