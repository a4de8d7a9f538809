package scheduler

import (
	"context"
	"slices"

	"lorry/queue"
)

// readAhead is how many jobs of a source are candidates at a time: enough to order by deadline and adapter, few enough
// that a newcomer's are never far.
const readAhead = 256

// source is one place of BACKLOG or LATER: a cursor over one tenant's jobs in one lane.
type source struct {
	queue.Place

	next uint64 // sequence to read from
	more bool   // there may be more to read
	// open are the sequences read with jobs that are neither in JOBS nor ended, and how many: nothing from the lowest of
	// them on is purged.
	open   map[uint64]int
	jobs   int    // of all of open
	top    uint64 // highest sequence read
	purged uint64 // all below is gone
}

func newSource(p queue.Place) *source {
	return &source{Place: p, next: 1, more: true, open: map[uint64]int{}}
}

// read fetches the jobs behind the cursor, of up to n messages. One that can't be read is skipped, and so purged in time.
func (s *source) read(ctx context.Context, q *queue.Queue, n int, unreadable func(queue.Stored, error)) (out []*item, err error) {
	var ms []queue.Stored
	if ms, s.more, err = q.Read(ctx, s.Stream, s.Subject, s.next, n); err != nil {
		return nil, err
	}
	for _, m := range ms {
		s.next, s.top = m.Seq+1, max(s.top, m.Seq)
		for data := range queue.Bundled(m.Data) {
			j, err := queue.DecodeJob(data)
			if err != nil {
				unreadable(m, err)
				continue
			}
			s.open[m.Seq]++
			s.jobs++
			out = append(out, &item{job: j, data: data, src: s, seq: m.Seq})
		}
	}
	return out, nil
}

// close says that a job of the source is in JOBS, or has ended.
func (s *source) close(seq uint64) {
	if s.open[seq] == 0 {
		return // the source was rewound meanwhile
	}
	s.jobs--
	if s.open[seq]--; s.open[seq] == 0 {
		delete(s.open, seq)
	}
}

// low is the sequence below which nothing is needed.
func (s *source) low() uint64 {
	low := s.top + 1
	for seq := range s.open {
		low = min(low, seq)
	}
	return low
}

// purge deletes what is not needed any more, if the cursor has moved.
func (s *source) purge(ctx context.Context, q *queue.Queue) error {
	low := s.low()
	if low <= s.purged || low == 1 {
		return nil
	}
	if err := q.PurgeBelow(ctx, s.Stream, s.Subject, low); err != nil {
		return err
	}
	s.purged = low
	return nil
}

// rewind reads the source again from what was not purged: JOBS has lost what it was fed.
func (s *source) rewind() {
	s.next, s.more, s.top = max(1, s.purged), true, 0
	s.jobs = 0
	clear(s.open)
}

// sorted are a map's keys in order, for decisions that must not depend on chance.
func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
