package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"

	"lorry/webhook"
)

// webhooks announces and delivers until ctx ends. Then the announcer stops first, and the attempts under way are
// finished.
func (s *Scheduler) webhooks(ctx context.Context) error {
	rdb, ok := s.cfg.Redis.MakeRedisClient().(redis.UniversalClient)
	if !ok {
		return fmt.Errorf("scheduler: asynq has no client for %T", s.cfg.Redis)
	}
	defer func() { _ = rdb.Close() }()
	l := newLater(rdb, s.cfg.Log)
	h := s.newHooks(l)
	defer h.sender.Close()
	a := &announcer{q: s.cfg.Queue, later: l, book: webhook.NewBook(h.endpoints), log: s.cfg.Log}
	l.tasks[hookKind] = h.deliver
	l.tasks[sweepKind] = endedBy(ctx, (&sweeper{q: s.cfg.Queue, later: l, log: s.cfg.Log}).sweep)
	l.tasks[filesKind] = endedBy(ctx, s.sweepFiles)
	if err := s.untilSetUp(ctx, h.secrets.Setup, a.setup); err != nil {
		return nil // ctx ended
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = a.run(ctx) })
	wg.Go(func() { l.every(ctx, cmp.Or(s.cfg.SweepEvery, defaultSweep), sweepKind) })
	if s.cfg.Files != nil {
		wg.Go(func() { l.every(ctx, filesPeriod, filesKind) })
	}
	return l.run(ctx)
}

// endedBy is a task that ends early when the scheduler does: a drain waits for attempts under way, not for looks around.
func endedBy(stop context.Context, do task) task {
	return func(ctx context.Context, payload []byte, failed int) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(stop, cancel)()
		return do(ctx, payload, failed)
	}
}

func (s *Scheduler) newHooks(l *later) *hooks {
	h := &hooks{q: s.cfg.Queue, results: s.cfg.Results, attempts: webhook.NewLog(l.rdb), sealer: s.cfg.Sealer, log: s.cfg.Log,
		secrets: webhook.NewSecrets(webhook.SecretsConfig{JS: s.cfg.Queue.JS(), Replicas: s.cfg.Queue.Replicas(), Sealer: s.cfg.Sealer, Log: s.cfg.Log}),
		sender:  webhook.NewSender(webhook.SenderConfig{Allow: s.cfg.WebhookAllow})}
	h.endpoints = webhook.NewEndpoints(webhook.EndpointsConfig{JS: s.cfg.Queue.JS(), Sealer: s.cfg.Sealer, Allow: s.cfg.WebhookAllow, Alert: h.alert, Log: s.cfg.Log})
	return h
}

// untilSetUp does admin steps, again and again while NATS is away. An error means that ctx ended.
func (s *Scheduler) untilSetUp(ctx context.Context, steps ...func(context.Context) error) error {
	for ctx.Err() == nil {
		var errs []error
		for _, step := range steps {
			errs = append(errs, step(ctx))
		}
		err := errors.Join(errs...)
		if err == nil {
			return nil
		}
		s.cfg.Log.Warn().Err(err).Msg("webhooks wait for NATS")
		pause(ctx, lookEvery)
	}
	return context.Cause(ctx)
}
