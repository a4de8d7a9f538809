package scheduler

import (
	"cmp"
	"slices"
	"time"

	"lorry/engine"
	"lorry/queue"
)

// order decides which jobs of a lane and base are fed next. It holds no goroutine and no clock.
//
// Between tenants it is start-time fair queuing (Goyal, Vin, Cheng: SIGCOMM 1996): each pick advances the tenant's
// start tag by its cost in tokens over the tenant's weight, and the smallest tag goes next; a tenant that comes back
// from nothing starts at the virtual time, so that nobody saves up and nobody pays twice. Within a tenant the higher
// priority goes first, then the earliest deadline, in runs of one adapter, since a decode call serves one adapter.
type order struct {
	vtime float64
	flows map[string]*flow
	// turn is the adapter of the last pick, and how many jobs in a row had it.
	turn    string
	turnLen int
}

// flow is one tenant's jobs.
type flow struct {
	tenant string
	start  float64
	jobs   []*item // by rank
}

// item is one job that may be fed: a head of its source.
type item struct {
	job    queue.Job
	data   []byte // the job as it is stored, and goes on
	src    *source
	seq    uint64 // in the source's stream, or the line in its file
	turn   int    // among jobs of one source that were read together
	cost   float64
	leader string // that it followed last
	// refused lines are answered with this and never fed.
	refused *engine.Error
}

const (
	// turnLimit is how many jobs of one adapter go in a row while others wait.
	turnLimit = 64
	// urgent is how near a deadline must be to break a run of one adapter.
	urgent = time.Minute
)

func newOrder() *order { return &order{flows: map[string]*flow{}} }

// add makes a job a candidate.
func (o *order) add(it *item) {
	it.cost = float64(it.job.Cost())
	it.src.heads++
	f := o.flows[it.job.Tenant]
	if f == nil {
		f = &flow{tenant: it.job.Tenant, start: o.vtime}
		o.flows[it.job.Tenant] = f
	}
	if len(f.jobs) == 0 {
		f.start = max(f.start, o.vtime)
	}
	i, _ := slices.BinarySearchFunc(f.jobs, it, rank)
	f.jobs = slices.Insert(f.jobs, i, it)
}

// rank is highest priority first, then earliest deadline, then the order of acceptance.
func rank(a, b *item) int {
	return cmp.Or(cmp.Compare(b.src.prio, a.src.prio), cmp.Compare(due(a), due(b)), cmp.Compare(a.job.Created, b.job.Created),
		cmp.Compare(a.turn, b.turn), cmp.Compare(a.seq, b.seq), cmp.Compare(a.job.ID, b.job.ID))
}

// due is the deadline by which a job is ordered, in unix milliseconds.
func due(it *item) int64 { return cmp.Or(it.src.due, it.job.Deadline, 1<<62) }

// pick takes up to k jobs of one tenant and adapter. paused tenants are passed over, weight says how much each may
// have. None means that there is nothing to feed.
func (o *order) pick(now time.Time, k int, weight func(tenant string) float64, paused func(tenant string) bool) []*item {
	f := o.nextFlow(paused)
	if f == nil {
		return nil
	}
	adapter := o.adapter(f, now)
	var out []*item
	sum := 0.0
	rest := f.jobs[:0]
	for _, it := range f.jobs {
		if len(out) < k && it.job.Request.Model.Adapter == adapter {
			out, sum = append(out, it), sum+it.cost
			continue
		}
		rest = append(rest, it)
	}
	clear(f.jobs[len(rest):])
	f.jobs = rest
	behead(out)
	o.charge(f, sum/max(weight(f.tenant), 1e-6))
	o.took(adapter, len(out))
	return out
}

func (o *order) nextFlow(paused func(string) bool) (best *flow) {
	for _, f := range o.flows {
		if len(f.jobs) == 0 || paused(f.tenant) {
			continue
		}
		if best == nil || f.start < best.start || f.start == best.start && f.tenant < best.tenant {
			best = f
		}
	}
	return best
}

// adapter goes on with the turn where the tenant has jobs for it, unless a deadline is near.
func (o *order) adapter(f *flow, now time.Time) string {
	first := f.jobs[0].job.Request.Model.Adapter
	if time.UnixMilli(due(f.jobs[0])).Sub(now) < urgent {
		return first
	}
	if o.turnLen >= turnLimit {
		return first
	}
	for _, it := range f.jobs {
		if it.job.Request.Model.Adapter == o.turn {
			return o.turn
		}
	}
	return first
}

func (o *order) took(adapter string, n int) {
	if adapter != o.turn {
		o.turn, o.turnLen = adapter, 0
	}
	if o.turnLen += n; o.turnLen >= 2*turnLimit {
		o.turnLen = n // nobody else came
	}
}

func (o *order) charge(f *flow, amount float64) {
	o.vtime = max(o.vtime, f.start)
	f.start = o.vtime + amount // a tenant that was paused is behind: it saves nothing up
}

// correct mends a tenant's tag when a job's true cost is known. A tag never falls behind the virtual time.
func (o *order) correct(tenant string, delta, weight float64) {
	if f := o.flows[tenant]; f != nil {
		f.start = max(f.start+delta/max(weight, 1e-6), o.vtime)
	}
}

// behead counts items out of their sources' candidates.
func behead(its []*item) {
	for _, it := range its {
		it.src.heads--
	}
}

// drop takes a source's jobs out.
func (o *order) drop(s *source) {
	if f := o.flows[s.tenant]; f != nil {
		f.jobs = slices.DeleteFunc(f.jobs, func(it *item) bool { return it.src == s })
	}
	s.heads = 0
}

// rerank puts a tenant's jobs in order again: a source's deadline or priority has changed.
func (o *order) rerank(tenant string) {
	if f := o.flows[tenant]; f != nil {
		slices.SortFunc(f.jobs, rank)
	}
}

// expired takes out the jobs whose deadline is past and that rank first in their flow. (Behind a higher priority they wait
// for their turn, and meet their end there.)
func (o *order) expired(now time.Time) (out []*item) {
	for _, f := range o.flows {
		n := 0
		for n < len(f.jobs) && f.jobs[n].job.Expired(now) {
			n++
		}
		out = append(out, f.jobs[:n]...)
		f.jobs = slices.Delete(f.jobs, 0, n)
	}
	behead(out)
	return out
}

// waiting counts the candidates.
func (o *order) waiting() (n int) {
	for _, f := range o.flows {
		n += len(f.jobs)
	}
	return n
}

// forget drops tenants that have nothing and owe nothing.
func (o *order) forget() {
	for t, f := range o.flows {
		if len(f.jobs) == 0 && f.start <= o.vtime {
			delete(o.flows, t)
		}
	}
}
