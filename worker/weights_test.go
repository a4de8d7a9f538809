package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"lorry/blob"
	"lorry/engine"
	"lorry/engine/echo"
	"lorry/queue"
)

// counted is a store that counts what is opened, holds it up while wait is open, and may fail.
type counted struct {
	blob.Store
	opened atomic.Int64
	wait   chan struct{}
	err    error
}

func (c *counted) Open(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	c.opened.Add(1)
	<-c.wait
	if c.err != nil {
		return nil, c.err
	}
	return c.Store.Open(ctx, digest)
}

func adapterStore(t *testing.T) *counted {
	t.Helper()
	d, err := blob.OpenDir(blob.DirConfig{Dir: t.TempDir(), MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	c := &counted{Store: d, wait: make(chan struct{})}
	close(c.wait)
	return c
}

func newWeights(t *testing.T, store blob.Store) (*Weights, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "adapters")
	a, err := NewWeights(WeightsConfig{Store: store, Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

// inside are the files of a folder, but for the lock.
func inside(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	ok(t, err)
	for _, f := range files {
		if f.Name() != ".lock" {
			names = append(names, f.Name())
		}
	}
	return names
}

// TestAdapterIsTried before it comes into the folder; what is refused is not tried at every request.
func TestAdapterIsTried(t *testing.T) {
	deadly := engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "model", "it ended: GGML_ASSERT")
	for name, c := range map[string]struct {
		says, want error
		tries      int
	}{
		"good":          {nil, nil, 1},
		"refused":       {deadly, deadly, 1},
		"not now":       {io.ErrUnexpectedEOF, engine.ErrUnavailable, 3},
		"no room ahead": {engine.Errorf(engine.Unavailable, "", "", "no process"), engine.ErrUnavailable, 3},
	} {
		t.Run(name, func(t *testing.T) {
			store := adapterStore(t)
			ref, err := store.Put(t.Context(), strings.NewReader("weights"), 0, nil)
			ok(t, err)
			a, dir := newWeights(t, store)
			tries := 0
			a.cfg.Try = func(_ context.Context, file string) error {
				tries++
				if b, err := os.ReadFile(file); string(b) != "weights" || len(inside(t, dir)) != 1 {
					t.Errorf("it is asked about %q, %v, when the folder holds %v", b, err, inside(t, dir))
				}
				return c.says
			}
			for range 3 {
				if err := a.need(t.Context(), ref.Digest); !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			}
			if tries != c.tries || slices.Contains(inside(t, dir), ref.Digest) != (c.want == nil) {
				t.Errorf("tried %d times, and the folder holds %v", tries, inside(t, dir))
			}
		})
	}
}

// TestRefusalEnds: the next one may come to another end.
func TestRefusalEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := refusal{at: time.Now()}
		if time.Sleep(refusedFor - time.Second); !r.stands() {
			t.Error("it ended early")
		}
		if time.Sleep(2 * time.Second); r.stands() {
			t.Error("it stands")
		}
	})
}

// TestAdaptersSweep removes what is unnamed, and was not needed for a day.
func TestAdaptersSweep(t *testing.T) {
	store := adapterStore(t)
	a, dir := newWeights(t, store)
	put := func(text string, age time.Duration) string {
		ref, err := store.Put(t.Context(), strings.NewReader(text), 0, nil)
		ok(t, err)
		ok(t, a.need(t.Context(), ref.Digest))
		ok(t, os.Chtimes(filepath.Join(dir, ref.Digest), time.Time{}, time.Now().Add(-age)))
		return ref.Digest
	}
	old, named, young, needed := put("old", unusedFor+time.Hour), put("named", unusedFor+time.Hour), put("young", unusedFor-time.Hour), put("needed", unusedFor+time.Hour)
	ok(t, a.need(t.Context(), needed))
	for file, age := range map[string]time.Duration{fetching + "dead": unusedFor + time.Hour, fetching + "alive": 0, "a-note": unusedFor + time.Hour} {
		path := filepath.Join(dir, file)
		ok(t, os.WriteFile(path, nil, 0o600))
		ok(t, os.Chtimes(path, time.Time{}, time.Now().Add(-age)))
	}
	n, err := a.Sweep(func(digest string) bool { return digest == named })
	want := []string{named, young, needed, fetching + "alive", "a-note"}
	got := inside(t, dir)
	slices.Sort(want)
	slices.Sort(got)
	if err != nil || n != 2 || !slices.Equal(got, want) {
		t.Errorf("%d removed, %v; left %v, want %v", n, err, got, want)
	}
	opened := store.opened.Load()
	ok(t, a.need(t.Context(), old))
	if store.opened.Load() != opened+1 {
		t.Error("it was not fetched again")
	}
}

// TestAdapterIsFetchedOnce: all who need it wait for one copy, which is there for the next.
func TestAdapterIsFetchedOnce(t *testing.T) {
	store := adapterStore(t)
	body := bytes.Repeat([]byte("weights"), 100_000)
	ref, err := store.Put(t.Context(), bytes.NewReader(body), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	store.wait = make(chan struct{})
	a, dir := newWeights(t, store)
	impatient, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 8 {
		ctx := t.Context()
		if i == 0 {
			ctx = impatient
		}
		wg.Go(func() { _ = a.need(ctx, ref.Digest) })
	}
	leave()
	close(store.wait)
	wg.Wait()
	_ = a.need(t.Context(), ref.Digest)
	got, err := os.ReadFile(filepath.Join(dir, ref.Digest))
	if err != nil || !bytes.Equal(got, body) || store.opened.Load() != 1 {
		t.Errorf("%d bytes of %d, %v; opened %d times", len(got), len(body), err, store.opened.Load())
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".fetch-*"))
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAdapterThatCannotBeFetched(t *testing.T) {
	missing := strings.Repeat("a", 64)
	for name, c := range map[string]struct {
		digest string
		spoil  func(t *testing.T, s *counted, digest string)
		want   error
	}{
		"no digest":     {"../x", nil, engine.ErrNotFound},
		"not stored":    {missing, nil, engine.ErrNotFound},
		"store is away": {missing, func(_ *testing.T, s *counted, _ string) { s.err = io.ErrUnexpectedEOF }, engine.ErrUnavailable},
		"damaged": {"", func(t *testing.T, s *counted, digest string) {
			s.Store = other{s.Store}
		}, &engine.Error{Class: engine.Internal}},
	} {
		t.Run(name, func(t *testing.T) {
			store := adapterStore(t)
			ref, err := store.Put(t.Context(), strings.NewReader("weights"), 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.digest == "" {
				c.digest = ref.Digest
			}
			if c.spoil != nil {
				c.spoil(t, store, c.digest)
			}
			a, dir := newWeights(t, store)
			if err := a.need(t.Context(), c.digest); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if left := inside(t, dir); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestJobWithoutItsAdapter: it fails at once, in words that help; the worker goes on.
func TestJobWithoutItsAdapter(t *testing.T) {
	r := newRoad(t, 0)
	e, err := echo.New(echo.Config{})
	ok(t, err)
	t.Cleanup(func() { _ = e.Close() })
	a, _ := newWeights(t, adapterStore(t))
	r.start(e, func(c *Config) { c.Adapters = a })
	lost := r.job("lost", "one two")
	lost.Request.Model.Adapter = strings.Repeat("a", 64)
	r.feed(1, lost, r.job("plain", "three four"))
	v := r.wait("lost")
	if v.State != queue.Failed || v.Error.Class != engine.NotFound || !strings.Contains(v.Error.Message, "lorry model push") {
		t.Errorf("%+v, %v", v, v.Error)
	}
	if v := r.wait("plain"); v.State != queue.Succeeded {
		t.Errorf("%+v", v)
	}
}

// other gives other bytes than were asked for.
type other struct{ blob.Store }

func (o other) Open(context.Context, string) (io.ReadSeekCloser, error) {
	return readSeekCloser{strings.NewReader("something else")}, nil
}

type readSeekCloser struct{ *strings.Reader }

func (readSeekCloser) Close() error { return nil }

// TestWeightsAreLinked: a file of the same disk is not there twice, and outlives the store's own.
func TestWeightsAreLinked(t *testing.T) {
	store := adapterStore(t).Store
	ref, err := store.Put(t.Context(), strings.NewReader("weights"), 0, nil)
	ok(t, err)
	dir := t.TempDir()
	a, err := NewWeights(WeightsConfig{What: "model", Store: store, Dir: dir, Log: zerolog.Nop()})
	ok(t, err)
	ok(t, a.Fetch(t.Context(), ref.Digest))
	st, err := os.Stat(filepath.Join(dir, ref.Digest))
	ok(t, err)
	if sys, _ := st.Sys().(*syscall.Stat_t); sys.Nlink != 2 {
		t.Errorf("it has %d names, want 2", sys.Nlink)
	}
	ok(t, store.Delete(t.Context(), ref.Digest))
	if b, err := os.ReadFile(filepath.Join(dir, ref.Digest)); err != nil || string(b) != "weights" {
		t.Errorf("%q, %v", b, err)
	}
	ok(t, a.Drop(ref.Digest, func(string) bool { return true }))
	for range 2 {
		ok(t, a.Drop(ref.Digest, func(string) bool { return false }))
	}
	if left := inside(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := a.Fetch(t.Context(), ref.Digest); !errors.Is(err, engine.ErrNotFound) || !strings.Contains(err.Error(), "the model "+ref.Digest+" is not stored") {
		t.Errorf("got %v", err)
	}
}

// TestWeightsTellHowFarTheyAre now and then, not at each write.
func TestWeightsTellHowFarTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []int64
		p := &progress{say: func(done int64) { said = append(said, done) }, last: time.Now()}
		for range 5 {
			_, _ = p.Write(make([]byte, 100))
			time.Sleep(progressEvery / 2)
		}
		if !slices.Equal(said, []int64{300, 500}) {
			t.Errorf("said %v", said)
		}
	})
}
