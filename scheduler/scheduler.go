// Package scheduler decides what runs next, and does what happens later.
//
// Its dispatchers keep each base's ready window filled in a fair order; its guard fills a lost Redis from the streams;
// its announcer turns verdicts into events, which asynq delivers.
package scheduler

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/rs/zerolog"

	"lorry/access"
	"lorry/batch"
	"lorry/blob"
	"lorry/engine"
	"lorry/queue"
	"lorry/registry"
	"lorry/result"
	"lorry/webhook"
)

// Config of a scheduler. Queue and Results are required.
type Config struct {
	Queue   *queue.Queue
	Results *result.Store
	// Redis is where asynq keeps its tasks. The scheduler makes its own client from it, and closes it. Nil: this one only
	// dispatches, and others send the webhooks.
	Redis asynq.RedisConnOpt
	// Sealer opens webhooks' secrets; nil where there is no master key.
	Sealer *webhook.Sealer
	// WebhookAllow opens private addresses for webhooks.
	WebhookAllow []netip.Prefix
	// SweepEvery is how often the outbox is compared with asynq. 0: 30 s.
	SweepEvery time.Duration
	// Files are swept of those that expired. Nil: none are.
	Files *batch.Files
	// Batches are validated, fed and closed, in the words of Lines. Nil: there are none.
	Batches *batch.Batches
	Lines   Lines
	// RefuseLate fails batches that are expected to end after their window, as far as a speed was measured.
	RefuseLate bool
	// Weights are the files of models and adapters, swept of those that neither Models nor a job names. Nil: none are.
	Weights blob.Store
	Models  *registry.Registry
	// Access says what operators have set for tenants. Nil: all are equal.
	Access *access.Store
	// Instance names this process's leases: one that starts again under the same name takes them over at once. It must
	// be unique among those that run. Empty: the host and process.
	Instance string
	Log      zerolog.Logger
}

// Scheduler is the role.
type Scheduler struct {
	cfg     Config
	fleet   *queue.Fleet
	batches *batchRoad
	// leaseTTL is how long others wait for this one after its death.
	leaseTTL time.Duration
	// retireEvery is how often a dispatcher asks whether it is still needed.
	retireEvery time.Duration
}

// Lines reads what stands in batches' lines, as the API reads requests.
type Lines interface {
	// Resolve says what a model's name stands for (batch.Resolve).
	Resolve(ctx context.Context, model string) (engine.Model, error)
	// Read fills in the request of a line, whose job is named already. Its error is the line's answer.
	Read(j *queue.Job, body []byte) *engine.Error
}

// New makes a Scheduler. It asks nobody anything.
func New(c Config) (*Scheduler, error) {
	if c.Instance == "" {
		host, _ := os.Hostname()
		c.Instance = cmp.Or(host, "scheduler") + queue.NewID("-")
	}
	s := &Scheduler{cfg: c, leaseTTL: leaseTTL, retireEvery: retireEvery}
	if c.Batches != nil {
		if c.Lines == nil {
			return nil, errors.New("scheduler: Batches need Lines")
		}
		s.batches = newBatchRoad(c.Batches, c.Lines)
	}
	return s, nil
}

// Run schedules until ctx ends. Several may run: what must be done by one is guarded by leases, the rest is without
// effect the second time.
func (s *Scheduler) Run(ctx context.Context) (err error) {
	if s.fleet, err = queue.WatchFleet(ctx, s.cfg.Queue.Conn()); err != nil {
		return err
	}
	parts := []func(context.Context) error{s.guardEpoch, s.dispatch, s.gauge}
	if s.batches != nil {
		parts = append(parts, s.keepBatches)
	}
	if s.cfg.Redis != nil {
		parts = append(parts, s.webhooks)
	}
	if s.cfg.Weights != nil {
		parts = append(parts, s.sweepModels)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		wg.Go(func() { defer cancel(); errs[i] = part(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// tenants is what operators have set, as dispatchers read it.
func (s *Scheduler) tenants() tenants { return settings{s.cfg.Access} }

type settings struct{ access *access.Store }

func (t settings) of(tenant string) access.Settings {
	if t.access == nil {
		return access.Settings{Weight: 1}
	}
	return t.access.Tenant(tenant)
}

func (t settings) Weight(tenant string) float64 { return float64(t.of(tenant).Weight) }
func (t settings) Paused(tenant string) bool    { return t.of(tenant).Paused }
func (t settings) MaxReady(tenant string) int   { return t.of(tenant).MaxReady }
func (t settings) Rate(tenant string) result.Rate {
	return result.Rate(t.of(tenant).Rate())
}
