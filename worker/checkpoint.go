package worker

import (
	"context"
	"time"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// keepEvery is between looks at what runs have told. Engines tell seldom (engine.SaveDue), so most looks find nothing, and
// what they find goes in one round trip.
const keepEvery = 100 * time.Millisecond

// from is how far the run has come in earlier turns, here or elsewhere; nil to start over. A run under suspicion starts
// over: what it would go on from may be what ends the engine.
func (r *run) from() *engine.Resume {
	if r.solo || r.held.Crashes > 0 {
		return nil
	}
	if s := r.saved.Load(); s != nil {
		return s
	}
	return r.held.Resume
}

// keepCheckpoints writes down how far the runs have come, for whoever goes on when this worker vanishes.
func (w *Worker) keepCheckpoints(ctx context.Context) {
	t := time.NewTicker(keepEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.keep()
		case <-ctx.Done():
			return
		}
	}
}

// keep writes what is new.
func (w *Worker) keep() {
	var fresh []result.Checkpoint
	for _, r := range w.runs() {
		if s := r.saved.Load(); s != nil && r.kept.Swap(s) != s {
			fresh = append(fresh, result.Checkpoint{Job: r.held.Job, Resume: s})
		}
	}
	if len(fresh) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.cfg.Results.Keep(ctx, fresh...); err != nil {
		w.cfg.Log.Warn().Err(err).Int("runs", len(fresh)).Msg("no checkpoints written: the next ones will be")
	}
}

// dropKept forgets the checkpoints of runs that are over.
func (w *Worker) dropKept(rs ...*run) {
	var jobs []*queue.Job
	for _, r := range rs {
		if r.kept.Load() != nil || r.held.Resume != nil {
			jobs = append(jobs, r.held.Job)
		}
	}
	if len(jobs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.cfg.Results.DropKept(ctx, jobs...); err != nil {
		w.cfg.Log.Debug().Err(err).Int("runs", len(jobs)).Msg("checkpoints stay until their time is over")
	}
}

// handOver says how far a run has come that the next owner of its delivery goes on with; nil to start over.
func (r *run) handOver() *engine.Resume {
	s := r.from()
	if s != nil {
		handedTotal.Inc()
	}
	return s
}

// drawn counts the tokens of a turn that ended without an answer, as far as the next turn goes on from them.
func (r *run) drawn() { tokensTotal.Add(float64(max(0, r.from().Tokens()-r.resumed))) }
