// Package worker runs jobs and commits their outcome before it acknowledges them.
//
// The order is the guarantee: (redelivered? look into RESULTS) → claim → run, looking at the claim again at each
// heartbeat → commit, where the first one wins → project → acknowledge. See DESIGN section 3.
//
// A job runs from the moment when the engine begins it. Until then it waits: here, or in an engine that is given jobs
// ahead of its slots.
package worker

import (
	"cmp"
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// Config of a worker. Queue, Results and Engine are required.
type Config struct {
	// Name is unique in the fleet. Empty: made of the host's name and a random part.
	Name    string
	Queue   *queue.Queue
	Results *result.Store
	Engine  engine.Engine
	// Adapters are fetched before the engine needs them. Nil: it has its own.
	Adapters *Weights
	// Slots is how many jobs run at the same moment; the engine says how many may wait in it. 0: what the engine says.
	Slots int
	// MaxAttempts is how often a job may fail by the engine's fault. 0: 3.
	MaxAttempts int
	// Grace is how long Run may go on after its context has ended: most of it for jobs to finish, the last quarter (5 s at
	// most) to hand over those that don't. 0: 30 s.
	Grace time.Duration
	// Devices samples the accelerators; note says why there are none. Nil: no devices.
	Devices func() (devices []queue.Device, note string)
	// Crashes counts ends of the engine's process. Nil: it has none.
	Crashes func() int
	Log     zerolog.Logger
}

// Worker pulls deliveries, holds their leases, and runs their jobs in the slots of one engine.
type Worker struct {
	cfg   Config
	info  engine.Info
	bases []string
	slots *slots
	rates *rates
	fleet *queue.Fleet

	settling  chan *ending
	pulled    chan struct{} // news for the pullers: room was made
	started   time.Time
	hard      context.Context // ends when running jobs must stop
	cancelAll context.CancelCauseFunc

	mu       sync.Mutex
	held     map[*run]struct{}
	leases   map[*delivery]struct{}
	draining bool
	sick     time.Time // pull nothing before then: the engine is away
	sickFor  time.Duration
}

// New asks the engine what it serves.
func New(ctx context.Context, c Config) (*Worker, error) {
	info, err := c.Engine.Info(ctx)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	c.Name = cmp.Or(c.Name, queue.NewID(subjectToken(host)+"-"))
	c.Slots = cmp.Or(c.Slots, info.Slots, 1)
	c.MaxAttempts = cmp.Or(c.MaxAttempts, 3)
	c.Grace = cmp.Or(c.Grace, 30*time.Second)
	if c.Devices == nil {
		c.Devices = func() ([]queue.Device, string) { return nil, "" }
	}
	if c.Crashes == nil {
		c.Crashes = func() int { return 0 }
	}
	w := &Worker{cfg: c, info: info, slots: newSlots(c.Slots, info.Ahead), rates: newRates(), settling: make(chan *ending, 4096),
		pulled: make(chan struct{}, 1), started: time.Now(), held: map[*run]struct{}{}, leases: map[*delivery]struct{}{}}
	seen := map[string]bool{}
	for _, m := range info.Models {
		if b := m.B(); !seen[b] {
			seen[b], w.bases = true, append(w.bases, b)
		}
	}
	return w, nil
}

// subjectToken is s with what a NATS subject's token may not hold replaced.
func subjectToken(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c <= ' ' || c == '.' || c == '*' || c == '>' || c >= 0x7f {
			b[i] = '-'
		}
	}
	return cmp.Or(string(b), "worker")
}

// Name is the worker's own.
func (w *Worker) Name() string { return w.cfg.Name }

// Run works until ctx ends, then drains: it pulls no more, hands back what has not begun, finishes what it can within
// the grace, and hands the rest over: another worker goes on where it stands. It returns nil when nothing is held any more.
func (w *Worker) Run(ctx context.Context) error {
	life, end := context.WithCancel(context.Background())
	defer end()
	w.hard, w.cancelAll = context.WithCancelCause(context.Background())
	defer w.cancelAll(engine.ErrHandOver)
	fleet, err := queue.WatchFleet(life, w.cfg.Queue.Conn())
	if err != nil {
		return err
	}
	w.fleet = fleet
	cancels, err := w.cfg.Queue.Conn().Subscribe(queue.CancelSubject("*"), w.onCancel)
	if err != nil {
		return err
	}
	defer func() { _ = cancels.Unsubscribe() }()

	var keep, pull sync.WaitGroup
	peeks, err := w.cfg.Queue.Conn().Subscribe(queue.PeekSubject(w.cfg.Name), w.onPeek)
	if err != nil {
		return err
	}
	defer func() { _ = peeks.Unsubscribe() }()

	for _, loop := range []func(context.Context){w.beat, w.holdLeases, w.settle, w.keepCheckpoints, w.watchLoop} {
		keep.Go(func() { loop(life) })
	}
	for _, b := range w.bases {
		for _, l := range queue.Lanes {
			pull.Go(func() { w.pull(ctx, l, b) })
		}
	}
	w.cfg.Log.Info().Str("worker", w.cfg.Name).Int("slots", w.cfg.Slots).Str("device", w.info.Device).Msg("worker takes work")
	<-ctx.Done()
	pull.Wait()
	w.drain()
	end()
	keep.Wait()
	w.sayGoodbye()
	return nil
}

// drain ends what is held.
func (w *Worker) drain() {
	w.mu.Lock()
	w.draining = true
	n := len(w.held)
	w.mu.Unlock()
	w.cfg.Log.Info().Str("worker", w.cfg.Name).Int("held", n).Dur("grace", w.cfg.Grace).Msg("worker drains")
	for _, r := range w.slots.takeWaiting() {
		w.giveUp(r, handBack)
	}
	if !w.emptyWithin(w.cfg.Grace - min(w.cfg.Grace/4, 5*time.Second)) {
		w.cancelAll(engine.ErrHandOver)
		w.emptyWithin(w.cfg.Queue.AckWait())
	}
}

// emptyWithin waits until no delivery is held.
func (w *Worker) emptyWithin(d time.Duration) bool {
	t, end := time.NewTicker(10*time.Millisecond), time.After(d)
	defer t.Stop()
	for {
		w.mu.Lock()
		n := len(w.leases)
		w.mu.Unlock()
		if n == 0 {
			return true
		}
		select {
		case <-t.C:
		case <-end:
			return false
		}
	}
}

// onCancel looks at claims again when a hint says that their job, or their batch, was cancelled.
func (w *Worker) onCancel(m *nats.Msg) {
	id := m.Subject[len(queue.CancelSubject("")):]
	var rs []*run
	for _, r := range w.runs() {
		if r.held.Job.ID == id || r.held.Job.Batch == id {
			rs = append(rs, r)
		}
	}
	w.renew(rs)
}

func (w *Worker) runs() []*run {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]*run, 0, len(w.held))
	for r := range w.held {
		out = append(out, r)
	}
	return out
}

// Causes that end a run, or its stay in the engine.
var (
	errLost    = errors.New("the claim is another's now")
	errOver    = errors.New("the job is over")
	errExpired = errors.New("the job's deadline has passed")
	errCalled  = errors.New("the job is called back from the engine")
)
