package scheduler

import "time"

const (
	// minWindow and maxWindow bound W, the jobs of a lane that are kept ready in JOBS: a newcomer waits for about W jobs,
	// and workers run dry below what they take in a round trip.
	minWindow = 32
	maxWindow = 2048
)

// window is what this dispatcher has fed of one lane and is not acknowledged, in jobs.
type window struct {
	want  int // W
	level int
	fed   map[uint64]fed // by sequence in JOBS
	last  uint64         // highest sequence fed
	// tenants counts the level by tenant.
	tenants map[string]int
}

type fed struct {
	tenant string
	jobs   int
}

func newWindow() *window {
	return &window{want: minWindow, fed: map[uint64]fed{}, tenants: map[string]int{}}
}

// size sets W's floor: twice the fleet's slots, or what runs in 50 ms. An empty window goes back to it.
func (w *window) size(slots int, jobsPerSecond float64) {
	if w.level == 0 {
		w.want = 0
	}
	w.want = min(max(w.want, minWindow, 2*slots, int(jobsPerSecond/20)), maxWindow)
}

// room is how many jobs may be fed now. The window is refilled by quarters, so that a commit carries something.
func (w *window) room() int {
	if w.level > w.want-w.want/4 {
		return 0
	}
	return w.want - w.level
}

func (w *window) put(seq uint64, tenant string, jobs int) {
	f := fed{tenant, jobs}
	w.fed[seq] = f
	w.level += f.jobs
	w.tenants[f.tenant] += f.jobs
	w.last = max(w.last, seq)
}

// acked takes a delivery out, and says how many jobs it carried.
func (w *window) acked(seq uint64) (jobs int) {
	f, ok := w.fed[seq]
	if !ok {
		return 0
	}
	delete(w.fed, seq)
	w.level -= f.jobs
	if w.tenants[f.tenant] -= f.jobs; w.tenants[f.tenant] <= 0 {
		delete(w.tenants, f.tenant)
	}
	return f.jobs
}

// windowTime bounds how long a newcomer waits behind a window that has grown.
const windowTime = 500 * time.Millisecond

// grow doubles W, up to what ends in windowTime: workers ran dry while jobs waited. Each step of the road then carries
// more jobs at once; beyond that time it would only lengthen the wait.
func (w *window) grow(jobsPerSecond float64) {
	w.want = max(w.want, min(2*w.want, int(jobsPerSecond*windowTime.Seconds()), maxWindow))
}

// settle corrects the level by what the consumer and JOBS say: nothing up to floor is outstanding, and nothing at all when
// JOBS holds none of the lane.
func (w *window) settle(floor uint64, empty bool) {
	for seq := range w.fed {
		if empty || seq <= floor {
			w.acked(seq)
		}
	}
}
