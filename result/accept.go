package result

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"lorry/engine"
	"lorry/queue"
)

// Accept makes jobs known as queued. Jobs that are known already stay as they are. The caller submits them next, or
// forgets them.
func (s *Store) Accept(ctx context.Context, jobs ...*queue.Job) error {
	return s.accepting.join(ctx, jobs, s.accept)
}

// acceptAtOnce bounds one script call: Redis serves nobody else meanwhile.
const acceptAtOnce = 128

func (s *Store) accept(ctx context.Context, jobs []*queue.Job) error {
	by := byTenant(jobs)
	if _, err := s.run(ctx, true, s.acceptCalls(by)...); err != nil {
		return err
	}
	for t, js := range by {
		s.publish(t, changes(js, queue.Queued, "")...)
	}
	return nil
}

func (s *Store) acceptCalls(by map[string][]*queue.Job) (calls []call) {
	for t, js := range by {
		for part := range slices.Chunk(js, acceptAtOnce) {
			calls = append(calls, s.acceptCall(t, part))
		}
	}
	return calls
}

func (s *Store) acceptCall(t string, js []*queue.Job) call {
	c := call{acceptScript, []string{jobsKey(t)}, []any{s.oldest()}}
	for _, j := range js {
		c.keys = append(c.keys, jobKey(t, j.ID))
		c.args = append(c.args, j.ID, j.Created, factsOf(j).encode())
	}
	return c
}

// oldest is the creation time of the oldest job still listed.
func (s *Store) oldest() int64 { return s.now().Add(-s.cfg.ResultTTL - 24*time.Hour).UnixMilli() }

// byTenant leaves batches' lines out: their batch accepted them.
func byTenant(jobs []*queue.Job) map[string][]*queue.Job {
	out := map[string][]*queue.Job{}
	for _, j := range jobs {
		if j.Batch == "" {
			out[j.Tenant] = append(out[j.Tenant], j)
		}
	}
	return out
}

// changes leaves batches' lines out: there are too many to be told of singly.
func changes(js []*queue.Job, st queue.State, worker string) (out []Change) {
	for _, j := range js {
		if j.Batch != "" {
			continue
		}
		out = append(out, Change{Job: j.ID, Tenant: j.Tenant, State: st, Lane: j.Lane, Model: j.Request.Model.Name, Worker: worker, At: time.Now().UnixMilli()})
	}
	return out
}

// Joined says how a cacheable job is to be answered. All zero: it leads, run it.
type Joined struct {
	// Hit is the cached answer.
	Hit *engine.Completion
	// Leader is the equal job under way whose answer will be this one's too.
	Leader string
	// Over says that the job itself is terminal.
	Over bool
}

// Join accepts a cacheable job, looks for its answer, and puts it in the flight of equal jobs: fleet-wide, one of them
// leads at a time. A leader's verdict, whichever it is, ends the flight; followers of one that failed join again.
func (s *Store) Join(ctx context.Context, j *queue.Job) (Joined, error) {
	out, err := s.JoinAll(ctx, []*queue.Job{j})
	if err != nil {
		return Joined{}, err
	}
	return out[0], nil
}

// JoinAll is Join for many jobs in one round trip.
func (s *Store) JoinAll(ctx context.Context, jobs []*queue.Job) ([]Joined, error) {
	calls := make([]call, len(jobs))
	for i, j := range jobs {
		calls[i] = call{joinScript,
			[]string{jobsKey(j.Tenant), jobKey(j.Tenant, j.ID), cacheKey(j.Tenant, j.CacheKey), flightKey(j.Tenant, j.CacheKey, j.Batch), cacheIndex(j.Tenant)},
			[]any{j.ID, j.Created, known(j), jobKey(j.Tenant, ""), s.now().UnixMilli(), leadFor(j).Milliseconds()}}
	}
	answers, err := s.run(ctx, true, calls...)
	if err != nil {
		return nil, err
	}
	out := make([]Joined, len(jobs))
	for i, a := range answers {
		if out[i], err = joined(a); err != nil {
			return nil, fmt.Errorf("result: join %s: %w", jobs[i].ID, err)
		}
	}
	return out, nil
}

// leadFor is how long a job may lead while it is queued. Somebody waits for the followers of one that is waited for.
func leadFor(j *queue.Job) time.Duration {
	if j.Waited {
		return time.Minute
	}
	return 10 * time.Minute
}

func joined(a *redis.Cmd) (j Joined, err error) {
	v, err := a.Slice()
	if err != nil {
		return j, err
	}
	switch v[0].(int64) {
	case 1:
		j.Leader = v[1].(string)
	case 2:
		j.Hit = &engine.Completion{}
		err = json.Unmarshal([]byte(v[1].(string)), j.Hit)
	case 3:
		j.Over = true
	}
	return j, err
}

// Forget undoes Accept, Join and Idempotent of a job that could not be submitted. A job that runs stays.
func (s *Store) Forget(ctx context.Context, j *queue.Job) error { return s.forget(ctx, j, false) }

// LeaveFlight undoes the part of Join that equal jobs depend on, of a job that is submitted later, if at all.
func (s *Store) LeaveFlight(ctx context.Context, j *queue.Job) error { return s.forget(ctx, j, true) }

func (s *Store) forget(ctx context.Context, j *queue.Job, flightOnly bool) error {
	idem := named(j.Tenant, "idem", "")
	if j.Idem != nil {
		idem = idemKey(j.Tenant, j.Idem.Key)
	}
	_, err := s.run(ctx, false, call{forgetScript, []string{jobsKey(j.Tenant), jobKey(j.Tenant, j.ID), flightKey(j.Tenant, j.CacheKey, j.Batch), idem},
		[]any{j.ID, btoi(flightOnly)}})
	return err
}

// idemTTL is how long an idempotency key binds.
const idemTTL = 24 * time.Hour

func idemKey(t, key string) string {
	sum := sha256.Sum256([]byte(key))
	return named(t, "idem", hex.EncodeToString(sum[:16]))
}

// Idempotent binds a key to a job for 24 hours, per tenant. Bound before with the same body, it answers the job that
// stands (empty: this one is bound now); with another body, ErrIdemMismatch. While Redis is lost it is ErrEpoch: the key
// may be bound by a job that only the streams know, and a replay overwrites what is bound meanwhile.
func (s *Store) Idempotent(ctx context.Context, tenant string, i queue.Idem, job string) (standing string, err error) {
	p := s.rdb.Pipeline()
	epoch := p.Exists(ctx, epochKey)
	set := p.SetArgs(ctx, idemKey(tenant, i.Key), job+" "+i.Body, redis.SetArgs{Mode: "NX", Get: true, TTL: idemTTL})
	if _, err := p.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return "", s.away(err)
	}
	if epoch.Val() == 0 {
		return "", fmt.Errorf("result: %w", ErrEpoch)
	}
	old, err := set.Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	standing, body, _ := strings.Cut(old, " ")
	if body != i.Body {
		return "", fmt.Errorf("result: %w", ErrIdemMismatch)
	}
	return standing, nil
}
