package worker

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"lorry/engine"
	"lorry/queue"
)

// shares are the lanes' guaranteed parts of a worker's slots, in eighths. What a lane does not use, others do.
var shares = map[queue.Lane]int{queue.Interactive: 4, queue.Flex: 2, queue.Batch: 2}

// slots decides which claimed job runs next. A lane under its guarantee goes first, then the more urgent one; a solo job
// waits until nothing runs, and nothing begins beside it.
//
// An engine that chooses among requests itself is given some ahead of its slots, as long as all are of one lane: it knows
// deadlines, adapters and prefixes, but no lanes. When a job of another lane comes, or a solo one, those that have not
// begun are called back; and before any is given ahead again, as many jobs end as there are slots, so that lanes that
// take turns do not have jobs go to and fro.
type slots struct {
	mu       sync.Mutex
	total    int
	extra    int // jobs that may wait in the engine
	used     map[queue.Lane]int
	inside   []*run // given to the engine, the oldest first
	alone    bool   // a solo job runs
	mixed    int    // jobs to end before any is given ahead
	shut     bool   // none is given ahead any more
	waiting  map[queue.Lane][]*run
	solo     []*run
	guaranty map[queue.Lane]int
	orders   int
}

func newSlots(total, extra int) *slots {
	s := &slots{total: total, extra: extra, used: map[queue.Lane]int{}, waiting: map[queue.Lane][]*run{}, guaranty: map[queue.Lane]int{}}
	for l, share := range shares {
		s.guaranty[l] = max(1, total*share/8)
	}
	return s
}

// add queues a claimed job behind those of its lane.
func (s *slots) add(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orders++
	r.order = s.orders
	s.queue(r)
}

// back queues a job that the engine has not begun, at its place in its lane.
func (s *slots) back(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue(r)
}

func (s *slots) queue(r *run) {
	if r.solo {
		s.solo = append(s.solo, r)
		return
	}
	rs := s.waiting[r.held.Job.Lane]
	at, _ := slices.BinarySearchFunc(rs, r, func(a, b *run) int { return cmp.Compare(a.order, b.order) })
	s.waiting[r.held.Job.Lane] = slices.Insert(rs, at, r)
}

// next takes the room that there is in the engine and says what goes there. It ends the stays of those called back.
func (s *slots) next() (begin []*run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lanes() > 1 || len(s.solo) > 0 {
		s.mixed = s.total
	}
	for r := s.one(); r != nil; r = s.one() {
		s.used[r.held.Job.Lane]++
		r.stay, r.leave = context.WithCancelCause(r.ctx)
		r.since = time.Time{}
		s.inside = append(s.inside, r)
		begin = append(begin, r)
	}
	for _, r := range s.early() {
		r.leave(errCalled)
	}
	return begin
}

func (s *slots) one() *run {
	if s.alone || len(s.inside) >= s.room() {
		return nil
	}
	if len(s.solo) > 0 {
		if len(s.inside) > 0 {
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

// room is how many jobs the engine may hold.
func (s *slots) room() int {
	if s.mixed > 0 || s.shut {
		return s.total
	}
	return s.total + s.extra
}

// lanes is how many have jobs here or in the engine.
func (s *slots) lanes() (n int) {
	for _, l := range queue.Lanes {
		if s.used[l]+len(s.waiting[l]) > 0 {
			n++
		}
	}
	return n
}

// early are the jobs in the engine that may no longer wait there.
func (s *slots) early() (out []*run) {
	most := s.room()
	switch {
	case s.extra == 0:
		return nil
	case len(s.solo) > 0 && !s.alone:
		most = 0
	}
	for i := len(s.inside) - 1; i >= 0 && len(s.inside)-len(out) > most; i-- {
		if r := s.inside[i]; r.since.IsZero() {
			out = append(out, r)
		}
	}
	return out
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

// began notes that the engine computes a job. It says false where that was known.
func (s *slots) began(r *run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.since.IsZero() {
		return false
	}
	r.since = time.Now()
	return true
}

// done gives a job's slot back, and says when it began: now, if it has not.
func (s *slots) done(r *run) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[r.held.Job.Lane]--
	s.inside = slices.DeleteFunc(s.inside, func(x *run) bool { return x == r })
	s.alone, s.mixed = false, max(0, s.mixed-1)
	if r.since.IsZero() {
		r.since = time.Now()
	}
	return r.since
}

// drop takes a job out of the queue. False means that the engine has it.
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

// takeWaiting empties the queue, and ends the stays of those that wait in the engine. None is given to it ahead any more.
func (s *slots) takeWaiting() (out []*run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, s.solo, s.shut = s.solo, nil, true
	for l, rs := range s.waiting {
		out = append(out, rs...)
		s.waiting[l] = nil
	}
	for _, r := range s.inside {
		if r.since.IsZero() {
			r.leave(engine.ErrHandOver)
		}
	}
	return out
}

// counts are the jobs that the engine computes, and those that wait for that, here or there.
func (s *slots) counts() (running, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.inside {
		if !r.since.IsZero() {
			running++
		}
	}
	waiting = len(s.solo) + len(s.inside) - running
	for _, rs := range s.waiting {
		waiting += len(rs)
	}
	return running, waiting
}
