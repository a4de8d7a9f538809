package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"

	"lorry/access"
	"lorry/batch"
	"lorry/blob"
	"lorry/queue"
	"lorry/registry"
	"lorry/result"
	"lorry/webhook"
)

// stores are what a role works on: a connection of its own to NATS, one to Redis, and the packages over them. They are
// the same in `lorry up` and in a process of one role.
type stores struct {
	nats     *nats.Conn
	redis    redis.UniversalClient
	redisAt  *redisPlace
	queue    *queue.Queue
	results  *result.Store
	access   *access.Store
	registry *registry.Registry
	fleet    *queue.Fleet
	blobs    blob.Store
	files    *batch.Files
	batches  *batch.Batches
	weights  blob.Store // models and adapters
	log      logger
	// tryAdapter and tryModel, if not nil, try what is pushed here.
	tryAdapter func(ctx context.Context, base registry.Model, digest string) error
	tryModel   func(ctx context.Context, digest string) error
	// quantizeModel, if not nil, writes what is pushed here in another format.
	quantizeModel func(ctx context.Context, digest, to string, again bool) (io.ReadCloser, error)
}

// openStores connects a role. open lets everybody in while no key was ever made.
func openStores(ctx context.Context, c *Config, at places, role string, open bool, log logger) (_ *stores, err error) {
	s := &stores{log: log}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.nats, err = openNATS(ctx, c, at, role, log); err != nil {
		return nil, err
	}
	if err = checkNATS(ctx, s.nats, c, log); err != nil {
		return nil, err
	}
	if s.redisAt, s.redis, err = openRedis(ctx, c, at.Redis, log); err != nil {
		return nil, err
	}
	backlog, jobs := c.backlogBytes()
	if s.queue, err = queue.New(queue.Config{Conn: s.nats, Replicas: c.Replicas, BacklogBytes: backlog, JobsBytes: jobs, Log: log}); err != nil {
		return nil, err
	}
	s.results = result.New(result.Config{Queue: s.queue, Redis: s.redis, Log: log, ResultTTL: c.ResultTTL, CacheTTL: c.CacheTTL, CacheBytes: int64(c.CacheBytes)})
	s.access = access.New(access.Config{JS: s.queue.JS(), Replicas: c.Replicas, Open: open, Log: log})
	s.registry = registry.New(registry.Config{JS: s.queue.JS(), Replicas: c.Replicas, Log: log})
	return s, nil
}

// openFiles opens files and batches, for the roles that need them; once more does nothing.
func (s *stores) openFiles(ctx context.Context, c *crew, cfg *Config) error {
	if s.files != nil {
		return nil
	}
	var err error
	if s.blobs, err = s.openBlobs(ctx, c.closer, cfg, blob.DefaultBucket); err != nil {
		return err
	}
	s.files = batch.NewFiles(batch.FilesConfig{JS: s.queue.JS(), Blobs: s.blobs, Replicas: cfg.Replicas, Log: s.log})
	s.batches = batch.NewBatches(batch.BatchesConfig{Queue: s.queue, Results: s.results, Files: s.files, Replicas: cfg.Replicas, Log: s.log})
	return errors.Join(s.files.Setup(ctx), s.batches.Setup(ctx))
}

// openWeights opens the store of models and adapters, for the roles that need it; once more does nothing.
func (s *stores) openWeights(ctx context.Context, closer func(string, func()), cfg *Config) (err error) {
	if s.weights == nil {
		s.weights, err = s.openBlobs(ctx, closer, cfg, weightsBucket)
	}
	return err
}

// openBlobs opens a store of bytes: a folder of the data folder, what begins so in an S3 bucket, or NATS' bucket of the
// same name, which it makes.
func (s *stores) openBlobs(ctx context.Context, closer func(string, func()), cfg *Config, name string) (blob.Store, error) {
	at := cfg.blobsAt()
	if at == "folder" {
		d, err := blob.OpenDir(blob.DirConfig{Dir: filepath.Join(cfg.Data, name)})
		if err != nil {
			return nil, err
		}
		closer(name, func() { _ = d.Close() })
		return d, nil
	}
	if strings.HasPrefix(at, "s3:") {
		return openS3(ctx, closer, at, name)
	}
	o := blob.NewObjects(blob.ObjectsConfig{JS: s.queue.JS(), Bucket: name, Replicas: cfg.Replicas})
	return o, o.Setup(ctx)
}

func openS3(ctx context.Context, closer func(string, func()), at, name string) (blob.Store, error) {
	c, err := blob.ParseS3(at)
	if err != nil {
		return nil, err
	}
	c.Prefix += name + "/"
	s, err := blob.OpenS3(ctx, c)
	if err != nil {
		return nil, err
	}
	closer(name, func() { _ = s.Close() })
	return s, nil
}

// weightsBucket holds models and adapters. It is not the one of clients' files, which counts its files and deletes what none has.
const weightsBucket = "weights"

// clearEvery is how often what dead processes left half-way is looked for.
const clearEvery = 6 * time.Hour

// clearBlobs removes it, until ctx ends.
func (s *stores) clearBlobs(ctx context.Context) error {
	every(ctx, clearEvery, func() {
		s.clear(ctx, "files", s.blobs)
		s.clear(ctx, "models and adapters", s.weights)
	})
	return nil
}

func (s *stores) clear(ctx context.Context, what string, of blob.Store) {
	n, err := of.Clear(ctx, time.Now().Add(-blob.StaleAfter))
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.log.Warn().Err(err).Str("of", what).Msg("half-written blobs are not cleared")
	case n > 0:
		s.log.Info().Int("blobs", n).Str("of", what).Msg("half-written blobs cleared")
	}
}

// every does something at once and again after each interval, until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

func (s *stores) close() {
	if s.redis != nil {
		_ = s.redis.Close()
	}
	if s.nats != nil {
		_ = s.nats.FlushTimeout(time.Second) // hints under way
		s.nats.Close()
	}
}

// setup is the admin step: streams and buckets. It is done again at each start, and then changes nothing.
func (s *stores) setup(ctx context.Context) error {
	secrets := webhook.NewSecrets(webhook.SecretsConfig{JS: s.queue.JS(), Replicas: s.queue.Replicas(), Log: s.log})
	for _, f := range []func(context.Context) error{s.queue.Setup, s.access.Setup, s.registry.Setup, secrets.Setup} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// run adds to the crew what keeps the stores alive, and waits until they know keys and models.
func (s *stores) run(ctx context.Context, c *crew, role string) error {
	c.closer(role+" connections", s.close)
	c.start(role+" commits", s.queue.Run)
	c.start(role+" keys", s.access.Run)
	c.start(role+" models", s.registry.Run)
	var err error
	c.start(role+" fleet", func(ctx context.Context) error { <-ctx.Done(); return nil })
	if s.fleet, err = queue.WatchFleet(c.last(), s.nats); err != nil {
		return fmt.Errorf("nats: watch the fleet: %w", err)
	}
	for _, ready := range []<-chan struct{}{s.access.Ready(), s.registry.Ready()} {
		select {
		case <-ready:
		case err := <-c.failed:
			return err
		case <-time.After(connectWait):
			return fmt.Errorf("nats: keys and models can't be read: are its streams there? (lorry up, producer and scheduler make them)")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
