package queue

import (
	"context"
	"encoding/json"
	"sort"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Device is one accelerator, as NVML says, or the CPU that stands in for it.
type Device struct {
	Index int    `json:"index"`
	UUID  string `json:"uuid,omitempty"`
	Name  string `json:"name"`
	// Utilization is the share of the last sample period in which a kernel ran, 0 to 1 (of the CPU: of all cores).
	Utilization float64 `json:"utilization"`
	MemoryUsed  uint64  `json:"memory_used"`  // bytes
	MemoryTotal uint64  `json:"memory_total"` // bytes
	PowerWatts  float64 `json:"power_watts,omitempty"`
	Celsius     float64 `json:"celsius,omitempty"`
	// Joules is the energy since the driver was loaded; 0 where it isn't counted.
	Joules float64 `json:"joules,omitempty"`
	// Error says why this device can't be read: it has vanished, or NVML answered so.
	Error string `json:"error,omitempty"`
}

// Heartbeat is what a worker says of itself every second or so.
type Heartbeat struct {
	V       int       `json:"v"`
	Worker  string    `json:"worker"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	At      time.Time `json:"at"`
	// Bases are the short digests of what it serves; Models their names.
	Bases    []string `json:"bases"`
	Models   []string `json:"models"`
	Engine   string   `json:"engine"` // engine.Info's version and device
	Slots    int      `json:"slots"`
	Busy     int      `json:"busy"` // slots that run
	Held     int      `json:"held"` // jobs claimed, running or about to
	Draining bool     `json:"draining,omitempty"`
	Devices  []Device `json:"devices"`
	// DeviceNote says why there are no accelerators, as "no NVIDIA driver".
	DeviceNote string `json:"device_note,omitempty"`
	// TokensPerSecond (answers' tokens), JobsPerSecond and QueueWait (mean, accepted to running) are over the last 10 s.
	TokensPerSecond float64       `json:"tokens_per_second"`
	JobsPerSecond   float64       `json:"jobs_per_second"`
	QueueWait       time.Duration `json:"queue_wait"`
	// Crashes counts ends of the engine's process since the worker started.
	Crashes int `json:"crashes"`
}

// Fleet is the view of the workers that spoke lately. A worker silent for Gone is forgotten.
type Fleet struct {
	mu   sync.Mutex
	seen map[string]Heartbeat
	now  func() time.Time
}

// Gone is after how much silence a worker is left out.
const Gone = 5 * time.Second

// WatchFleet follows heartbeats until ctx ends.
func WatchFleet(ctx context.Context, nc *nats.Conn) (*Fleet, error) {
	f := &Fleet{seen: map[string]Heartbeat{}, now: time.Now}
	s, err := nc.Subscribe("fleet.>", func(m *nats.Msg) { f.hear(m.Data) })
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = s.Unsubscribe() })
	return f, nil
}

func (f *Fleet) hear(b []byte) {
	var h Heartbeat
	if json.Unmarshal(b, &h) != nil || h.Worker == "" {
		return
	}
	h.At = f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[h.Worker] = h
}

// Workers are the live ones, by name.
func (f *Fleet) Workers() []Heartbeat {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Heartbeat
	for w, h := range f.seen {
		if f.now().Sub(h.At) > Gone {
			delete(f.seen, w)
			continue
		}
		out = append(out, h)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Worker < out[j].Worker })
	return out
}

// Slots is the sum of the slots of live workers that serve base b and are not draining.
func (f *Fleet) Slots(b string) (n int) {
	for _, h := range f.Workers() {
		for _, x := range h.Bases {
			if x == b && !h.Draining {
				n += h.Slots
			}
		}
	}
	return n
}
