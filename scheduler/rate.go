package scheduler

import (
	"context"
	"time"

	"lorry/result"
)

// limits are the tenants that have used their rate up.
type limits map[string]limit

type limit struct{ since, until time.Time }

// holds says whether a tenant is to wait.
func (l limits) holds(tenant string, now time.Time) bool { return now.Before(l[tenant].until) }

// heldTime is how long after it was held a tenant still counts as such: its rate lets some through now and then.
const heldTime = 3 * time.Second

func (l limits) lately(tenant string, now time.Time) bool {
	return l.holds(tenant, now) || now.Sub(l[tenant].since) < heldTime
}

// takePause is before the next try when Redis can't say what a rate leaves.
const takePause = time.Second

// allowed are the picked jobs that their tenant's rate lets through; the others are candidates again. Batches' lines are
// charged here, when they are fed: all other jobs were when they were accepted.
func (d *dispatcher) allowed(ctx context.Context, ln *lane, its []*item, now time.Time) []*item {
	tenant := its[0].job.Tenant
	rate := d.tenants.Rate(tenant)
	if rate == (result.Rate{}) {
		return its
	}
	var costs, at []int
	for i, it := range its {
		if _, line := it.src.from.(*lines); line {
			costs, at = append(costs, it.job.Cost()), append(at, i)
		}
	}
	if len(costs) == 0 {
		return its
	}
	a, err := d.results.Take(ctx, tenant, rate, costs...)
	if err != nil {
		d.log.Warn().Err(err).Str("tenant", tenant).Msg("rate can't be looked at for now")
		a = result.Allowance{Wait: takePause}
	}
	if a.Taken == len(costs) {
		return its
	}
	ln.limits[tenant] = limit{now, now.Add(max(a.Wait, time.Millisecond))}
	d.putBack(ln, its[at[a.Taken]:])
	return its[:at[a.Taken]]
}

// putBack makes picked jobs candidates again, and gives their tenant back what they were charged.
func (d *dispatcher) putBack(ln *lane, its []*item) {
	sum := 0.0
	for _, it := range its {
		sum += it.cost
		d.candidate(it)
	}
	tenant := its[0].job.Tenant
	ln.order.correct(tenant, -sum, d.tenants.Weight(tenant))
}
