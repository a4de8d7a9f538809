package scheduler

import (
	"context"
	"slices"

	"lorry/queue"
)

// readAhead is how many jobs of a source are candidates at a time: enough to order by deadline and adapter, few enough
// that a newcomer's are never far.
const readAhead = 256

// source is where one tenant's jobs of a lane come from, in order: a subject of BACKLOG or LATER, or a batch's file.
type source struct {
	tenant string
	from   feeder
	more   bool // there may be more to read
	// open counts the jobs read that are neither in JOBS nor ended, by their place in the source; jobs is all of them.
	open map[uint64]int
	jobs int
	// heads counts those among them that are the order's candidates.
	heads int
	// due and prio are the deadline (unix ms) and priority of all its jobs, where they are not the jobs' own.
	due  int64
	prio int
	// gone sources are fed no more: what is left of their jobs is dropped where it turns up.
	gone bool
}

// feeder reads a source.
type feeder interface {
	// read takes the next jobs, up to n, and says whether there may be more behind them.
	read(ctx context.Context, s *source, n int) (its []*item, more bool, err error)
	// look lets go of what is not needed any more.
	look(ctx context.Context, s *source) error
	// rewind begins anew: JOBS has lost what it was fed.
	rewind()
}

func newSource(tenant string, from feeder) *source {
	return &source{tenant: tenant, from: from, more: true, open: map[uint64]int{}}
}

// read fetches the jobs behind the cursor, up to n.
func (s *source) read(ctx context.Context, n int) (its []*item, err error) {
	its, s.more, err = s.from.read(ctx, s, n)
	if err != nil {
		s.more = true
	}
	for _, it := range its {
		it.src = s
		s.open[it.seq]++
		s.jobs++
	}
	return its, err
}

// thirsty says whether more of it may become candidates.
func (s *source) thirsty() bool {
	return s.more && s.heads < readAhead/2 && s.jobs < 16*readAhead
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

// rewind reads the source again from what is still needed.
func (s *source) rewind() {
	s.more, s.heads, s.jobs = true, 0, 0
	clear(s.open)
	s.from.rewind()
}

// backlog is one place of BACKLOG or LATER: a cursor over one tenant's jobs in one lane.
type backlog struct {
	queue.Place
	q *queue.Queue
	// unreadable is told of what can't be read. It is passed over, and so purged in time.
	unreadable func(queue.Stored, error)

	next   uint64 // sequence to read from
	top    uint64 // highest sequence read
	purged uint64 // all below is gone
}

func newBacklog(q *queue.Queue, p queue.Place, unreadable func(queue.Stored, error)) *source {
	return newSource(p.Tenant, &backlog{Place: p, q: q, unreadable: unreadable, next: 1})
}

// read takes the jobs of up to n messages.
func (b *backlog) read(ctx context.Context, _ *source, n int) (its []*item, more bool, err error) {
	ms, more, err := b.q.Read(ctx, b.Stream, b.Subject, b.next, n)
	if err != nil {
		return nil, true, err
	}
	for _, m := range ms {
		b.next, b.top = m.Seq+1, max(b.top, m.Seq)
		for data := range queue.Bundled(m.Data) {
			j, err := queue.DecodeJob(data)
			if err != nil {
				b.unreadable(m, err)
				continue
			}
			its = append(its, &item{job: j, data: data, seq: m.Seq})
		}
	}
	return its, more, nil
}

// low is the sequence below which nothing is needed.
func (b *backlog) low(s *source) uint64 {
	low := b.top + 1
	for seq := range s.open {
		low = min(low, seq)
	}
	return low
}

// look deletes what is not needed, if the cursor has moved.
func (b *backlog) look(ctx context.Context, s *source) error {
	low := b.low(s)
	if low <= b.purged || low == 1 {
		return nil
	}
	if err := b.q.PurgeBelow(ctx, b.Stream, b.Subject, low); err != nil {
		return err
	}
	b.purged = low
	return nil
}

func (b *backlog) rewind() { b.next, b.top = max(1, b.purged), 0 }

// sorted are a map's keys in order, for decisions that must not depend on chance.
func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
