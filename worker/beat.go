package worker

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"time"

	"lorry/queue"
)

// beatEvery is between heartbeats.
const beatEvery = time.Second

// beat tells the fleet how this worker does.
func (w *Worker) beat(ctx context.Context) {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		h := w.heartbeat()
		b, _ := json.Marshal(h)
		_ = w.cfg.Queue.Conn().Publish(queue.FleetSubject(w.cfg.Name), b)
		observe(h)
		select {
		case <-t.C:
			w.rates.tick()
		case <-ctx.Done():
			return
		}
	}
}

func (w *Worker) heartbeat() queue.Heartbeat {
	host, _ := os.Hostname()
	ds, note := w.cfg.Devices()
	w.rates.power(ds)
	running, waiting := w.slots.counts()
	w.mu.Lock()
	draining := w.draining
	w.mu.Unlock()
	h := queue.Heartbeat{V: queue.V, Worker: w.cfg.Name, Host: host, PID: os.Getpid(), Started: w.started, At: time.Now(), Bases: w.bases,
		Engine: w.info.Version + " on " + w.info.Device, Slots: w.cfg.Slots, Busy: running, Held: running + waiting, Draining: draining,
		Devices: ds, DeviceNote: note, Crashes: w.cfg.Crashes()}
	for _, m := range w.info.Models {
		h.Models = append(h.Models, m.Name)
	}
	h.TokensPerSecond, h.JobsPerSecond, h.QueueWait = w.rates.last()
	return h
}

// sayGoodbye leaves the fleet: a heartbeat without slots.
func (w *Worker) sayGoodbye() {
	h := w.heartbeat()
	h.Slots, h.Draining = 0, true
	b, _ := json.Marshal(h)
	_ = w.cfg.Queue.Conn().Publish(queue.FleetSubject(w.cfg.Name), b)
}

// rateWindow is over how many heartbeats rates are taken.
const rateWindow = 10

// rates counts over the last window.
type rates struct {
	mu    sync.Mutex
	cells [rateWindow]cell
	at    int
	full  int // cells that count
	watt  float64
}

type cell struct {
	tokens, jobs, begun int
	wait                time.Duration
}

func newRates() *rates { return &rates{full: 1} }

func (r *rates) tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = (r.at + 1) % rateWindow
	r.cells[r.at] = cell{}
	r.full = min(r.full+1, rateWindow)
}

func (r *rates) began(wait time.Duration) {
	queueWait.Observe(wait.Seconds())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cells[r.at].begun++
	r.cells[r.at].wait += max(0, wait)
}

func (r *rates) ended(tokens int) {
	tokensTotal.Add(float64(tokens))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cells[r.at].jobs++
	r.cells[r.at].tokens += tokens
}

// last is tokens and jobs a second, and the mean wait of what began.
func (r *rates) last() (tokens, jobs float64, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum cell
	for _, c := range r.cells {
		sum = cell{sum.tokens + c.tokens, sum.jobs + c.jobs, sum.begun + c.begun, sum.wait + c.wait}
	}
	secs := float64(r.full) * beatEvery.Seconds()
	if sum.begun > 0 {
		wait = sum.wait / time.Duration(sum.begun)
	}
	return float64(sum.tokens) / secs, float64(sum.jobs) / secs, wait
}

// jobsPerSecond is last's, alone.
func (r *rates) jobsPerSecond() float64 {
	_, jobs, _ := r.last()
	return jobs
}

func (r *rates) power(ds []queue.Device) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watt = 0
	for _, d := range ds {
		r.watt += d.PowerWatts
	}
}

func (r *rates) watts() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.watt
}
