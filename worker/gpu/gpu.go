// Package gpu says how busy the accelerators of this machine are.
//
// It asks NVML where the program was built with cgo on Linux and a driver is there, else `nvidia-smi` where that is on
// the PATH, and else reports the CPU as the one device, with a note that says why. A device that vanishes while the
// program runs is reported with its error; the others go on.
package gpu

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"lorry/queue"
)

// Config tells how to sample. Its zero value works.
type Config struct {
	Log zerolog.Logger
	// Timeout is how long Sample waits for a driver. A sick device can block a call for minutes, and a heartbeat that
	// waited for it would cost the worker its leases. 0: one second.
	Timeout time.Duration
	// Processor asks for the CPU also where there are accelerators.
	Processor bool
}

// source is one way of looking at devices. sample may block; it is never called twice at a time.
type source interface {
	// sample is all devices, those that can't be read among them with their Error set. An error means that the source
	// as a whole has failed.
	sample() ([]queue.Device, error)
	close()
}

// reading is what a source said last.
type reading struct {
	devices []queue.Device
	err     error
}

// Sampler reads the devices of this machine. Its methods may be called from many goroutines.
type Sampler struct {
	src     source
	note    string
	timeout time.Duration
	log     zerolog.Logger

	mu      sync.Mutex
	last    reading
	pending chan struct{} // closed when the call under way ends; nil when there is none
	since   time.Time     // when that call began
	lost    map[int]string
}

// Open finds the best source. It never fails: without an accelerator it reports the CPU.
func Open(c Config) (*Sampler, error) {
	src, by, note := find(c)
	s := newSampler(c, src, note)
	c.Log.Info().Str("source", by).Str("note", note).Msg("devices are sampled")
	return s, nil
}

func newSampler(c Config, src source, note string) *Sampler {
	return &Sampler{src: src, note: note, log: c.Log, timeout: cmp.Or(c.Timeout, time.Second), lost: map[int]string{}}
}

// find tries the sources in order, and names the one it found. The note says why there is no accelerator; it is empty
// where there is one.
func find(c Config) (src source, by, note string) {
	if c.Processor {
		return openCPU(), "the processor", ""
	}
	n, nerr := openNVML()
	if nerr == nil {
		return n, "NVML", ""
	}
	s, serr := openSMI()
	if serr == nil {
		return s, "nvidia-smi", ""
	}
	return openCPU(), "the processor", fmt.Sprintf("no GPU: %v; %v; reporting the CPU", nerr, serr)
}

// Sample is the devices now, and a note where there is no accelerator or its driver doesn't answer. It returns within
// the timeout: a driver that hangs leaves the last reading standing, and is not asked again before it has answered.
func (s *Sampler) Sample() (devices []queue.Device, note string) {
	done, since := s.begin()
	select {
	case <-done:
		return s.read("")
	default:
	}
	t := time.NewTimer(s.timeout)
	defer t.Stop()
	select {
	case <-done:
		return s.read("")
	case <-t.C:
		return s.read(fmt.Sprintf("the driver has not answered for %v", time.Since(since).Round(time.Second)))
	}
}

// begin starts a reading, or joins the one under way.
func (s *Sampler) begin() (done chan struct{}, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		s.pending, s.since = make(chan struct{}), time.Now()
		go s.ask(s.pending)
	}
	return s.pending, s.since
}

func (s *Sampler) ask(done chan struct{}) {
	devices, err := s.src.sample()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || devices != nil {
		s.last.devices = devices
	}
	s.last.err, s.pending = err, nil
	s.tell(devices)
	close(done)
}

// tell logs devices that vanish and that come back, once each.
func (s *Sampler) tell(devices []queue.Device) {
	for _, d := range devices {
		was, had := s.lost[d.Index]
		switch {
		case d.Error != "" && d.Error != was:
			s.lost[d.Index] = d.Error
			s.log.Error().Int("device", d.Index).Str("uuid", d.UUID).Str("error", d.Error).Msg("device can't be read")
		case d.Error == "" && had:
			delete(s.lost, d.Index)
			s.log.Info().Int("device", d.Index).Str("uuid", d.UUID).Msg("device is back")
		}
	}
}

// read is a copy of the last reading, its note the first that applies.
func (s *Sampler) read(late string) ([]queue.Device, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	note := cmp.Or(late, s.note)
	if s.last.err != nil {
		note = cmp.Or(late, s.last.err.Error())
	}
	return append([]queue.Device(nil), s.last.devices...), note
}

// Close lets the driver go, once a call under way has ended; after the timeout it leaves it to the end of the process.
func (s *Sampler) Close() {
	s.mu.Lock()
	pending := s.pending
	s.mu.Unlock()
	if pending != nil {
		select {
		case <-pending:
		case <-time.After(s.timeout):
			return
		}
	}
	s.src.close()
}

// share is part of whole, 0 to 1.
func share(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(max(part/whole, 0), 1)
}
