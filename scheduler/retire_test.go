package scheduler

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"lorry/engine"
	"lorry/queue"
	"lorry/registry"
)

// TestRetire: a base is dispatched as long as a model, a worker or a job needs it.
func TestRetire(t *testing.T) {
	p, models, sc := newRetiring(t)
	sc.retireEvery = 20 * time.Millisecond
	if sc.named("none") != true {
		t.Error("what is not known yet is nobody's")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = models.Run(ctx) })
	<-models.Ready()

	digest := func(s string) string { return strings.Repeat(s, 64/len(s)) }
	orphan, named, waited := digest("0a"), digest("0b"), digest("0c")
	ok(t, models.Put(t.Context(), registry.Model{Name: "m", Base: named}))
	ok(t, models.Put(t.Context(), registry.Model{Name: "default", Base: digest("0123456789abcdef")}))
	ok(t, p.q.Submit(t.Context(), &queue.Job{V: queue.V, ID: "job_waits", Tenant: "acme", Lane: queue.Flex, Created: 1, Request: engine.Request{Model: engine.Model{Base: waited}}}))
	for _, b := range []string{orphan, named, waited} {
		ok(t, p.q.SetupBase(t.Context(), b[:12]))
	}
	wg.Go(func() { _ = sc.Run(ctx) })
	left := func() []string {
		bases, err := p.q.Bases(t.Context())
		ok(t, err)
		slices.Sort(bases)
		return bases
	}
	eventually(t, "the orphan is retired", func() bool { return !slices.Contains(left(), orphan[:12]) })
	for b, want := range map[string]bool{named: false, waited: false, orphan: true} {
		if got, err := sc.orphan(t.Context(), b[:12]); got != want || err != nil {
			t.Errorf("%s is an orphan: %t, %v", b[:12], got, err)
		}
	}
	if got := left(); !slices.Contains(got, named[:12]) || !slices.Contains(got, waited[:12]) {
		t.Errorf("left are %v", got)
	}
}

// TestRetireMeetsJob: a job that came behind the look is dispatched all the same.
func TestRetireMeetsJob(t *testing.T) {
	p, models, sc := newRetiring(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = models.Run(ctx) })
	<-models.Ready()
	var err error
	sc.fleet, err = queue.WatchFleet(ctx, p.q.Conn())
	ok(t, err)
	base := strings.Repeat("0d", 32)
	ok(t, p.q.SetupBase(t.Context(), base[:12]))
	ok(t, p.q.Submit(t.Context(), &queue.Job{V: queue.V, ID: "job_late", Tenant: "acme", Lane: queue.Flex, Created: 1, Request: engine.Request{Model: engine.Model{Base: base}}}))
	sc.retire(ctx, base[:12])
	if bases, err := p.q.Bases(t.Context()); err != nil || !slices.Contains(bases, base[:12]) {
		t.Errorf("the bases with consumers are %v, %v", bases, err)
	}
}

// newRetiring is a scheduler that knows of models, and is not started.
func newRetiring(t *testing.T) (*plant, *registry.Registry, *Scheduler) {
	t.Helper()
	p := newPlant(t)
	models := registry.New(registry.Config{JS: p.q.JS(), Log: zerolog.Nop()})
	ok(t, models.Setup(t.Context()))
	sc, err := New(Config{Queue: p.q, Results: p.s, Batches: p.batches, Files: p.files, Lines: testLines{}, Models: models, Log: zerolog.Nop()})
	ok(t, err)
	return p, models, sc
}
