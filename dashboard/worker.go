package dashboard

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"lorry/access"
	"lorry/engine"
	"lorry/queue"
)

// askWorker bounds one look at a worker's engine, which waits for its step.
const askWorker = 800 * time.Millisecond

type workerData struct {
	shell
	Status  status
	Workers []workerView // one, or none that speaks
	Loop    loopView
}

// loopView is what an engine's loop was at when it was asked.
type loopView struct {
	*engine.Snapshot
	Scope scope
	Note  string // why there is none
}

// Used and Kept are the shares of the cells that sequences at work and ended ones hold.
func (v loopView) Used() float64 { return v.share(v.Cells.Busy) }
func (v loopView) Kept() float64 { return v.share(v.Cells.Idle) }

func (v loopView) share(cells int) float64 { return float64(cells) / max(float64(v.Cells.All), 1) }

// timing is a part of a step's time.
type timing struct {
	Name    string
	Seconds float64 // of the last step
	Mean    float64 // of all
	Share   float64 // of all steps' time
}

// Timings are the parts of the steps' time, in their order.
func (v loopView) Timings() []timing {
	last, all, steps := v.Last.Parts, v.Totals.Parts, max(float64(v.Totals.Steps), 1)
	out := []timing{{"Plan", last.Plan, all.Plan, 0}, {"Compute", last.Compute, all.Compute, 0}, {"Draw", last.Draw, all.Draw, 0}, {"Settle", last.Settle, all.Settle, 0}}
	for i := range out {
		out[i].Share = out[i].Mean / max(all.Sum(), 1e-9)
		out[i].Mean /= steps
	}
	return append(out, timing{"Step", last.Sum(), all.Sum() / steps, 1})
}

// worker is the page of one worker, for those who may see everybody's jobs.
func (d *Dashboard) worker(w http.ResponseWriter, r *http.Request, p access.Principal) {
	sc, err := on(pageWorker, r, p)
	if err != nil {
		d.badAddress(w, r, err)
		return
	}
	s := d.fleet(r.Context())
	one := d.oneWorker(s, sc)
	if len(one) == 0 {
		d.problem(w, r, http.StatusNotFound, "No worker of that name has spoken in the last seconds.")
		return
	}
	d.write(w, http.StatusOK, "worker", workerData{shell: d.shell(sc.worker, sc, p, s), Status: d.status(r.Context(), s, sc), Workers: one, Loop: d.loop(r.Context(), sc)})
}

func (d *Dashboard) oneWorker(s snapshot, sc scope) []workerView {
	return slices.DeleteFunc(d.workers(s, sc), func(w workerView) bool { return w.Worker != sc.worker })
}

func (d *Dashboard) loop(ctx context.Context, sc scope) loopView {
	ctx, cancel := context.WithTimeout(ctx, askWorker)
	defer cancel()
	loop, err := queue.PeekAt(ctx, d.cfg.Queue.Conn(), sc.worker)
	v := loopView{Snapshot: loop, Scope: sc}
	switch {
	case errors.Is(err, queue.ErrNoLoop):
		v.Note = err.Error()
	case err != nil:
		v.Note = "the worker does not answer"
	}
	return v
}

func (d *Dashboard) renderWorker(ctx context.Context, sc scope, out sections) {
	d.put(out, "loop", d.loop(ctx, sc))
	d.put(out, "workers", d.oneWorker(d.fleet(ctx), sc))
}

// micros is a time with the unit that suits it.
func micros(seconds float64) string {
	switch {
	case seconds < 0.001:
		return strconv.FormatFloat(seconds*1e6, 'f', 0, 64) + " µs"
	case seconds < 1:
		return strconv.FormatFloat(seconds*1e3, 'f', 1, 64) + " ms"
	}
	return strconv.FormatFloat(seconds, 'f', 2, 64) + " s"
}
