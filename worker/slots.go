package worker

import (
	"sync"

	"lorry/queue"
)

// shares are the lanes' guaranteed parts of a worker's slots, in eighths. What a lane does not use, others do.
var shares = map[queue.Lane]int{queue.Interactive: 4, queue.Flex: 2, queue.Batch: 2}

// slots decides which claimed job runs next. A lane under its guarantee goes first, then the more urgent one; a solo job
// waits until nothing runs, and nothing begins beside it.
type slots struct {
	mu       sync.Mutex
	total    int
	used     map[queue.Lane]int
	running  int
	alone    bool // a solo job runs
	waiting  map[queue.Lane][]*run
	solo     []*run
	guaranty map[queue.Lane]int
}

func newSlots(total int) *slots {
	s := &slots{total: total, used: map[queue.Lane]int{}, waiting: map[queue.Lane][]*run{}, guaranty: map[queue.Lane]int{}}
	for l, share := range shares {
		s.guaranty[l] = max(1, total*share/8)
	}
	return s
}

// add queues a claimed job.
func (s *slots) add(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.solo {
		s.solo = append(s.solo, r)
		return
	}
	l := r.held.Job.Lane
	s.waiting[l] = append(s.waiting[l], r)
}

// next takes the slots that are free and says what begins in them.
func (s *slots) next() (begin []*run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		r := s.one()
		if r == nil {
			return begin
		}
		s.used[r.held.Job.Lane]++
		s.running++
		begin = append(begin, r)
	}
}

func (s *slots) one() *run {
	if s.alone || s.running >= s.total {
		return nil
	}
	if len(s.solo) > 0 {
		if s.running > 0 {
			return nil
		}
		r := s.solo[0]
		s.solo, s.alone = s.solo[1:], true
		return r
	}
	l, ok := s.lane()
	if !ok {
		return nil
	}
	r := s.waiting[l][0]
	s.waiting[l] = s.waiting[l][1:]
	return r
}

func (s *slots) lane() (best queue.Lane, ok bool) {
	for _, l := range queue.Lanes {
		if len(s.waiting[l]) == 0 {
			continue
		}
		if s.used[l] < s.guaranty[l] {
			return l, true
		}
		if !ok {
			best, ok = l, true
		}
	}
	return best, ok
}

// done gives a job's slot back.
func (s *slots) done(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[r.held.Job.Lane]--
	s.running--
	s.alone = false
}

// drop takes a job out of the queue. False means that it has begun.
func (s *slots) drop(r *run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := false
	cut := func(rs []*run) []*run {
		for i, x := range rs {
			if x == r {
				ok = true
				return append(rs[:i:i], rs[i+1:]...)
			}
		}
		return rs
	}
	s.solo = cut(s.solo)
	l := r.held.Job.Lane
	s.waiting[l] = cut(s.waiting[l])
	return ok
}

// takeWaiting empties the queue.
func (s *slots) takeWaiting() (out []*run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, s.solo = s.solo, nil
	for l, rs := range s.waiting {
		out = append(out, rs...)
		s.waiting[l] = nil
	}
	return out
}

// counts are the jobs that run and those that wait for a slot.
func (s *slots) counts() (running, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting = len(s.solo)
	for _, rs := range s.waiting {
		waiting += len(rs)
	}
	return s.running, waiting
}
