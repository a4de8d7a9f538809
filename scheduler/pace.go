package scheduler

import (
	"context"
	"slices"
	"time"

	"lorry/batch"
	"lorry/queue"
	"lorry/result"
)

// A batch's pace is taken over the last half of its run: long enough that a busy minute of another lane weighs what it
// weighed so far. paceWindow is the least, in seconds, for lines that take half a minute; longestWindow the most, to see
// that another lane has become busy.
const (
	paceWindow    = 120
	longestWindow = 600
)

// pace measures how fast a batch's lines end. It holds no clock.
type pace struct {
	lines, tokens int // so far
	seconds       int
	marks         []mark
}

type mark struct {
	at            time.Time
	lines, tokens int
}

func (p *pace) add(tokens int) { p.lines, p.tokens = p.lines+1, p.tokens+tokens }

// tick closes a second.
func (p *pace) tick(now time.Time) {
	p.seconds++
	p.marks = append(p.marks, mark{now, p.lines, p.tokens})
	if len(p.marks) > longestWindow {
		p.marks = slices.Delete(p.marks, 0, 1)
	}
}

// rate is lines and tokens a second over the window, 0 while there is none.
func (p *pace) rate() (lines, tokens float64) {
	window := p.marks[max(0, len(p.marks)-max(paceWindow, p.seconds/2)):]
	if len(window) < 2 {
		return 0, 0
	}
	a, b := window[0], window[len(window)-1]
	secs := b.at.Sub(a.at).Seconds()
	if secs <= 0 {
		return 0, 0
	}
	return float64(b.lines-a.lines) / secs, float64(b.tokens-a.tokens) / secs
}

// report says of each of the base's batches how it fares: a view, kept in Redis for whoever asks.
func (d *dispatcher) report(ctx context.Context) error {
	var mine []batch.Batch
	for _, b := range d.batches.all() {
		if b.Status == batch.InProgress && b.Resolved.B() == d.b {
			mine = append(mine, b)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	slices.SortStableFunc(mine, urgency)
	now, ahead, pressed := time.Now(), map[string]int{}, d.pressed(ctx)
	var rs []result.BatchReport
	for _, b := range mine {
		r := result.BatchReport{Tenant: b.Tenant, Batch: b.ID, At: now.UnixMilli(), Position: ahead[b.Tenant]}
		ahead[b.Tenant]++
		s := d.lanes[queue.Batch].sources[batchName(b.ID)]
		if s != nil {
			p := &s.from.(*lines).pace
			p.tick(now)
			r.LinesPerSecond, r.TokensPerSecond = p.rate()
		}
		r.HeldBackBy = string(d.held(b, s, pressed))
		rs = append(rs, r)
	}
	return d.results.ReportBatches(ctx, rs...)
}

// pressed says whether jobs of more urgent lanes are ready and wait for slots.
func (d *dispatcher) pressed(ctx context.Context) bool {
	for _, l := range []queue.Lane{queue.Interactive, queue.Flex} {
		if ready, _, err := d.lanes[l].puller.Pending(ctx); err == nil && ready > 0 {
			return true
		}
	}
	return false
}

// held is what keeps a batch from going faster, "" where nothing does. s is nil while it is not fed from.
func (d *dispatcher) held(b batch.Batch, s *source, pressed bool) batch.Hold {
	ln := d.lanes[queue.Batch]
	most := d.tenants.MaxReady(b.Tenant)
	switch {
	case b.Paused || d.tenants.Paused(b.Tenant):
		return batch.Paused
	case d.fleet.Slots(d.b) == 0:
		return batch.NoWorker
	case s == nil, most > 0 && ln.win.tenants[b.Tenant] >= most && s.heads > 0:
		return batch.TenantCap
	case s.heads > 0 && ln.limits.lately(b.Tenant, time.Now()):
		return batch.RateLimit
	case !s.more && s.jobs == 0 && ln.win.tenants[b.Tenant] == 0 && !s.from.(*lines).full():
		return batch.Backoff
	case pressed:
		return batch.LaneShare
	case s.heads == 0:
		return ""
	case ln.order.foreign(b.Resolved.Adapter):
		return batch.AdapterTurn
	case ln.order.others(b.Tenant):
		return batch.TenantCap
	}
	return ""
}

func (l *lines) full() bool { return l.ended != nil && l.ended.Full() }

// foreign says whether another adapter than this has its turn, with jobs that wait.
func (o *order) foreign(adapter string) bool {
	if o.turnLen == 0 || o.turn == adapter {
		return false
	}
	for _, f := range o.flows {
		for _, it := range f.jobs {
			if it.job.Request.Model.Adapter == o.turn {
				return true
			}
		}
	}
	return false
}

// others says whether other tenants have jobs that wait.
func (o *order) others(tenant string) bool {
	for t, f := range o.flows {
		if t != tenant && len(f.jobs) > 0 {
			return true
		}
	}
	return false
}
