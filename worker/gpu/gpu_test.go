package gpu

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lorry/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a source that says what the test wants.
type script struct {
	say    func() ([]queue.Device, error)
	closed bool
}

func (s *script) sample() ([]queue.Device, error) { return s.say() }
func (s *script) close()                          { s.closed = true }

func TestOpenOnThisMachine(t *testing.T) {
	s, err := Open(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	devices, note := s.Sample()
	if len(devices) == 0 {
		t.Fatal("no device at all, not even the CPU")
	}
	d := devices[0]
	if d.Name == "" || d.MemoryTotal == 0 || d.MemoryUsed > d.MemoryTotal || d.Utilization < 0 || d.Utilization > 1 {
		t.Errorf("device = %+v", d)
	}
	if _, cpu := s.src.(*cpuSource); cpu && !strings.HasPrefix(note, "no GPU: NVML: ") {
		t.Errorf("note = %q, want the reason why there is no GPU", note)
	}
}

func TestHangingDriverKeepsTheLastReading(t *testing.T) {
	gate := make(chan struct{})
	calls := 0
	src := &script{say: func() ([]queue.Device, error) {
		if calls++; calls > 1 {
			<-gate
		}
		return []queue.Device{{Index: 0, Name: "A", Utilization: float64(calls) / 10}}, nil
	}}
	s := newSampler(Config{}, src, "")
	s.timeout = time.Minute
	if d, note := s.Sample(); len(d) != 1 || note != "" {
		t.Fatalf("Sample() = %v, %q", d, note)
	}
	s.timeout = time.Millisecond
	for range 3 { // every further call hangs, and is made only once
		d, note := s.Sample()
		if len(d) != 1 || d[0].Utilization != 0.1 {
			t.Fatalf("devices = %+v, want the last reading", d)
		}
		if !strings.Contains(note, "has not answered") {
			t.Fatalf("note = %q", note)
		}
	}
	close(gate)
	s.timeout = time.Minute
	s.Close()
	if !src.closed || calls != 2 {
		t.Errorf("closed %v after %d calls, want true after 2", src.closed, calls)
	}
}

func TestFailedSourceIsANote(t *testing.T) {
	s := newSampler(Config{Timeout: time.Minute}, &script{say: func() ([]queue.Device, error) { return nil, errors.New("driver gone") }}, "")
	defer s.Close()
	if d, note := s.Sample(); len(d) != 0 || note != "driver gone" {
		t.Errorf("Sample() = %v, %q", d, note)
	}
}
