package scheduler

import (
	"context"
	"slices"

	"lorry/queue"
)

// readAhead is how many jobs of a source are candidates at a time: enough to order by deadline and adapter, few enough
// that a newcomer's are never far.
const readAhead = 256

// source is one subject of BACKLOG or LATER: a cursor over one tenant's jobs in one lane.
type source struct {
	stream, subject, tenant string

	next uint64 // sequence to read from
	more bool   // there may be more to read
	// open are the sequences read that are neither in JOBS nor ended: nothing from the lowest of them on is purged.
	open   map[uint64]struct{}
	top    uint64 // highest sequence read
	purged uint64 // all below is gone
}

func newSource(stream, subject string) *source {
	_, _, tenant, _ := queue.ParseBacklog(subject)
	return &source{stream: stream, subject: subject, tenant: tenant, next: 1, more: true, open: map[uint64]struct{}{}}
}

// read fetches the jobs behind the cursor, up to n. One that can't be read is skipped, and so purged in time: bury
// keeps its bytes.
func (s *source) read(ctx context.Context, q *queue.Queue, n int, bury func(queue.Stored, error)) ([]*item, error) {
	ms, more, err := q.Read(ctx, s.stream, s.subject, s.next, n)
	if err != nil {
		return nil, err
	}
	s.more = more
	var out []*item
	for _, m := range ms {
		s.next, s.top = m.Seq+1, max(s.top, m.Seq)
		j, err := queue.DecodeJob(m.Data)
		if err != nil {
			bury(m, err)
			continue
		}
		s.open[m.Seq] = struct{}{}
		out = append(out, &item{job: j, src: s, seq: m.Seq})
	}
	return out, nil
}

// close says that a job of the source is in JOBS, or has ended.
func (s *source) close(seq uint64) { delete(s.open, seq) }

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
	if err := q.PurgeBelow(ctx, s.stream, s.subject, low); err != nil {
		return err
	}
	s.purged = low
	return nil
}

// rewind reads the source again from what was not purged: JOBS has lost what it was fed.
func (s *source) rewind() {
	s.next, s.more, s.top = max(1, s.purged), true, 0
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
