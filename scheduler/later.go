package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"lorry/webhook"
)

// later carries what is to be done later: webhooks, sweeps. It is the one place that knows asynq, and what asynq must
// not be trusted with (CONTRACTS section 3.1):
//
//   - A task that is done may run again: marking it done can fail for good, and a lease can end early. So what a task
//     does is without effect the second time.
//   - A task may never run: one that can't be decoded stops the recovery of all others, and an active one without a
//     lease is never looked at again. So the intent is kept outside (OUTBOX), and a sweep hands in again, under the same
//     ID, what asynq lost, and takes apart what hangs.
//   - It polls each second and retries like Sidekiq: both are set here.
type later struct {
	rdb    redis.UniversalClient
	client *asynq.Client
	tasks  map[string]task
	log    zerolog.Logger
}

// task does one thing later. failed counts the runs before this one that failed. An *again says when to come back; any
// other error comes back by webhook.Next.
type task func(ctx context.Context, payload []byte, failed int) error

// again is a task that is to run again.
type again struct {
	after time.Duration
	// quiet ones are no failure: they count nowhere.
	quiet bool
	err   error
}

func (a *again) Error() string { return a.err.Error() }
func (a *again) Unwrap() error { return a.err }

// Queues of asynq: what a webhook's receiver holds up holds up nothing else.
const (
	hooksQueue = "webhooks"
	sweepQueue = "sweeps"
)

const (
	// concurrency is how many tasks run at once in this process. They wait for others most of the time, and one that
	// finds its receiver crowded comes back a second later: better not in a burst.
	concurrency = 512
	// taskTimeout is an attempt of a webhook, and what is to be written down behind it.
	taskTimeout = time.Minute
	// drainTime is how long tasks that run may take to end when the scheduler stops: an attempt's timeout and a bit.
	drainTime = 17 * time.Second
	// maxRetry keeps asynq from giving up: tasks do so themselves, by age.
	maxRetry = 1 << 20
)

func newLater(rdb redis.UniversalClient, log zerolog.Logger) *later {
	return &later{rdb: rdb, client: asynq.NewClientFromRedisClient(rdb), tasks: map[string]task{}, log: log}
}

// run works until ctx ends and the tasks that run then have ended, or were handed back.
func (l *later) run(ctx context.Context) error {
	srv := asynq.NewServerFromRedisClient(l.rdb, asynq.Config{
		Concurrency: concurrency,
		Queues:      map[string]int{hooksQueue: 9, sweepQueue: 1},
		// Enqueue to handler is 7 ms at the median with this, and 683 ms without.
		TaskCheckInterval: 10 * time.Millisecond, DelayedTaskCheckInterval: time.Second,
		RetryDelayFunc: retryDelay, IsFailure: isFailure,
		ShutdownTimeout: drainTime,
		Logger:          asynqLog{l.log}, LogLevel: asynq.WarnLevel,
	})
	if err := srv.Start(asynq.HandlerFunc(l.handle)); err != nil {
		return fmt.Errorf("scheduler: start asynq: %w", err)
	}
	<-ctx.Done()
	srv.Shutdown()
	return nil
}

func (l *later) handle(ctx context.Context, t *asynq.Task) error {
	do, ok := l.tasks[t.Type()]
	if !ok {
		// A newer scheduler's, in a rolling upgrade: it will take it.
		return &again{after: 10 * time.Second, quiet: true, err: fmt.Errorf("scheduler: unknown task %q", t.Type())}
	}
	failed, _ := asynq.GetRetryCount(ctx)
	return do(ctx, t.Payload(), failed)
}

func retryDelay(failed int, err error, _ *asynq.Task) time.Duration {
	if a, ok := errors.AsType[*again](err); ok {
		return a.after
	}
	wait, _ := webhook.Next(failed+1, 0, 0, rand.Float64())
	return wait
}

func isFailure(err error) bool {
	a, ok := errors.AsType[*again](err)
	return err != nil && !(ok && a.quiet)
}

// enqueue hands a task in under an ID. One that is there already stays as it is.
func (l *later) enqueue(ctx context.Context, kind, queue, id string, payload []byte, opts ...asynq.Option) error {
	opts = append(opts, asynq.Queue(queue), asynq.TaskID(id), asynq.MaxRetry(maxRetry), asynq.Timeout(taskTimeout))
	_, err := l.client.EnqueueContext(ctx, asynq.NewTask(kind, payload), opts...)
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return fmt.Errorf("scheduler: enqueue %s: %w", id, err)
	}
	return nil
}

// every runs a task in each period, once in the whole fleet, without a leader: each replica hands in the coming runs
// under IDs that name their times, which are kept longer than anybody looks ahead. (Two of asynq's own periodic managers
// fire twice.) A Redis that was flushed is told the current run again within a sixth of the period.
func (l *later) every(ctx context.Context, period time.Duration, kind string) {
	for ctx.Err() == nil {
		l.name(ctx)
		slot := time.Now().Truncate(period)
		for range 3 {
			id := "sched:" + kind + ":" + strconv.FormatInt(slot.UnixMilli(), 10)
			if err := l.enqueue(ctx, kind, sweepQueue, id, nil, asynq.ProcessAt(slot), asynq.Retention(8*period+time.Minute)); err != nil && ctx.Err() == nil {
				l.log.Warn().Err(err).Str("task", kind).Msg("periodic task is not planned")
			}
			slot = slot.Add(period)
		}
		pause(ctx, period/6)
	}
}

// name keeps our queues in the list that asynq's dashboard reads: its client writes them once in its life, and Redis may
// have been flushed since.
func (l *later) name(ctx context.Context) {
	_ = l.rdb.SAdd(ctx, "asynq:queues", hooksQueue, sweepQueue).Err()
}

// fate is what asynq knows of a task.
type fate int

const (
	// kept tasks wait or run; also those that an operator archived.
	kept fate = iota
	// lost ones are unknown to asynq.
	lost
	// stuck ones are active, but nobody has a lease on them.
	stuck
)

// fatesAtOnce bounds one pipeline.
const fatesAtOnce = 512

// fates looks tasks up, a pipeline for many: asynq's own inspector costs a round trip each.
func (l *later) fates(ctx context.Context, queue string, ids []string) ([]fate, error) {
	out := make([]fate, 0, len(ids))
	for len(ids) > 0 {
		n := min(fatesAtOnce, len(ids))
		states, leases := make([]*redis.StringCmd, n), make([]*redis.FloatCmd, n)
		_, err := l.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, id := range ids[:n] {
				states[i], leases[i] = p.HGet(ctx, taskKey(queue, id), "state"), p.ZScore(ctx, queueKey(queue, "lease"), id)
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("scheduler: look up tasks: %w", err)
		}
		for i := range n {
			out = append(out, fateOf(states[i].Val(), leases[i].Err()))
		}
		ids = ids[n:]
	}
	return out, nil
}

func fateOf(state string, lease error) fate {
	switch {
	case state == "" || state == "completed":
		return lost
	case state == "active" && errors.Is(lease, redis.Nil):
		return stuck
	}
	return kept
}

// free takes a stuck task out of asynq, so that it can be handed in again. One that moved on meanwhile is left alone.
func (l *later) free(ctx context.Context, queue, id string) error {
	fs, err := l.fates(ctx, queue, []string{id})
	if err != nil || fs[0] != stuck {
		return err
	}
	_, err = l.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.LRem(ctx, queueKey(queue, "active"), 0, id)
		p.Del(ctx, taskKey(queue, id))
		return nil
	})
	if err != nil {
		return fmt.Errorf("scheduler: free task %s: %w", id, err)
	}
	return nil
}

// asynq's keys (internal/base of v0.26).
func queueKey(queue, what string) string { return "asynq:{" + queue + "}:" + what }
func taskKey(queue, id string) string    { return queueKey(queue, "t:"+id) }

// asynqLog is asynq's log in ours.
type asynqLog struct{ log zerolog.Logger }

func (a asynqLog) Debug(args ...any) { a.log.Debug().Msg(fmt.Sprint(args...)) }
func (a asynqLog) Info(args ...any)  { a.log.Debug().Msg(fmt.Sprint(args...)) }
func (a asynqLog) Warn(args ...any)  { a.log.Warn().Msg(fmt.Sprint(args...)) }
func (a asynqLog) Error(args ...any) { a.log.Error().Msg(fmt.Sprint(args...)) }
func (a asynqLog) Fatal(args ...any) { a.log.Error().Msg(fmt.Sprint(args...)) }
