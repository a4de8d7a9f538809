package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"lorry/blob"
	"lorry/engine"
	"lorry/engine/enginetest"
	"lorry/queue/queuetest"
)

// yard is a registry with a base, a store, and a clock.
type yard struct {
	*Registry
	t     *testing.T
	store blob.Store
	ahead time.Duration
	asked int
	jobs  map[string]bool // adapters of accepted jobs
}

func newYard(t *testing.T) *yard {
	y := &yard{Registry: start(t, queuetest.JetStream(t)), t: t, store: weights(t), jobs: map[string]bool{}}
	y.cfg.Now = func() time.Time { return time.Now().Add(y.ahead) }
	if err := y.Put(t.Context(), Model{Name: "base", Base: base, Runtime: "llama", File: smallBase(t)}); err != nil {
		t.Fatal(err)
	}
	return y
}

func (y *yard) file(seed uint64) io.Reader {
	l := smallAdapter
	l.Seed = seed
	return bytes.NewReader(l.File(y.t))
}

func (y *yard) push(name string, seed uint64) string {
	y.t.Helper()
	m, err := y.AddAdapter(y.t.Context(), y.store, Adapter{Name: name, Base: "base"}, y.file(seed))
	if err != nil {
		y.t.Fatal(err)
	}
	return m.Adapter
}

func (y *yard) sweep() int {
	y.t.Helper()
	n, err := y.Sweep(y.t.Context(), y.store, func(context.Context) (map[string]bool, error) { y.asked++; return y.jobs, nil })
	if err != nil {
		y.t.Fatal(err)
	}
	return n
}

func (y *yard) has(digest string) bool {
	_, err := y.store.Stat(y.t.Context(), digest)
	return err == nil
}

// TestSweep follows an adapter from its name's next one to its end.
func TestSweep(t *testing.T) {
	y := newYard(t)
	first := y.push("poet", 1)
	y.sweep()
	second := y.push("poet", 2)
	for _, ahead := range []time.Duration{0, KeptFor - time.Minute} {
		if y.ahead = ahead; y.sweep() != 0 || !y.has(first) {
			t.Fatalf("%v after its name has gone it is removed", ahead)
		}
	}
	if y.asked != 0 {
		t.Error("the jobs were asked for nothing")
	}
	y.ahead, y.jobs[first] = KeptFor+time.Minute, true
	if y.sweep() != 0 || !y.has(first) || y.asked != 1 {
		t.Fatal("a job needs it, and it is removed")
	}
	delete(y.jobs, first)
	if y.sweep() != 0 || !y.has(first) {
		t.Fatal("it was needed just now")
	}
	y.ahead += KeptFor + time.Minute
	if y.sweep() != 1 || y.has(first) || !y.has(second) {
		t.Errorf("the first is there: %t, the second: %t", y.has(first), y.has(second))
	}
	if _, marks, err := y.look(); err != nil || len(marks) != 0 {
		t.Errorf("marks are left: %v, %v", marks, err)
	}
	if ms := y.List(); len(ms) != 2 {
		t.Errorf("a mark is taken for a model: %+v", ms)
	}
}

func (y *yard) look() (map[string]bool, map[string]mark, error) {
	kv, err := y.bucket(y.t.Context())
	if err != nil {
		return nil, nil, err
	}
	return records(y.t.Context(), kv)
}

// TestSweepSparesNewNames: what gets a name again stays, however old its mark is.
func TestSweepSparesNewNames(t *testing.T) {
	y := newYard(t)
	first := y.push("poet", 1)
	y.push("poet", 2)
	y.sweep()
	y.ahead = KeptFor + time.Minute
	y.push("clerk", 1)
	y.sweep()
	y.ahead *= 3
	y.sweep()
	if !y.has(first) {
		t.Error("it is removed under its new name")
	}
}

// TestSweepOfStrangers: bytes that no record ever knew go too, after their day.
func TestSweepOfStrangers(t *testing.T) {
	y := newYard(t)
	ref, err := y.store.Put(t.Context(), y.file(7), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if y.sweep(); !y.has(ref.Digest) {
		t.Fatal("at once")
	}
	if y.ahead = KeptFor; y.sweep() != 1 || y.has(ref.Digest) {
		t.Error("they are there")
	}
}

// meeting runs something in the middle of a removal: behind the look at the names, in front of the deletion.
type meeting struct {
	blob.Store
	then func()
	once atomic.Bool
}

func (m *meeting) Delete(ctx context.Context, digest string) error {
	if m.once.CompareAndSwap(false, true) {
		m.then()
	}
	return m.Store.Delete(ctx, digest)
}

// TestPushMeetsSweep: a file is never removed from under a push that succeeds.
func TestPushMeetsSweep(t *testing.T) {
	y := newYard(t)
	first := y.push("poet", 1)
	y.push("poet", 2)
	y.sweep()
	y.ahead = KeptFor
	kept := y.store
	again := func() error {
		_, err := y.AddAdapter(t.Context(), kept, Adapter{Name: "clerk", Base: "base"}, y.file(1))
		return err
	}
	var met error
	y.store = &meeting{Store: kept, then: func() { met = again() }}
	if n := y.sweep(); n != 1 || !errors.Is(met, ErrGoing) {
		t.Fatalf("%d removed, and the push got %v", n, met)
	}
	if err := again(); err != nil || !y.has(first) {
		t.Errorf("a moment later: %v", err)
	}
}

// TestTwoPushesOfOneFile, of which one is refused and deletes what it kept: the other does not stand for nothing.
func TestTwoPushesOfOneFile(t *testing.T) {
	y := newYard(t)
	refuse := func(context.Context, Model, string) error { return engine.Errorf(engine.Invalid, "", "", "no") }
	meanwhile := func(ctx context.Context, _ Model, _ string) error {
		_, err := y.AddAdapter(ctx, y.store, Adapter{Name: "b", Base: "base", Try: refuse}, y.file(1))
		if !errors.Is(err, ErrAdapter) {
			t.Errorf("the other got %v", err)
		}
		return nil
	}
	_, err := y.AddAdapter(t.Context(), y.store, Adapter{Name: "a", Base: "base", Try: meanwhile}, y.file(1))
	if m, known := y.Resolve("a"); known == nil && !y.has(m.Adapter) || err != nil && !errors.Is(err, ErrGoing) {
		t.Errorf("a is %+v, and its push got %v", m, err)
	}
}

// TestSweeperDies in the middle: the next sweep ends what it began.
func TestSweeperDies(t *testing.T) {
	y := newYard(t)
	first := y.push("poet", 1)
	y.push("poet", 2)
	y.sweep()
	y.ahead = KeptFor
	ctx, die := context.WithCancel(t.Context())
	dying := &meeting{Store: y.store, then: die}
	if _, err := y.Sweep(ctx, dying, func(context.Context) (map[string]bool, error) { return nil, nil }); err == nil {
		t.Fatal("it did not die")
	}
	y.ahead = 0
	y.sweep()
	if _, marks, err := y.look(); y.has(first) || err != nil || marks[first] != (mark{}) {
		t.Errorf("there: %t; marks %v, %v", y.has(first), marks, err)
	}
	y.push("clerk", 1)
}

// TestTry: an engine's word decides behind the head's check.
func TestTry(t *testing.T) {
	y := newYard(t)
	for name, c := range map[string]struct {
		says, want error
	}{
		"good":     {nil, nil},
		"deadly":   {engine.Errorf(engine.Invalid, "", "", "it ended: GGML_ASSERT"), ErrAdapter},
		"wordless": {engine.Errorf(engine.Unavailable, "", "", "no memory"), engine.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			var tried string
			a := Adapter{Name: name[:4], Base: "base", Try: func(_ context.Context, b Model, digest string) error {
				if tried = digest; b.Base != base || !y.has(digest) {
					t.Errorf("tried %s on %+v", digest, b)
				}
				return c.says
			}}
			_, err := y.AddAdapter(t.Context(), y.store, a, y.file(uint64(len(name))))
			if !errors.Is(err, c.want) || y.has(tried) != (c.want == nil) {
				t.Errorf("got %v, want %v; kept: %t", err, c.want, y.has(tried))
			}
		})
	}
}

// TestMarksAreNoModels: a registry of this version does not list them.
func TestMarksAreNoModels(t *testing.T) {
	js := queuetest.JetStream(t)
	r := start(t, js)
	kv, err := js.KeyValue(t.Context(), Bucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := setMark(t.Context(), kv, base, mark{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Put(t.Context(), Model{Name: "base", Base: base}); err != nil {
		t.Fatal(err)
	}
	later := New(Config{JS: js, Log: zerolog.Nop()})
	w, err := kv.WatchAll(t.Context(), jetstream.IgnoreDeletes())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Stop() }()
	for e := range w.Updates() {
		if e == nil {
			break
		}
		later.see(e)
	}
	if ms := later.List(); len(ms) != 1 {
		t.Errorf("%+v", ms)
	}
}

// TestSweepKeepsModels: a base that was pushed stays as long as its name; one that a worker has is none of the store's.
func TestSweepKeepsModels(t *testing.T) {
	y := newYard(t)
	m, err := y.AddModel(t.Context(), y.store, Base{Name: "my"}, bytes.NewReader(enginetest.TinyModel(t, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n := y.sweep(); n != 0 || stored(t, y.store) != 1 {
			t.Errorf("%d files are removed, %d kept", n, stored(t, y.store))
		}
		y.ahead += KeptFor
	}
	if err := y.Put(t.Context(), Model{Name: "my", Base: other, Runtime: "llama", File: "mine.gguf"}); err != nil {
		t.Fatal(err)
	}
	y.sweep()
	y.ahead += KeptFor
	if n := y.sweep(); n != 1 {
		t.Errorf("%s, which nothing names now, is still there", m.Base)
	}
}

// TestRefusedOverOld: a push that comes to nothing does not take away what was there before, for its jobs.
func TestRefusedOverOld(t *testing.T) {
	y := newYard(t)
	first := y.push("poet", 1)
	y.push("poet", 2)
	y.jobs[first] = true
	try := func(context.Context, Model, string) error { return context.Canceled }
	if _, err := y.AddAdapter(t.Context(), y.store, Adapter{Name: "clerk", Base: "base", Try: try}, y.file(1)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if !y.has(first) {
		t.Fatal("it is gone")
	}
	for range 2 {
		if y.ahead += KeptFor; y.sweep() != 0 || !y.has(first) {
			t.Fatal("it is gone, and a job needs it")
		}
	}
	delete(y.jobs, first)
	if y.ahead += KeptFor; y.sweep() != 1 || y.has(first) {
		t.Error("it stays")
	}
}
