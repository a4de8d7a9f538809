package scheduler

import (
	"context"
	"errors"
	"sync"
	"time"

	"lorry/batch"
	"lorry/queue"
)

const (
	// batchLook is between looks at what is to be done for batches, when nothing is heard of them.
	batchLook = 500 * time.Millisecond
	// batchesAtOnce is how many batches this process validates or closes at the same time: each reads a whole file.
	batchesAtOnce = 2
	// stopTime is how long lines that run may take to stop. Then their batch is closed without them.
	stopTime = 30 * time.Second
	stopPoll = 20 * time.Millisecond
)

// keeper takes batches through their states: all but the feeding, which is the dispatchers'. Any number of them may run:
// a step is taken under the batch's lease, and each is a compare-and-set.
type keeper struct {
	*Scheduler
	leases *leases
	places chan struct{}

	mu    sync.Mutex
	busy  map[string]bool
	after map[string]time.Time // do nothing before
	wg    sync.WaitGroup
}

// keepBatches runs until ctx ends.
func (s *Scheduler) keepBatches(ctx context.Context) error {
	ls, err := openLeases(ctx, s.cfg.Queue.JS(), s.cfg.Queue.Replicas(), s.cfg.Instance, s.leaseTTL)
	if err != nil {
		return err
	}
	k := &keeper{Scheduler: s, leases: ls, places: make(chan struct{}, batchesAtOnce), busy: map[string]bool{}, after: map[string]time.Time{}}
	defer k.wg.Wait()
	k.wg.Go(func() { k.cfg.Batches.Watch(ctx, k.batches.see) })
	news, stop := s.batches.listen()
	defer stop()
	tick := time.NewTicker(batchLook)
	defer tick.Stop()
	for {
		select {
		case <-news:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		k.look(ctx)
	}
}

// look begins what is to be done, as far as there are places.
func (k *keeper) look(ctx context.Context) {
	for _, b := range k.batches.all() {
		if k.next(b) == nil || !k.enter(b.ID) {
			continue
		}
		k.wg.Go(func() {
			defer k.leave(b.ID)
			k.hold(ctx, b)
		})
	}
}

// enter takes a place for a batch; false if there is none, or it has one.
func (k *keeper) enter(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[id] || time.Now().Before(k.after[id]) {
		return false
	}
	select {
	case k.places <- struct{}{}:
	default:
		return false
	}
	k.busy[id] = true
	delete(k.after, id)
	return true
}

func (k *keeper) leave(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.busy, id)
	<-k.places
}

// later puts a batch off: another one holds it, or something failed.
func (k *keeper) later(id string, d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.after[id] = time.Now().Add(d)
}

// hold takes a batch's lease and does what is to be done.
func (k *keeper) hold(ctx context.Context, b batch.Batch) {
	name := "batch." + b.ID
	revision, ok, err := k.leases.take(ctx, name)
	if err != nil || !ok {
		k.later(b.ID, time.Second)
		return
	}
	k.leases.keep(ctx, name, revision, func(ctx context.Context) {
		err := k.advance(ctx, b)
		switch {
		case errors.Is(err, errOthersTurn):
			k.later(b.ID, batchLook/5)
		case err != nil && ctx.Err() == nil:
			k.cfg.Log.Warn().Err(err).Str("batch", b.ID).Str("tenant", b.Tenant).Msg("batch does not advance for now")
			k.later(b.ID, time.Second)
		}
	})
}

// advance takes step after step while there is one.
func (k *keeper) advance(ctx context.Context, b batch.Batch) error {
	for ctx.Err() == nil {
		fresh, err := k.cfg.Batches.Fresh(ctx, b.Tenant, b.ID)
		if err != nil {
			return err
		}
		k.batches.see(fresh)
		do := k.next(fresh)
		if do == nil {
			return nil
		}
		start := time.Now()
		after, err := do(ctx, fresh)
		if err != nil {
			return err
		}
		k.batches.see(after)
		k.cfg.Log.Info().Str("batch", b.ID).Str("tenant", b.Tenant).Str("status", string(after.Status)).Int("lines", after.Counts.Total).
			Dur("took", time.Since(start)).Msg("batch advanced")
	}
	return nil
}

type batchStep func(context.Context, batch.Batch) (batch.Batch, error)

// next is what is to be done for a batch now; nil is nothing.
func (k *keeper) next(b batch.Batch) batchStep {
	switch {
	case b.Status == batch.Validating:
		return k.validate
	case b.Status == batch.Finalizing:
		return k.finish(batch.Completed)
	case b.Status == batch.Cancelling:
		return k.stop(queue.Cancelled, batch.Cancelled)
	case b.Late(time.Now()):
		return k.stop(queue.Expired, batch.Expired)
	case b.Status.Terminal() && !b.Announced:
		return k.cfg.Batches.Announce
	case k.cfg.Batches.Purgeable(b):
		return k.cfg.Batches.Purge
	}
	return nil
}

func (k *keeper) validate(ctx context.Context, b batch.Batch) (after batch.Batch, err error) {
	err = k.alone(ctx, b, func(ctx context.Context) error {
		after, err = moved(k.cfg.Batches.Validate(ctx, b, k.cfg.Lines.Resolve, k.admit))
		return err
	})
	return after, err
}

// errOthersTurn is a step that waits for another batch's.
var errOthersTurn = errors.New("scheduler: another batch's turn")

// alone runs a batch's validation while none of its tenant's others is under way, if the tenant's enqueued tokens are
// bounded: the bound holds only where each sees those that were admitted before it.
func (k *keeper) alone(ctx context.Context, b batch.Batch, do func(context.Context) error) error {
	if (settings{k.cfg.Access}).of(b.Tenant).EnqueuedTokens == 0 {
		return do(ctx)
	}
	// Each batch is a holder of its own: two of this process exclude each other too.
	ls, name := k.leases.by(k.leases.holder+" "+b.ID), "admit."+b.Tenant
	revision, ok, err := ls.take(ctx, name)
	if err != nil {
		return err
	}
	if !ok {
		return errOthersTurn
	}
	ls.keep(ctx, name, revision, func(ctx context.Context) {
		if err = k.refresh(ctx, b.Tenant); err == nil {
			err = do(ctx)
		}
	})
	return err
}

// refresh looks at a tenant's batches as they are now: others' steps may not have been heard of yet.
func (k *keeper) refresh(ctx context.Context, tenant string) error {
	all, err := k.cfg.Batches.All(ctx, tenant)
	for _, b := range all {
		k.batches.see(b)
	}
	return err
}

func (k *keeper) finish(to batch.Status) batchStep {
	return func(ctx context.Context, b batch.Batch) (batch.Batch, error) {
		return moved(k.cfg.Batches.Finish(ctx, b, to))
	}
}

// stop ends what runs of a batch, then closes it.
func (k *keeper) stop(how queue.State, to batch.Status) batchStep {
	return func(ctx context.Context, b batch.Batch) (batch.Batch, error) {
		k.quiet(ctx, b, how)
		return k.finish(to)(ctx, b)
	}
}

// quiet waits until no line of the batch runs, or long enough. Claims are refused from the start; a result that comes later
// is not seen by anybody.
func (k *keeper) quiet(ctx context.Context, b batch.Batch, how queue.State) {
	if b.Lines == "" {
		return
	}
	var told time.Time
	for end := time.Now().Add(stopTime); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, stopPoll) {
		if time.Since(told) > time.Second { // hints may be lost
			told = time.Now()
			if k.cfg.Results.StopBatch(ctx, b.Tenant, b.ID, string(how)) != nil {
				told = time.Time{}
				continue
			}
		}
		if c, err := k.cfg.Batches.Counts(ctx, b); err == nil && c.Running == 0 {
			return
		}
	}
}

// moved passes over that somebody else has moved the batch on: the next step looks where it stands.
func moved(b batch.Batch, err error) (batch.Batch, error) {
	if _, ok := errors.AsType[*batch.StatusError](err); ok {
		err = nil
	}
	return b, err
}
