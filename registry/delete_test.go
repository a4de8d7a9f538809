package registry

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"lorry/engine/enginetest"
)

func (y *yard) pushModel(name string, seed byte) Model {
	y.t.Helper()
	m, err := y.AddModel(y.t.Context(), y.store, Base{Name: name}, bytes.NewReader(enginetest.TinyModel(y.t, seed)))
	if err != nil {
		y.t.Fatal(err)
	}
	return m
}

func (y *yard) delete(name string) error {
	return y.Delete(y.t.Context(), name, func(Model) error { return nil })
}

// leaves waits until the view shows as many models that leave.
func (y *yard) leaves(n int) []Model {
	y.t.Helper()
	eventually(y.t, "models leave", func() bool { return len(y.Leaving()) == n })
	return y.Leaving()
}

// TestDeletePushedModel follows a model from its deletion to its end: it is served while a job needs it, then its bytes go,
// and its name may stand for another one at any time.
func TestDeletePushedModel(t *testing.T) {
	y := newYard(t)
	m := y.pushModel("my", 1)
	if err := y.delete("my"); err != nil {
		t.Fatal(err)
	}
	if got := y.leaves(1); got[0].Base != m.Base || got[0].Size != m.Size || y.Due() || y.sweep() != 0 || !y.has(m.Base) {
		t.Fatalf("at once: leaving %+v, due %t, kept %t", got, y.Due(), y.has(m.Base))
	}
	if _, err := y.Resolve("my"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it resolves: %v", err)
	}
	y.jobs[m.Base], y.ahead = true, leavingFor
	if !y.Due() || y.sweep() != 0 || !y.has(m.Base) || y.asked != 1 {
		t.Fatalf("due %t, a job needs it, and it is kept: %t", y.Due(), y.has(m.Base))
	}
	second := y.pushModel("my", 2)
	if y.ahead += leavingFor - time.Second; y.sweep() != 0 || y.asked != 1 || len(y.leaves(1)) != 1 {
		t.Error("its jobs were asked for again too early, or it leaves no more")
	}
	delete(y.jobs, m.Base)
	if y.ahead += 2 * time.Second; y.sweep() != 1 || y.has(m.Base) || !y.has(second.Base) {
		t.Errorf("the first is there: %t, the second: %t", y.has(m.Base), y.has(second.Base))
	}
	y.leaves(0)
	eventually(t, "what has gone is not due", func() bool { return !y.Due() })
	if _, marks, err := y.look(); err != nil || len(marks) != 0 {
		t.Errorf("marks are left: %v, %v", marks, err)
	}
}

// TestAskedLessOften: jobs that go on needing a model are looked at less and less often.
func TestAskedLessOften(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct {
		m    mark
		want time.Duration
	}{
		"an adapter": {mark{}, KeptFor},
		"new":        {mark{Model: &Model{}, Left: at.Unix()}, leavingFor},
		"an hour":    {mark{Model: &Model{}, Left: at.Unix() - 3600}, 15 * time.Minute},
		"a month":    {mark{Model: &Model{}, Left: at.Unix() - 30*86400}, KeptFor},
	} {
		if c.m.Since = at.Unix(); c.m.due(at.Add(c.want-time.Second)) || !c.m.due(at.Add(c.want)) {
			t.Errorf("%s: not after %v", name, c.want)
		}
	}
}

// TestPushedAgainWhileLeaving: the same file stays where it is.
func TestPushedAgainWhileLeaving(t *testing.T) {
	y := newYard(t)
	m := y.pushModel("my", 1)
	if err := y.delete("my"); err != nil {
		t.Fatal(err)
	}
	y.leaves(1)
	if again := y.pushModel("other", 1); again.Base != m.Base {
		t.Fatal("it is another file")
	}
	y.leaves(0)
	for range 3 {
		if y.sweep() != 0 || !y.has(m.Base) {
			t.Fatal("it is removed under its new name")
		}
		y.ahead += KeptFor
	}
}

// TestDeleteHeld: a model goes after the adapters that stand on it, and with the last of its names.
func TestDeleteHeld(t *testing.T) {
	y := newYard(t)
	y.pushModel("my", 1)
	y.pushModel("twin", 1)
	add := func(name, on string) (Model, error) {
		return y.AddAdapter(t.Context(), y.store, Adapter{Name: name, Base: on}, y.file(1))
	}
	for _, name := range []string{"poet", "clerk"} {
		if _, err := add(name, "my"); err != nil {
			t.Fatal(err)
		}
	}
	if err := y.delete("twin"); err != nil || len(y.Leaving()) != 0 {
		t.Fatalf("one of two names: %v", err)
	}
	if err := y.delete("my"); !errors.Is(err, ErrHeld) || !strings.HasSuffix(err.Error(), ": clerk, poet") {
		t.Fatalf("got %v", err)
	}
	for _, name := range []string{"poet", "clerk", "my"} {
		if err := y.delete(name); err != nil {
			t.Fatal(err)
		}
	}
	y.leaves(1)
	if _, err := add("poet", "my"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an adapter on what has gone: %v", err)
	}
}

// TestAdapterMeetsDelete: whoever is first, no adapter stands on a model that has gone.
func TestAdapterMeetsDelete(t *testing.T) {
	for name, first := range map[string]bool{"the adapter": true, "the deletion": false} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t)
			y.pushModel("my", 1)
			old := y.push("poet", 7)
			var met error
			try := func(context.Context, Model, string) error {
				if !first {
					met = y.delete("my")
				}
				return nil
			}
			add := func() error {
				_, err := y.AddAdapter(t.Context(), y.store, Adapter{Name: "poet", Base: "my", Try: try}, y.file(1))
				return err
			}
			if first { // behind the look at what is to be deleted
				met = y.Delete(t.Context(), "my", func(m Model) error { return add() })
				if m, err := y.Resolve("poet"); !errors.Is(met, ErrHeld) || err != nil || m.Adapter == old {
					t.Errorf("the deletion got %v, and poet is %+v, %v", met, m, err)
				}
				return
			}
			if err := add(); !errors.Is(err, ErrNotFound) || met != nil {
				t.Errorf("the push got %v, the deletion %v", err, met)
			}
			if m, err := y.Resolve("poet"); err != nil || m.Adapter != old || stored(t, y.store) != 2 {
				t.Errorf("poet is %+v, %v; %d files are kept", m, err, stored(t, y.store))
			}
		})
	}
}

// TestServe: a worker that is late does not bring a name back.
func TestServe(t *testing.T) {
	y := newYard(t)
	m := y.pushModel("my", 1)
	m.Template, m.Context, m.File = other, 128, "my.gguf"
	served := Model{Name: "my", Base: m.Base, Template: other, Context: 128, Runtime: "llama", File: "my.gguf", OwnedBy: "lorry"}
	if err := y.Serve(t.Context(), served); err != nil {
		t.Fatal(err)
	}
	if got, err := y.Resolve("my"); err != nil || !got.same(m) {
		t.Errorf("served, it is %+v, %v", got, err)
	}
	if err := y.delete("my"); err != nil {
		t.Fatal(err)
	}
	if err := y.Serve(t.Context(), served); err != nil {
		t.Fatal(err)
	}
	if _, err := y.Resolve("my"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is back: %v", err)
	}
	second := y.pushModel("my", 2)
	if err := y.Serve(t.Context(), served); err != nil {
		t.Fatal(err)
	}
	if got, err := y.Resolve("my"); err != nil || got.Base != second.Base || got.Context != 0 {
		t.Errorf("the next one is %+v, %v", got, err)
	}
}

// TestRefusedWhileLeaving: a push of a model's file that comes to nothing does not take the file from the jobs that need it.
func TestRefusedWhileLeaving(t *testing.T) {
	y := newYard(t)
	m := y.pushModel("my", 1)
	y.pushModel("taken", 2)
	if err := y.delete("my"); err != nil {
		t.Fatal(err)
	}
	y.jobs[m.Base] = true
	again := bytes.NewReader(enginetest.TinyModel(t, 1))
	if _, err := y.AddModel(t.Context(), y.store, Base{Name: "taken"}, again); !errors.Is(err, ErrTaken) {
		t.Fatalf("got %v", err)
	}
	if !y.has(m.Base) {
		t.Fatal("the refused push took the file away")
	}
	y.ahead = leavingFor
	if y.sweep() != 0 || !y.has(m.Base) || len(y.leaves(1)) != 1 {
		t.Error("it is served no more, and a job needs it")
	}
	delete(y.jobs, m.Base)
	if y.ahead += leavingFor; y.sweep() != 1 || y.has(m.Base) {
		t.Error("it stays")
	}
}

// TestDeleteTwins: whoever deletes the last of two names leaves the model to its jobs, also where both go at once.
func TestDeleteTwins(t *testing.T) {
	y := newYard(t)
	for range 20 {
		m := y.pushModel("my", 1)
		y.pushModel("twin", 1)
		var wg sync.WaitGroup
		for _, name := range []string{"my", "twin"} {
			wg.Go(func() {
				if err := y.delete(name); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		_, marks, err := y.look()
		if got := marks[m.Base]; err != nil || got.Model == nil || got.Since == 0 {
			t.Fatalf("both names are gone, and the marks are %v, %v", marks, err)
		}
		if y.ahead += leavingFor; y.sweep() != 1 {
			t.Fatal("it stays")
		}
	}
}

// TestDisplaced: a worker's own model that takes a pushed one's last name over leaves that one to its jobs.
func TestDisplaced(t *testing.T) {
	y := newYard(t)
	m := y.pushModel("my", 1)
	y.pushModel("twin", 1)
	put := func(name string) {
		t.Helper()
		if err := y.Put(t.Context(), Model{Name: name, Base: other, Runtime: "llama"}); err != nil {
			t.Fatal(err)
		}
	}
	if put("my"); len(y.Leaving()) != 0 {
		t.Error("it has another name")
	}
	if put("twin"); y.leaves(1)[0].Base != m.Base || !y.has(m.Base) {
		t.Errorf("leaving are %+v", y.Leaving())
	}
}
