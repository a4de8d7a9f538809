package worker

import (
	"context"
	"time"

	"lorry/result"
)

// ending is a verdict on its way to RESULTS, and the run that waits for it.
type ending struct {
	v *result.Verdict
	r *run
}

// end hands a verdict to the settler.
func (w *Worker) end(r *run, v *result.Verdict) { w.settling <- &ending{v, r} }

const (
	// maxSettle is the most verdicts of one commit.
	maxSettle = 512
	// settlePause is between tries while NATS or Redis is away; the leases are held on meanwhile.
	settlePause = 200 * time.Millisecond
)

// settle commits, projects and acknowledges in groups: what ends while two commits are under way goes with the next.
func (w *Worker) settle(ctx context.Context) {
	inFlight := make(chan struct{}, 2)
	for {
		select {
		case e := <-w.settling:
			inFlight <- struct{}{}
			group := w.gather(e)
			go func() { defer func() { <-inFlight }(); w.settleGroup(ctx, group) }()
		case <-ctx.Done():
			for range cap(inFlight) {
				inFlight <- struct{}{}
			}
			return
		}
	}
}

func (w *Worker) gather(first *ending) []*ending {
	group := []*ending{first}
	for len(group) < maxSettle {
		select {
		case e := <-w.settling:
			group = append(group, e)
		default:
			return group
		}
	}
	return group
}

// settleGroup tries until every verdict stands, or the worker ends: then the leases run out, and another worker finds
// what was committed.
func (w *Worker) settleGroup(ctx context.Context, group []*ending) {
	for {
		group = w.settleOnce(group)
		if len(group) == 0 {
			return
		}
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
			return
		}
	}
}

// settleOnce returns those that do not stand yet.
func (w *Worker) settleOnce(group []*ending) (left []*ending) {
	vs := make([]*result.Verdict, len(group))
	for i, e := range group {
		vs[i] = e.v
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stood, err := w.cfg.Results.Settle(ctx, vs...)
	if err != nil {
		w.cfg.Log.Warn().Err(err).Int("verdicts", len(vs)).Msg("commit failed, trying again")
	}
	var over []*run
	for i, e := range group {
		if stood[i] == nil {
			left = append(left, e)
			continue
		}
		over = append(over, e.r)
		jobsTotal.WithLabelValues(string(e.v.Lane), string(stood[i].State)).Inc()
		w.release(e.r)
	}
	w.dropKept(over...)
	return left
}

// parting is how a run is given up without a verdict.
type parting int

const (
	handBack parting = iota // queued again, without an attempt spent: the delivery comes again
	movedOn                 // queued again elsewhere: LATER holds it
	isOver                  // it has a verdict of another's
	isLost                  // another claim has it
)

// giveUp ends a run without a verdict.
func (w *Worker) giveUp(r *run, how parting) {
	switch how {
	case handBack:
		r.d.again.Store(true)
		w.unclaim(result.Release{Held: r.held, GiveBack: true, Saved: r.handOver()})
	case movedOn:
		w.unclaim(result.Release{Held: r.held})
		w.dropKept(r)
	case isOver:
		w.dropKept(r)
	case isLost:
		r.d.lost.Store(true)
	}
	w.release(r)
}

func (w *Worker) unclaim(r result.Release) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.cfg.Results.Release(ctx, r); err != nil {
		w.cfg.Log.Warn().Err(err).Str("job", r.Job.ID).Msg("claim not given back: it runs out by itself")
	}
}

// release forgets a run. The delivery's last one ends the delivery: acknowledged when each of its jobs has a committed
// record or is held elsewhere, else handed back, or left alone when the lease is another's.
func (w *Worker) release(r *run) {
	w.mu.Lock()
	delete(w.held, r)
	w.mu.Unlock()
	r.stop(errOver)
	if r.d.left.Add(-1) > 0 {
		return
	}
	switch {
	case r.d.lost.Load():
	case r.d.again.Load():
		_ = r.d.lease.Return()
	default:
		_ = r.d.lease.Ack()
	}
	w.mu.Lock()
	delete(w.leases, r.d)
	w.mu.Unlock()
}
