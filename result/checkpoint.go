package result

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"lorry/engine"
	"lorry/queue"
)

// Checkpoint is how far a job's run has come, kept for whoever runs the job next. It is a view: where it is lost, the
// run starts over. It is no part of the claim: the beginning of an answer is right whoever wrote it.
type Checkpoint struct {
	Job    *queue.Job
	Resume *engine.Resume
}

const (
	// checkpointTTL is how long a job that was interrupted may wait for its next run and still go on.
	checkpointTTL = 24 * time.Hour
	// maxCheckpoint bounds one record: some 100,000 tokens, or fewer where log-probabilities were asked for. A larger one
	// is not kept.
	maxCheckpoint = 1 << 20
	// checkpointsAtOnce is how many one round trip carries.
	checkpointsAtOnce = 64
)

// kept is the record.
type kept struct {
	V      int            `json:"v"`
	Resume *engine.Resume `json:"resume"`
}

func checkpointKey(t, id string) string { return "{" + t + "}:resume:" + id }

// Keep writes checkpoints over those before.
func (s *Store) Keep(ctx context.Context, cs ...Checkpoint) error {
	return s.pipe(ctx, len(cs), func(p redis.Pipeliner, i int) {
		b := must(json.Marshal(kept{V, cs[i].Resume}))
		if len(b) <= maxCheckpoint {
			p.Set(ctx, checkpointKey(cs[i].Job.Tenant, cs[i].Job.ID), b, checkpointTTL)
		}
	})
}

// DropKept drops the checkpoints of jobs that are over.
func (s *Store) DropKept(ctx context.Context, jobs ...*queue.Job) error {
	return s.pipe(ctx, len(jobs), func(p redis.Pipeliner, i int) {
		p.Unlink(ctx, checkpointKey(jobs[i].Tenant, jobs[i].ID))
	})
}

// recall fills in how far earlier owners of claimed jobs had come.
func (s *Store) recall(ctx context.Context, hs []*Held) error {
	found := make([]*redis.StringCmd, len(hs))
	err := s.pipe(ctx, len(hs), func(p redis.Pipeliner, i int) {
		found[i] = p.Get(ctx, checkpointKey(hs[i].Job.Tenant, hs[i].Job.ID))
	})
	if err != nil {
		return err
	}
	for i, h := range hs {
		var k kept
		if b, err := found[i].Bytes(); err == nil && json.Unmarshal(b, &k) == nil && k.V <= V {
			h.Resume = k.Resume
		}
	}
	return nil
}

// pipe sends n commands, some in each round trip. A key that is not there is no error.
func (s *Store) pipe(ctx context.Context, n int, add func(p redis.Pipeliner, i int)) error {
	for begin := 0; begin < n; begin += checkpointsAtOnce {
		p := s.rdb.Pipeline()
		for i := begin; i < min(n, begin+checkpointsAtOnce); i++ {
			add(p, i)
		}
		if _, err := p.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return s.away(err)
		}
	}
	return nil
}
