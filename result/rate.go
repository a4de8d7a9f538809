package result

import (
	"context"
	"time"
)

// Rate bounds what a tenant may have run in a minute. The zero value bounds nothing.
type Rate struct{ Requests, Tokens int }

// Allowance is what a rate has let through, and what it leaves.
type Allowance struct {
	// Taken of the jobs may go, from the first. The next one may go after Wait, which Held is out of until then.
	Taken int
	Held  Resource
	Wait  time.Duration
	// RequestsFull and TokensFull are when the buckets will be full again.
	RequestsFull, TokensFull time.Duration
}

// Resource is one of the things that a Rate bounds.
type Resource int

// What a job may wait for.
const (
	Nothing Resource = iota
	Requests
	Tokens
)

// Take charges jobs, by what each costs in tokens (queue.Job.Cost), to their tenant's rate, as far as that lasts. All
// producers and dispatchers draw from the same buckets, which a lost Redis fills up. A zero rate asks nobody.
func (s *Store) Take(ctx context.Context, tenant string, r Rate, costs ...int) (a Allowance, err error) {
	if r == (Rate{}) {
		return Allowance{Taken: len(costs)}, nil
	}
	c := call{rateScript, []string{named(tenant, "rate", "requests"), named(tenant, "rate", "tokens")}, []any{r.Requests, r.Tokens}}
	for _, n := range costs {
		c.args = append(c.args, n)
	}
	out, err := s.run(ctx, false, c)
	if err != nil {
		return a, err
	}
	n, err := out[0].Int64Slice()
	if err != nil {
		return a, s.away(err)
	}
	us := func(i int) time.Duration { return time.Duration(n[i]) * time.Microsecond }
	return Allowance{int(n[0]), Resource(n[1]), us(2), us(3), us(4)}, nil
}

// Left is what a bucket still holds of a limit a minute.
func Left(limit int, full time.Duration) int {
	return max(0, int(float64(limit)*(1-full.Minutes())+1e-6))
}
