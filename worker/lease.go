package worker

import (
	"context"
	"slices"
	"time"

	"lorry/result"
)

// renewAtOnce is how many claims one round trip renews.
const renewAtOnce = 256

// holdLeases extends what is held, a third into its lease, and looks at the claims again.
func (w *Worker) holdLeases(ctx context.Context) {
	t := time.NewTicker(w.cfg.Queue.AckWait() / 3)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.extend()
			for part := range slices.Chunk(w.runs(), renewAtOnce) {
				w.renew(part)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (w *Worker) extend() {
	w.mu.Lock()
	ds := make([]*delivery, 0, len(w.leases))
	for d := range w.leases {
		ds = append(ds, d)
	}
	w.mu.Unlock()
	for _, d := range ds {
		if !d.lost.Load() {
			_ = d.lease.Extend()
		}
	}
}

// renew looks at claims again, and stops the runs of those that are lost or over.
func (w *Worker) renew(rs []*run) {
	if len(rs) == 0 {
		return
	}
	hs := make([]*result.Held, len(rs))
	for i, r := range rs {
		hs[i] = r.held
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	fates, err := w.cfg.Results.Renew(ctx, w.cfg.Name, w.cfg.Queue.AckWait(), hs)
	if err != nil {
		w.cfg.Log.Warn().Err(err).Int("claims", len(rs)).Msg("claims not renewed")
		return
	}
	for i, r := range rs {
		switch fates[i] {
		case result.Lost:
			w.halt(r, errLost)
		case result.Over:
			w.halt(r, errOver)
		}
	}
}

// halt stops a run, whether it has begun or not. One whose verdict is being committed is past stopping.
func (w *Worker) halt(r *run, cause error) {
	r.stop(cause)
	if w.slots.drop(r) {
		w.stopped(r, cause)
		w.madeRoom()
	}
}
