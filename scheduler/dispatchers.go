package scheduler

import (
	"context"
	"errors"
	"sync"
	"time"

	"lorry/result"
)

// lookEvery is between looks for new bases, free leases and a lost Redis.
const lookEvery = 250 * time.Millisecond

// dispatch runs a dispatcher for each base whose lease is free, until ctx ends.
func (s *Scheduler) dispatch(ctx context.Context) error {
	ls, err := openLeases(ctx, s.cfg.Queue.JS(), s.cfg.Queue.Replicas(), s.cfg.Instance, s.leaseTTL)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex
	mine := map[string]bool{}
	for ctx.Err() == nil {
		bases, err := s.cfg.Queue.Bases(ctx)
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn().Err(err).Msg("no look at the bases")
		}
		for _, b := range bases {
			mu.Lock()
			has := mine[b]
			mu.Unlock()
			if has {
				continue
			}
			revision, ok, err := ls.take(ctx, "dispatch."+b)
			if err != nil || !ok {
				continue
			}
			mu.Lock()
			mine[b] = true
			mu.Unlock()
			wg.Go(func() {
				ls.keep(ctx, "dispatch."+b, revision, func(ctx context.Context) { s.dispatchBase(ctx, b) })
				mu.Lock()
				delete(mine, b)
				mu.Unlock()
			})
		}
		pause(ctx, lookEvery)
	}
	return nil
}

// dispatchBase dispatches until ctx ends, or the base is retired.
func (s *Scheduler) dispatchBase(ctx context.Context, b string) {
	work, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	orphan := false
	wg.Go(func() {
		if orphan = s.awaitOrphan(work, b); orphan {
			stop()
		}
	})
	s.runDispatcher(work, b)
	stop()
	wg.Wait()
	if orphan && ctx.Err() == nil {
		s.retire(ctx, b)
	}
}

func (s *Scheduler) runDispatcher(ctx context.Context, b string) {
	s.cfg.Log.Info().Str("base", b).Msg("dispatching")
	d := newDispatcher(b, s.cfg.Queue, s.cfg.Results, s.fleet, s.tenants(), s.batches, s.cfg.Log)
	if err := d.run(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Log.Error().Err(err).Str("base", b).Msg("dispatcher ended")
	}
}

// guardEpoch fills a Redis that was lost from the streams. Meanwhile producers answer 503. Several schedulers may do so
// at once: replay is without effect on what is known.
func (s *Scheduler) guardEpoch(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.cfg.Results.Ready(ctx); errors.Is(err, result.ErrEpoch) {
			s.replay(ctx)
		}
		pause(ctx, lookEvery)
	}
	return nil
}

func (s *Scheduler) replay(ctx context.Context) {
	start := time.Now()
	n, err := s.cfg.Results.Replay(ctx)
	switch {
	case err == nil:
		s.cfg.Log.Info().Int("messages", n).Dur("took", time.Since(start)).Msg("redis filled from the streams")
	case ctx.Err() == nil:
		s.cfg.Log.Error().Err(err).Msg("replay failed, trying again")
	}
}
