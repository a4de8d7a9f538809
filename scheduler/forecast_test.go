package scheduler

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"lorry/access"
	"lorry/batch"
	"lorry/result"
)

func TestMeter(t *testing.T) {
	var m meter
	at := t0
	tick := func(work float64, waits bool) bool {
		m.add(work)
		at = at.Add(time.Second)
		return m.tick(at, waits)
	}
	for range 10 {
		if tick(0, false) {
			t.Error("an idle second counts")
		}
	}
	for i := range 2 {
		if tick(50, true); m.rate() != 0 {
			t.Errorf("a rate after %d s", i)
		}
	}
	tick(50, false) // nothing is left, but it has ended in this second
	if m.rate() != 50 {
		t.Errorf("%g a second", m.rate())
	}
	for range 100 { // a night without batches
		tick(0, false)
	}
	if tick(50, true); m.rate() != 50 {
		t.Errorf("%g a second after a night", m.rate())
	}
	for range 2 * paceWindow {
		tick(10, true)
	}
	if m.rate() != 10 {
		t.Errorf("%g a second, later", m.rate())
	}
}

func TestFinish(t *testing.T) {
	for name, c := range map[string]struct {
		own    load
		others []load
		want   float64 // seconds at 10 a second
	}{
		"alone":                 {load{100, 1}, nil, 10},
		"beside an equal one":   {load{100, 1}, []load{{100, 1}}, 20},
		"beside a long one":     {load{100, 1}, []load{{1e9, 1}}, 20},
		"beside a short one":    {load{100, 1}, []load{{10, 1}}, 11},
		"with three shares":     {load{300, 3}, []load{{1e9, 1}}, 40},
		"with a third":          {load{100, 1}, []load{{1e9, 2}}, 30},
		"a short and long ones": {load{100, 1}, []load{{10, 1}, {1e9, 1}, {1e9, 1}}, 31},
	} {
		t.Run(name, func(t *testing.T) {
			if got := finish(c.own, c.others, 10).Seconds(); math.Abs(got-c.want) > 1e-6 {
				t.Errorf("%g s, want %g", got, c.want)
			}
		})
	}
}

// near says whether a unix second is about so long from now, on a machine that may be slow.
func near(at int64, d time.Duration) bool {
	return time.Until(time.Unix(at, 0).Add(-d)).Abs() < 2*time.Minute
}

// TestForecast: at the speed measured lately, behind what goes first; null where there is none.
func TestForecast(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	first := p.await(p.create(inputOf(100)).ID, batch.InProgress)
	if first.Forecast != 0 || first.Work < 100*18 || first.Work > 100*30 { // 16 of an answer, and a short line
		t.Errorf("before anything was measured: %+v", first)
	}
	ok(t, p.s.PutSpeed(t.Context(), testBase, result.Speed{At: time.Now().UnixMilli(), Work: float64(first.Work) / 600}))
	second := p.await(p.create(inputOf(100)).ID, batch.InProgress)
	if second.Work != first.Work || !near(second.Forecast, 20*time.Minute) {
		t.Errorf("behind one of ten minutes: %s", time.Until(time.Unix(second.Forecast, 0)))
	}
	urgent := p.await(p.create(inputOf(100), func(w *batch.CreateBatch) { w.Priority = 5 }).ID, batch.InProgress)
	if !near(urgent.Forecast, 10*time.Minute) {
		t.Errorf("before the others: %s", time.Until(time.Unix(urgent.Forecast, 0)))
	}
	_, err := p.batches.Pause(t.Context(), "acme", first.ID)
	ok(t, err)
	third := p.await(p.create(inputOf(100)).ID, batch.InProgress)
	if !near(third.Forecast, 30*time.Minute) { // the second, the urgent one, its own
		t.Errorf("past a paused one: %s", time.Until(time.Unix(third.Forecast, 0)))
	}
}

func TestRefuseLate(t *testing.T) {
	p := newPlant(t)
	p.refuseLate = true
	p.schedule()
	hour := func(w *batch.CreateBatch) { w.Window = time.Hour }
	first := p.await(p.create(inputOf(100), hour).ID, batch.InProgress) // nothing measured: never refused
	ok(t, p.s.PutSpeed(t.Context(), testBase, result.Speed{Work: float64(first.Work) / 1200}))
	fits := p.await(p.create(inputOf(100), hour).ID, batch.InProgress)
	if !near(fits.Forecast, 40*time.Minute) {
		t.Errorf("forecast %s", time.Until(time.Unix(fits.Forecast, 0)))
	}
	b := p.await(p.create(inputOf(150), hour).ID, batch.Failed)
	at := func(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
	if len(b.Errors) != 1 || b.Errors[0].Code != "completion_window_too_short" || b.Errors[0].Line != 0 || b.Errors[0].Param != "completion_window" ||
		!strings.Contains(b.Errors[0].Message, at(b.ExpiresAt)) || strings.Count(b.Errors[0].Message, "Z") != 2 {
		t.Errorf("errors: %+v", b.Errors)
	}
	p.closed(b)
	longer := p.await(p.create(inputOf(150)).ID, batch.InProgress)
	if !near(longer.Forecast, 70*time.Minute) {
		t.Errorf("in a day: %s", time.Until(time.Unix(longer.Forecast, 0)))
	}
}

func TestEnqueuedTokens(t *testing.T) {
	p := newPlant(t)
	p.settings(access.Settings{})
	p.schedule()
	first := p.await(p.create(inputOf(10)).ID, batch.InProgress)
	limit := int(2*first.Work) + 1
	p.settings(access.Settings{EnqueuedTokens: limit})
	p.await(p.create(inputOf(10)).ID, batch.InProgress)
	b := p.await(p.create(inputOf(10)).ID, batch.Failed)
	want := fmt.Sprintf("Enqueued token limit reached for m in organization acme. Limit: %d enqueued tokens. Please try again once some in_progress batches have been completed.", limit)
	if len(b.Errors) != 1 || b.Errors[0] != (batch.LineError{Code: "token_limit_exceeded", Message: want}) {
		t.Errorf("errors: %+v", b.Errors)
	}
	p.closed(b)
	_, err := p.batches.Cancel(t.Context(), "acme", first.ID)
	ok(t, err)
	p.await(first.ID, batch.Cancelled)
	p.await(p.create(inputOf(10)).ID, batch.InProgress)
}

// TestEnqueuedTokensAtOnce: of batches that are created at the same moment, as many begin as the bound allows, whichever
// scheduler admits them.
func TestEnqueuedTokensAtOnce(t *testing.T) {
	p := newPlant(t)
	p.settings(access.Settings{})
	stop := p.schedule()
	first := p.await(p.create(inputOf(10)).ID, batch.InProgress)
	stop()
	p.settings(access.Settings{EnqueuedTokens: int(3 * first.Work)})
	var ids []string
	for range 8 {
		ids = append(ids, p.create(inputOf(10)).ID)
	}
	p.schedule()
	p.schedule()
	began := 0
	for _, id := range ids {
		eventually(t, "the end of "+id+"'s validation", func() bool { return p.get(id).Status != batch.Validating })
		if p.get(id).Status == batch.InProgress {
			began++
		}
	}
	if began != 2 {
		t.Errorf("%d batches began beside the one that runs; the bound allows 2", began)
	}
}

// TestSpeedIsMeasured: a batch that runs leaves a speed for those that come.
func TestSpeedIsMeasured(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	p.work()
	p.create(inputOf(3000))
	eventually(t, "a speed", func() bool {
		p.alive()
		s, err := p.s.Speed(t.Context(), testBase)
		if s.Work == 0 && p.live() == 0 { // the machine was quicker
			p.create(inputOf(3000))
		}
		return err == nil && s.Work > 0
	})
	b := p.create(inputOf(10))
	eventually(t, "a forecast", func() bool { return p.get(b.ID).Forecast > 0 })
	if s, err := p.s.Speed(t.Context(), "another base"); err != nil || s.Work != 0 {
		t.Errorf("a speed of nothing: %+v %v", s, err)
	}
}

// live counts acme's batches that are not over.
func (p *plant) live() (n int) {
	bs, _, err := p.batches.List(p.t.Context(), "acme", batch.BatchFilter{Limit: 100})
	ok(p.t, err)
	for _, b := range bs {
		if !b.Status.Terminal() {
			n++
		}
	}
	return n
}
