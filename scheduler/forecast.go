package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lorry/batch"
	"lorry/queue"
	"lorry/result"
)

// meter measures how much work a base's batches get done a second, over the time in which there was some. It holds no
// clock.
type meter struct {
	done, seen float64
	busy       time.Duration
	last       time.Time
	marks      []meterMark
}

type meterMark struct {
	busy time.Duration
	done float64
}

func (m *meter) add(work float64) { m.done += work }

// tick closes a second, and says whether it counts: something waits, or has ended.
func (m *meter) tick(now time.Time, waits bool) bool {
	since, busy := now.Sub(m.last), waits || m.done > m.seen
	m.last, m.seen = now, m.done
	if !busy {
		return false
	}
	if len(m.marks) > 0 {
		m.busy += since
	}
	m.marks = append(m.marks, meterMark{m.busy, m.done})
	if len(m.marks) > paceWindow {
		m.marks = slices.Delete(m.marks, 0, 1)
	}
	return true
}

// rate is work a second; 0 while there were less than two busy seconds.
func (m *meter) rate() float64 {
	if len(m.marks) < 3 {
		return 0
	}
	a, b := m.marks[0], m.marks[len(m.marks)-1]
	return (b.done - a.done) / (b.busy - a.busy).Seconds()
}

// measure keeps the base's speed where forecasts look for it.
func (d *dispatcher) measure(ctx context.Context) error {
	now := time.Now()
	counts := d.meter.tick(now, d.fleet.Slots(d.b) > 0 && d.lanes[queue.Batch].win.level > 0)
	if r := d.meter.rate(); counts && r > 0 {
		return d.results.PutSpeed(ctx, d.b, result.Speed{At: now.UnixMilli(), Work: r})
	}
	return nil
}

// load is what a tenant has to run on a base.
type load struct{ work, weight float64 }

// finish is how long a tenant's load takes beside the others', when all get their shares: by its end, each other one got
// its share too, or as much as it had.
func finish(own load, others []load, speed float64) time.Duration {
	total, each := own.work, own.work/own.weight
	for _, o := range others {
		total += min(o.work, each*o.weight)
	}
	return time.Duration(total / speed * float64(time.Second))
}

// admit looks at a batch whose lines were counted: whether its tenant may have so much under way, when it will end, and
// whether that is too late. Forecasts of batches that are admitted at the same moment do not see each other.
func (k *keeper) admit(ctx context.Context, b *batch.Batch) (*batch.LineError, error) {
	others := k.beside(b)
	if e := k.enqueued(b, others); e != nil {
		return e, nil
	}
	speed, err := k.cfg.Results.Speed(ctx, b.Resolved.B())
	if err != nil && !k.cfg.RefuseLate { // a forecast is no reason to wait for Redis
		k.cfg.Log.Warn().Err(err).Str("batch", b.ID).Msg("no forecast")
		return nil, nil
	}
	if err != nil || speed.Work <= 0 {
		return nil, err
	}
	own, rest := k.loads(ctx, b, others)
	end := time.Now().Add(finish(own, rest, speed.Work))
	b.Forecast = end.Unix()
	if k.cfg.RefuseLate && b.Forecast > b.ExpiresAt {
		return late(b), nil
	}
	return nil, nil
}

// beside are the other batches that run on a batch's base, the most urgent first.
func (k *keeper) beside(b *batch.Batch) (out []batch.Batch) {
	for _, x := range k.batches.all() {
		if x.ID != b.ID && x.Status == batch.InProgress && x.Resolved.B() == b.Resolved.B() {
			out = append(out, x)
		}
	}
	slices.SortStableFunc(out, urgency)
	return out
}

// enqueued refuses a batch in OpenAI's words if its tenant has too many tokens of its model under way.
func (k *keeper) enqueued(b *batch.Batch, others []batch.Batch) *batch.LineError {
	limit := int64(settings{k.cfg.Access}.of(b.Tenant).EnqueuedTokens)
	sum := b.Work
	for _, x := range others {
		if x.Tenant == b.Tenant && x.Model == b.Model {
			sum += x.Work
		}
	}
	if limit == 0 || sum <= limit {
		return nil
	}
	return &batch.LineError{Code: "token_limit_exceeded", Message: fmt.Sprintf("Enqueued token limit reached for %s in organization %s. Limit: %d enqueued tokens. "+
		"Please try again once some in_progress batches have been completed.", b.Model, b.Tenant, limit)}
}

// loads are what is to be run before the batch has ended: its own lines, behind its tenant's more urgent ones, and the
// other tenants'.
func (k *keeper) loads(ctx context.Context, b *batch.Batch, others []batch.Batch) (own load, rest []load) {
	t := k.tenants()
	own = load{float64(b.Work), t.Weight(b.Tenant)}
	theirs := map[string]float64{}
	for _, x := range others {
		switch {
		case x.Paused || t.Paused(x.Tenant):
		case x.Tenant != b.Tenant:
			theirs[x.Tenant] += k.left(ctx, x)
		case urgency(x, *b) < 0:
			own.work += k.left(ctx, x)
		}
	}
	for tenant, work := range theirs {
		rest = append(rest, load{work, t.Weight(tenant)})
	}
	return own, rest
}

// left is what a batch still has to run; all of it where nobody knows.
func (k *keeper) left(ctx context.Context, b batch.Batch) float64 {
	c, err := k.cfg.Batches.Counts(ctx, b)
	if err != nil {
		c = result.BatchCounts{}
	}
	return float64(b.Work) * max(0, 1-float64(c.Ended())/float64(b.Counts.Total))
}

// late refuses a batch that would not end in its window.
func late(b *batch.Batch) *batch.LineError {
	at := func(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
	return &batch.LineError{Code: "completion_window_too_short", Param: "completion_window", Message: fmt.Sprintf("At the speed measured lately this batch is expected to end at %s, "+
		"after its completion window, which ends at %s. Give it a longer completion_window, or fewer requests.", at(b.Forecast), at(b.ExpiresAt))}
}
