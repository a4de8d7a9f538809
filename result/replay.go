package result

import (
	"context"
	"fmt"
	"strings"
	"time"

	"lorry/queue"
)

// replayAtOnce is how many messages one look at a stream reads.
const replayAtOnce = 1000

// Replay derives Redis again from RESULTS, BACKLOG, LATER and JOBS, and then sets the epoch, which opens the doors. It
// may run while others work, and twice: every step is without effect on what is known. n counts messages.
func (s *Store) Replay(ctx context.Context) (n int, err error) {
	type step struct {
		stream, filter string
		apply          func(context.Context, []queue.Stored) error
	}
	results := step{queue.StreamResults, "results.>", s.replayVerdicts}
	later := step{queue.StreamLater, ">", s.replayJobs}
	// Jobs move on meanwhile: from JOBS to where a look was taken already. So RESULTS and LATER are read on at the end.
	steps := []step{results, {queue.StreamBacklog, "backlog.>", s.replayJobs}, later, {queue.StreamJobs, "jobs.>", s.replayDeliveries}, later, results}
	next := map[string]uint64{}
	for _, st := range steps {
		k, seq, err := s.scan(ctx, st.stream, st.filter, next[st.stream], st.apply)
		if n += k; err != nil {
			return n, fmt.Errorf("result: replay %s: %w", st.stream, err)
		}
		next[st.stream] = seq
	}
	return n, s.Open(ctx)
}

// Open says that Redis holds what the streams say.
func (s *Store) Open(ctx context.Context) error {
	if err := s.rdb.SetNX(ctx, epochKey, time.Now().UnixMilli(), 0).Err(); err != nil {
		return s.away(err)
	}
	return nil
}

// scan reads a stream from seq on, and says where it ended.
func (s *Store) scan(ctx context.Context, stream, filter string, seq uint64, apply func(context.Context, []queue.Stored) error) (n int, next uint64, err error) {
	for ms, err := range s.q.Pages(ctx, stream, filter, seq, replayAtOnce) {
		if err == nil {
			err = apply(ctx, ms)
		}
		if err != nil {
			return n, seq, err
		}
		n, seq = n+len(ms), ms[len(ms)-1].Seq+1
	}
	return n, seq, nil
}

// replayVerdicts projects records; one that can't be read is told of and left.
func (s *Store) replayVerdicts(ctx context.Context, ms []queue.Stored) error {
	var vs []*Verdict
	for _, m := range ms {
		if strings.HasPrefix(m.Subject, "results.end.") {
			continue // a batch's: its own record says so
		}
		v, err := Decode(m.Data)
		if err != nil {
			s.cfg.Log.Error().Err(err).Uint64("seq", m.Seq).Msg("record left out of the replay")
			continue
		}
		vs = append(vs, v)
	}
	if err := s.project(ctx, vs); err != nil {
		return err
	}
	for _, v := range vs {
		if err := s.rebind(ctx, v.Tenant, v.Idem, v.Job, v.Created); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) replayJobs(ctx context.Context, ms []queue.Stored) error {
	var jobs []*queue.Job
	for _, m := range ms {
		for data := range queue.Bundled(m.Data) {
			j, err := queue.DecodeJob(data)
			if err != nil {
				s.cfg.Log.Error().Err(err).Uint64("seq", m.Seq).Msg("job left out of the replay")
				continue
			}
			jobs = append(jobs, &j)
		}
	}
	return s.reaccept(ctx, jobs)
}

func (s *Store) replayDeliveries(ctx context.Context, ms []queue.Stored) error {
	var jobs []*queue.Job
	for _, m := range ms {
		d, err := queue.DecodeDelivery(m.Data)
		if err != nil {
			continue // the worker that pulls it buries it
		}
		for i := range d.Jobs {
			jobs = append(jobs, &d.Jobs[i])
		}
	}
	return s.reaccept(ctx, jobs)
}

// reaccept is Accept while the epoch is gone.
func (s *Store) reaccept(ctx context.Context, jobs []*queue.Job) error {
	if _, err := s.run(ctx, false, s.acceptCalls(byTenant(jobs))...); err != nil {
		return err
	}
	for _, j := range jobs {
		if err := s.rebind(ctx, j.Tenant, j.Idem, j.ID, j.Created); err != nil {
			return err
		}
	}
	return nil
}

// rebind restores an idempotency key for the rest of its time. It overwrites: what was bound while Redis was lost was
// bound without a look at the streams, and refused.
func (s *Store) rebind(ctx context.Context, tenant string, i *queue.Idem, job string, created int64) error {
	if i == nil {
		return nil
	}
	left := idemTTL - s.now().Sub(time.UnixMilli(created))
	if left <= 0 {
		return nil
	}
	if err := s.rdb.Set(ctx, idemKey(tenant, i.Key), job+" "+i.Body, left).Err(); err != nil {
		return s.away(err)
	}
	return nil
}
