package result

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"

	"lorry/queue"
)

// Get is what is known of a tenant's job.
func (s *Store) Get(ctx context.Context, tenant, id string) (*Status, error) {
	st, _, err := s.get(ctx, tenant, id)
	return st, err
}

func (s *Store) get(ctx context.Context, tenant, id string) (*Status, facts, error) {
	h, err := s.rdb.HGetAll(ctx, jobKey(tenant, id)).Result()
	if err != nil {
		return nil, facts{}, s.away(err)
	}
	if h["facts"] != "" { // a batch's line has none: it shows in its batch only
		return status(tenant, id, h)
	}
	if err := s.Ready(ctx); err != nil { // lost, not absent
		return nil, facts{}, err
	}
	return nil, facts{}, fmt.Errorf("result: %s: %w", id, ErrNotFound)
}

// status reads a job's hash.
func status(tenant, id string, h map[string]string) (*Status, facts, error) {
	var f facts
	if err := json.Unmarshal([]byte(h["facts"]), &f); err != nil {
		return nil, f, fmt.Errorf("result: facts of %s: %w", id, err)
	}
	num := func(k string) int64 { n, _ := strconv.ParseInt(h[k], 10, 64); return n }
	st := &Status{Job: id, Tenant: tenant, Lane: f.Lane, State: queue.State(h["state"]), Endpoint: f.Endpoint, Model: f.Model.Name,
		Created: f.Created, Started: num("started"), Deadline: f.Deadline, Attempt: int(num("attempt")), Worker: h["worker"], Metadata: f.Metadata}
	if v := h["verdict"]; v != "" {
		d, err := Decode([]byte(v))
		if err != nil {
			return nil, f, err
		}
		st.Verdict, st.Ended, st.Cached = d, d.Ended, d.Cached
	}
	return st, f, nil
}

// Filter narrows a list.
type Filter struct {
	// After is the job that the page before ended with.
	After string
	// Limit is how many to return; 0 is 20.
	Limit int
	// State keeps only jobs in it; empty keeps all.
	State queue.State
}

// listAtOnce is how many jobs one look reads.
const listAtOnce = 100

// List is a tenant's jobs, the newest first, and whether there are more. A job that can't be read is left out, never the
// page.
func (s *Store) List(ctx context.Context, tenant string, f Filter) (out []Status, more bool, err error) {
	if f.Limit <= 0 {
		f.Limit = 20
	}
	start, err := s.after(ctx, tenant, f.After)
	if err != nil {
		return nil, false, err
	}
	for {
		ids, err := s.rdb.ZRevRange(ctx, jobsKey(tenant), start, start+listAtOnce-1).Result()
		if err != nil {
			return nil, false, s.away(err)
		}
		page, err := s.readAll(ctx, tenant, ids)
		if err != nil {
			return nil, false, err
		}
		for _, st := range page {
			if f.State != "" && st.State != f.State {
				continue
			}
			if len(out) == f.Limit {
				return out, true, nil
			}
			out = append(out, st)
		}
		if len(ids) < listAtOnce {
			return out, false, nil
		}
		start += listAtOnce
	}
}

// after is the rank behind a job. A cursor that is gone is ErrNotFound.
func (s *Store) after(ctx context.Context, tenant, id string) (int64, error) {
	if id == "" {
		return 0, nil
	}
	r, err := s.rdb.ZRevRank(ctx, jobsKey(tenant), id).Result()
	if errors.Is(err, redis.Nil) {
		return 0, fmt.Errorf("result: after %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return 0, s.away(err)
	}
	return r + 1, nil
}

// readAll reads jobs' hashes in one round trip, leaving out those that have expired.
func (s *Store) readAll(ctx context.Context, tenant string, ids []string) (out []Status, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	p := s.rdb.Pipeline()
	cmds := make([]*redis.MapStringStringCmd, len(ids))
	for i, id := range ids {
		cmds[i] = p.HGetAll(ctx, jobKey(tenant, id))
	}
	if _, err := p.Exec(ctx); err != nil {
		return nil, s.away(err)
	}
	for i, c := range cmds {
		if st, _, err := status(tenant, ids[i], c.Val()); err == nil {
			out = append(out, *st)
		}
	}
	return out, nil
}

// Waiter waits for a job's verdict.
type Waiter struct {
	s           *Store
	tenant, job string
	sub         *nats.Subscription
	done        chan *nats.Msg
}

// Expect begins to listen for a job's end. Call it before the job is submitted, and Stop it.
func (s *Store) Expect(tenant, job string) (*Waiter, error) {
	w := &Waiter{s: s, tenant: tenant, job: job, done: make(chan *nats.Msg, 1)}
	sub, err := s.q.Conn().ChanSubscribe(queue.DoneSubject(job), w.done)
	if err != nil {
		return nil, fmt.Errorf("result: expect %s: %w", job, errors.Join(queue.ErrAway, err))
	}
	w.sub = sub
	return w, nil
}

// Stop ends listening.
func (w *Waiter) Stop() { _ = w.sub.Unsubscribe() }

// Done delivers the hint that the job is over; Verdict reads it. For callers that wait for other things too.
func (w *Waiter) Done() <-chan *nats.Msg { return w.done }

// pollEvery is how often Redis is asked, in case the hint was lost.
const pollEvery = time.Second

// Wait returns the job's verdict, or ctx's cause. Hints may be lost; Redis is asked each second.
func (w *Waiter) Wait(ctx context.Context) (*Verdict, error) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		select {
		case m := <-w.done:
			return Decode(m.Data)
		case <-t.C:
			if v := w.Look(ctx); v != nil {
				return v, nil
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Look asks Redis once: nil while the job is not over, or Redis is away.
func (w *Waiter) Look(ctx context.Context) *Verdict {
	st, err := w.s.Get(ctx, w.tenant, w.job)
	if err != nil {
		return nil
	}
	return st.Verdict
}
