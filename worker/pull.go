package worker

import (
	"context"
	"sync/atomic"
	"time"

	"lorry/queue"
	"lorry/result"
)

const (
	// minLookahead is how many jobs beyond the slots any worker may hold; a fast one holds what it ends in lookaheadTime,
	// since each pull and claim is a round trip.
	minLookahead  = 64
	lookaheadTime = 100 * time.Millisecond
	// maxLookahead is the most: a worker that dies holds them until their lease runs out.
	maxLookahead = 1024
	// pullWait is how long a pull stands open for a first delivery.
	pullWait = time.Second
	// errorPause is between tries while NATS or Redis is away.
	errorPause = 200 * time.Millisecond
	// suspectAfter owners that vanished whole, without a crash note, a job runs alone.
	suspectAfter = 2
)

// delivery is one held lease and what is left of its jobs.
type delivery struct {
	lease *queue.Lease
	left  atomic.Int32
	// again is set when a job must run again: the delivery is handed back, not acknowledged.
	again atomic.Bool
	// lost is set when the lease is another's: it is left alone.
	lost atomic.Bool
}

// pull takes deliveries of one lane and base while there is room.
func (w *Worker) pull(ctx context.Context, l queue.Lane, b string) {
	p := w.cfg.Queue.Puller(l, b)
	perDelivery := 1.0 // jobs a delivery, a moving mean
	ready := 0         // deliveries, as of the last pull
	for ctx.Err() == nil {
		room := w.room(int(float64(ready)*perDelivery) / max(1, w.workers(b)))
		if room <= 0 {
			w.awaitRoom(ctx)
			continue
		}
		ls, err := p.Pull(ctx, max(1, int(float64(room)/perDelivery)), pullWait)
		if err != nil {
			w.cfg.Log.Warn().Err(err).Str("lane", string(l)).Msg("pull failed")
			pause(ctx, errorPause)
			continue
		}
		if len(ls) == 0 {
			ready = 0
			continue
		}
		ready = ls[len(ls)-1].Behind
		n := 0
		for _, d := range ls {
			n += len(d.Jobs)
		}
		perDelivery += (float64(n)/float64(len(ls)) - perDelivery) / 4
		w.take(ls)
	}
}

// workers is how many serve the base.
func (w *Worker) workers(b string) (n int) {
	for _, h := range w.fleet.Workers() {
		for _, x := range h.Bases {
			if x == b {
				n++
			}
		}
	}
	return n
}

// room is how many more jobs may be claimed: free slots first, and a look-ahead, so that a slot never waits for a round
// trip. share is this worker's part of the jobs that are ready.
func (w *Worker) room(share int) int {
	w.mu.Lock()
	sick := time.Now().Before(w.sick)
	w.mu.Unlock()
	if sick {
		return 0
	}
	running, waiting := w.slots.counts()
	ahead := min(share, lookahead(w.rates.jobsPerSecond()))
	if free := w.cfg.Slots - running - waiting; free > 0 {
		return max(free, ahead)
	}
	return min(max(w.cfg.Slots, ahead), maxLookahead) - waiting
}

// lookahead is how many jobs a worker that ends so many a second may hold beyond its slots.
func lookahead(jobsPerSecond float64) int {
	return min(max(minLookahead, int(jobsPerSecond*lookaheadTime.Seconds())), maxLookahead)
}

// awaitRoom waits for a job to end, or a moment.
func (w *Worker) awaitRoom(ctx context.Context) {
	select {
	case <-w.pulled:
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
}

func (w *Worker) madeRoom() {
	select {
	case w.pulled <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// take claims pulled deliveries and queues what is to run. Where claims can't be made, the deliveries go back: that
// costs no attempt.
func (w *Worker) take(ls []*queue.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, l := range ls {
		if l.Deliveries > 1 {
			if err := w.cfg.Results.ProjectCommitted(ctx, l.Jobs); err != nil {
				w.refuse(ls, err)
				return
			}
		}
	}
	cs, err := w.cfg.Results.Claim(ctx, w.cfg.Name, w.cfg.Queue.AckWait(), ls)
	if err != nil {
		w.refuse(ls, err)
		return
	}
	for i, l := range ls {
		w.hold(l, cs[i])
	}
	w.begin()
}

func (w *Worker) refuse(ls []*queue.Lease, err error) {
	w.cfg.Log.Warn().Err(err).Int("deliveries", len(ls)).Msg("no claims: handed back")
	for _, l := range ls {
		_ = l.Return()
	}
	time.Sleep(errorPause)
}

// hold begins to keep a delivery's lease. One with nothing to run is acknowledged: a committed record, or another
// delivery that holds the job, was in sight.
func (w *Worker) hold(l *queue.Lease, c result.Claims) {
	if len(c.Run) == 0 {
		_ = l.Ack()
		return
	}
	d := &delivery{lease: l}
	d.left.Store(int32(len(c.Run)))
	w.mu.Lock()
	w.leases[d] = struct{}{}
	w.mu.Unlock()
	for _, h := range c.Run {
		w.enqueue(newRun(w.hard, h, d))
	}
}

// enqueue queues a run for a slot, unless it ends here: its deadline is past, or its attempts are used up.
func (w *Worker) enqueue(r *run) {
	w.mu.Lock()
	w.held[r] = struct{}{}
	w.mu.Unlock()
	j := r.held.Job
	switch {
	case j.Expired(time.Now()):
		w.end(r, w.expired(r))
	case r.held.Crashes >= maxSoloCrashes:
		w.bury(r, "its runs alone kept ending the engine's process")
	case r.held.Attempt > w.cfg.MaxAttempts+2*suspectAfter:
		w.bury(r, "its workers kept vanishing")
	default:
		r.solo = r.solo || r.held.Crashes > 0 || r.held.Attempt-len(j.History) > suspectAfter
		w.slots.add(r)
	}
}

// begin starts what the slots allow.
func (w *Worker) begin() {
	for _, r := range w.slots.next() {
		go w.run(r)
	}
}
