package result

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nuid"

	"lorry/engine"
	"lorry/queue"
)

// Held is a claim on one job: a random token under the sequence of its delivery.
type Held struct {
	Job   *queue.Job
	Token string
	Seq   uint64 // of the delivery in JOBS
	// Attempt is this run's number, from 1; Crashes how many engines died with the job so far.
	Attempt, Crashes int
	Started          time.Time
	// Resume is how far an earlier owner had come; nil where none told.
	Resume *engine.Resume
}

// Claims is what became of a delivery's jobs.
type Claims struct {
	// Run is what this worker runs now.
	Run []*Held
	// Over counts jobs that are terminal, Elsewhere those that another delivery holds under a live lease. Neither is
	// to be run: a delivery of nothing else is acknowledged and dropped.
	Over, Elsewhere int
}

// Claim begins the jobs of deliveries, in one round trip. Jobs whose deadline is past, or whose attempts are used up,
// are claimed like others: the caller ends them with a verdict.
func (s *Store) Claim(ctx context.Context, worker string, lease time.Duration, ls []*queue.Lease) ([]Claims, error) {
	now := s.now()
	calls, tokens := make([]call, len(ls)), make([]string, len(ls))
	for i, l := range ls {
		tokens[i] = nuid.Next()
		calls[i] = claimCall(tokens[i], now, lease, worker, l)
	}
	answers, err := s.run(ctx, false, calls...)
	if err != nil {
		return nil, err
	}
	out := make([]Claims, len(ls))
	for i, a := range answers {
		v, err := a.Int64Slice()
		if err != nil || len(v) != 3*len(ls[i].Jobs) {
			return nil, fmt.Errorf("result: claim: %d answers for %d jobs: %w", len(v), len(ls[i].Jobs), err)
		}
		out[i] = claims(ls[i], v, tokens[i], now)
	}
	s.running(worker, out)
	if err := s.recall(ctx, interrupted(ls, out)); err != nil {
		s.cfg.Log.Warn().Err(err).Msg("no checkpoints: interrupted jobs start over")
	}
	return out, nil
}

// interrupted are the claimed jobs that may have run before, for another owner of their delivery.
func interrupted(ls []*queue.Lease, cs []Claims) (hs []*Held) {
	for i, l := range ls {
		if l.Deliveries > 1 {
			hs = append(hs, cs[i].Run...)
		}
	}
	return hs
}

func claimCall(token string, now time.Time, lease time.Duration, worker string, l *queue.Lease) call {
	c := call{script: claimScript, args: []any{token, now.UnixMilli(), lease.Milliseconds(), l.Seq, worker}}
	for i := range l.Jobs {
		c.keys = append(c.keys, jobKey(l.Jobs[i].Tenant, l.Jobs[i].ID), batchKey(l.Jobs[i].Tenant, l.Jobs[i].Batch))
		c.args = append(c.args, known(&l.Jobs[i]))
	}
	return c
}

func claims(l *queue.Lease, v []int64, token string, now time.Time) (c Claims) {
	for i := range l.Jobs {
		switch v[3*i] {
		case 0:
			c.Run = append(c.Run, &Held{Job: &l.Jobs[i], Token: token, Seq: l.Seq, Attempt: int(v[3*i+1]), Crashes: int(v[3*i+2]), Started: now})
		case 1:
			c.Elsewhere++
		default:
			c.Over++
		}
	}
	return c
}

// running tells of what began, a message a tenant.
func (s *Store) running(worker string, cs []Claims) {
	by := map[string][]*queue.Job{}
	for _, c := range cs {
		for _, h := range c.Run {
			by[h.Job.Tenant] = append(by[h.Job.Tenant], h.Job)
		}
	}
	for t, js := range by {
		s.publish(t, changes(js, queue.Running, worker)...)
	}
}

// Fate is what a look at a claim found.
type Fate int

const (
	// Ours still: the lease is extended.
	Ours Fate = iota
	// Lost to another claim: stop, commit nothing.
	Lost
	// Over: cancelled, or answered elsewhere. Stop.
	Over
)

// Renew looks at claims again and extends their leases, in one round trip.
func (s *Store) Renew(ctx context.Context, worker string, lease time.Duration, hs []*Held) ([]Fate, error) {
	now := s.now().UnixMilli()
	calls := make([]call, len(hs))
	for i, h := range hs {
		calls[i] = call{renewScript, []string{jobKey(h.Job.Tenant, h.Job.ID), batchKey(h.Job.Tenant, h.Job.Batch)},
			[]any{now, lease.Milliseconds(), worker, h.Token, h.Seq, h.Attempt, known(h.Job)}}
	}
	answers, err := s.run(ctx, false, calls...)
	if err != nil {
		return nil, err
	}
	out := make([]Fate, len(hs))
	for i, a := range answers {
		v, err := a.Int64Slice()
		if err != nil {
			return nil, fmt.Errorf("result: renew: %w", err)
		}
		out[i] = Fate(v[0])
	}
	return out, nil
}

// Release says how a claim is given up.
type Release struct {
	*Held
	// GiveBack the attempt: the run ended by no fault of the job's (a drain, a restart).
	GiveBack bool
	// Crashed adds to the job's count of crashes.
	Crashed bool
	// Saved is how far the run had come, for the next one to go on from; nil where that is not known.
	Saved *engine.Resume
}

// Release makes jobs queued again. Claims that are not ours any more stay as they are.
func (s *Store) Release(ctx context.Context, rs ...Release) error {
	var calls []call
	var saved []Checkpoint
	by := map[string][]*queue.Job{}
	for _, r := range rs {
		if r.Saved.Tokens() > 0 {
			saved = append(saved, Checkpoint{r.Job, r.Saved})
		}
		calls = append(calls, call{releaseScript, []string{jobKey(r.Job.Tenant, r.Job.ID), batchKey(r.Job.Tenant, r.Job.Batch)}, []any{r.Token, btoi(r.GiveBack), btoi(r.Crashed)}})
		by[r.Job.Tenant] = append(by[r.Job.Tenant], r.Job)
	}
	if err := s.Keep(ctx, saved...); err != nil { // before another can claim them
		return err
	}
	if _, err := s.run(ctx, false, calls...); err != nil {
		return err
	}
	for t, js := range by {
		s.publish(t, changes(js, queue.Queued, "")...)
	}
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// CountCrash adds a crash that was a job's own, and returns how many there are.
func (s *Store) CountCrash(ctx context.Context, h *Held) (int, error) {
	n, err := s.rdb.HIncrBy(ctx, jobKey(h.Job.Tenant, h.Job.ID), "crashes", 1).Result()
	if err != nil {
		return 0, s.away(err)
	}
	return int(n), nil
}
