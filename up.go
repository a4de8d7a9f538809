package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

func newUp() *cobra.Command {
	c := &cobra.Command{Use: "up", Short: "Run everything on this box: one command, one folder", Args: cobra.NoArgs,
		Long: `Run everything on this box: NATS (JetStream on disk), Valkey, the API, the scheduler, the dashboard, and workers.

All that lasts is in the data folder; several lorry up with different folders and ports run beside each other, and
lorry worker --data DIR joins one from another process. --nats and --redis put either server elsewhere.

With no key made, a loopback listener lets everybody in as tenant default; any other address needs a key first
(lorry key create). SIGTERM or Ctrl-C drains: no new work, what runs is finished or handed back, exit 0; a second one
ends at once, and what was accepted goes on at the next start.`,
		Example: `  lorry up                                            # SmolLM2 on http://127.0.0.1:8080
  lorry up --model-file my.gguf --model-name support --slots 8
  lorry up --model-file my-f16.gguf --quantize q4_0   # once, then served in that format
  lorry up --engine http://127.0.0.1:8000             # before a vLLM, SGLang, TGI or llama-server
  lorry up --engine echo --data /tmp/lorry --listen 127.0.0.1:0   # no model: client development`}
	load := bindConfig(c, "up")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		log := newLog(cfg, cmd.ErrOrStderr())
		return runUp(cmd.Context(), cfg, log, cfg.quantizes(log, cmd.ErrOrStderr()))
	}
	return c
}

// runUp runs one box from its start to the end of its drain. What is missing is said before anything is started.
func runUp(ctx context.Context, cfg *Config, log logger, write quantizing) error {
	if err := checkEngine(cfg); err != nil {
		return err
	}
	unlock, err := lockUp(cfg.Data)
	if err != nil {
		return err
	}
	defer unlock()
	if err := cfg.quantized(ctx, log, write); err != nil {
		return stopped(ctx, errors.Join(err, ctx.Err()))
	}
	began := time.Now()
	log.Info().Str("version", versionString()).Str("data", cfg.Data).Str("engine", cfg.Engine).Msg("starting")
	c := newCrew(log, cfg.Grace)
	defer c.stop()
	url, err := compose(ctx, c, cfg, log)
	if err != nil {
		return stopped(ctx, err)
	}
	log.Info().Str("api", url+"/v1").Str("dashboard", url+"/").Dur("took", time.Since(began)).Msg("lorry is up")
	return c.finish(ctx)
}

// compose starts the parts of one box in the order in which they need each other: servers, stores, scheduler, workers,
// listener, pages, API. The crew stops them in the opposite order: the API refuses new work and finishes what waits, open
// pages end, the workers finish or hand back, then the rest.
func compose(ctx context.Context, c *crew, cfg *Config, log logger) (url string, err error) {
	run, err := startServers(ctx, c, cfg, log)
	if err != nil {
		return "", err
	}
	front, err := upStores(ctx, c, cfg, run.places, "front", log)
	if err != nil {
		return "", err
	}
	if err := front.listensAlone(ctx, cfg); err != nil {
		return "", err
	}
	sealer, err := newSealer(cfg, true)
	if err != nil {
		return "", err
	}
	back, err := upStores(ctx, c, cfg, run.places, "scheduler", log)
	if err != nil {
		return "", err
	}
	if err := back.startScheduler(ctx, c, cfg, sealer, upInstance(cfg)); err != nil {
		return "", err
	}
	if err := startWorkers(ctx, c, cfg, run.places, log); err != nil {
		return "", err
	}
	var api, pages http.Handler
	web, err := startHTTP(c, cfg, log, func() http.Handler { return oneListener(api, pages) })
	if err != nil {
		return "", err
	}
	if pages, err = front.startDashboard(ctx, c, cfg); err != nil {
		return "", err
	}
	front.tryAdapter, front.tryModel, front.quantizeModel = front.triesAdapters(cfg), front.triesModels(cfg), front.quantizesModels(cfg)
	if api, err = front.startProducer(ctx, c, cfg, sealer, front.workerThere(cfg)); err != nil {
		return "", err
	}
	web.open()
	run.HTTP = web.url()
	if err := run.write(cfg.Data); err != nil {
		return "", fmt.Errorf("run file: %w", err)
	}
	return run.HTTP, nil
}

// upInstance names the one lorry up that the folder's lock allows: one that starts after a kill has the leases of the one
// before it at once.
func upInstance(cfg *Config) string {
	host, _ := os.Hostname()
	sum := sha256.Sum256([]byte(cfg.Data))
	return host + "-" + hex.EncodeToString(sum[:8])
}

// startWorkers adds the workers to the crew, as one part: they drain at the same time.
func startWorkers(ctx context.Context, c *crew, cfg *Config, at places, log logger) error {
	var parts []func(context.Context) error
	for i := range cfg.Workers {
		s, err := upStores(ctx, c, cfg, at, "worker "+strconv.Itoa(i+1), log)
		if err == nil && cfg.Engine == "llama" {
			err = s.openWeights(ctx, c.closer, cfg)
		}
		if err != nil {
			return err
		}
		parts = append(parts, s.workParts(cfg, i == 0)...)
	}
	if len(parts) > 0 {
		c.start("workers", func(ctx context.Context) error { return together(ctx, parts) })
	}
	return nil
}

// together runs parts until ctx or one of them ends, and returns when all have.
func together(ctx context.Context, parts []func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, run := range parts {
		wg.Go(func() { defer cancel(); errs[i] = run(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// startServers starts what the settings do not say to be elsewhere, and tells other processes where all is.
func startServers(ctx context.Context, c *crew, cfg *Config, log logger) (runFile, error) {
	last, _ := readRunFile(cfg.Data)
	run := runFile{V: 1, PID: os.Getpid(), Version: versionString(), Started: time.Now().UTC(), places: places{NATS: cfg.NATS, Redis: cfg.Redis, Blobs: cfg.blobsAt()}}
	if run.NATS == "" {
		n, err := startNATS(cfg, last, log.With().Str("part", "nats").Logger())
		if err != nil {
			return run, err
		}
		c.closer("nats", n.stop)
		run.NATS, run.Token, run.inside = n.url, n.token, n.server
	}
	if run.Redis == "" {
		v, err := newValkey(cfg, log.With().Str("part", "redis").Logger())
		if err != nil {
			return run, err
		}
		run.Redis = v.url
		if err := startValkey(ctx, c, v); err != nil {
			return run, err
		}
	}
	return run, run.write(cfg.Data)
}

// startValkey adds the server to the crew and returns when it answers.
func startValkey(ctx context.Context, c *crew, v *valkey) error {
	ready := make(chan struct{})
	c.start("redis", func(ctx context.Context) error { return v.Run(ctx, func() { close(ready) }) })
	select {
	case <-ready:
		return nil
	case err := <-c.failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// upStores opens and sets up the stores of one part.
func upStores(ctx context.Context, c *crew, cfg *Config, at places, part string, log logger) (*stores, error) {
	s, err := openStores(ctx, cfg, at, part, cfg.loopback(), log)
	if err != nil {
		return nil, err
	}
	if part == "front" {
		if err := s.setup(ctx); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, s.run(ctx, c, part)
}

// workerThere is nil when a worker takes work, for a model that can be asked for. A box without a model of its own is ready
// to be given one.
func (s *stores) workerThere(cfg *Config) func(context.Context) error {
	return func(context.Context) error {
		models := s.registry.List()
		if len(models) == 0 && !cfg.ownModel() {
			return nil
		}
		if len(models) == 0 {
			return errors.New("no model is registered yet")
		}
		for _, m := range models {
			if s.fleet.Slots(m.Engine().B()) > 0 {
				return nil
			}
		}
		return errors.New("no worker is there yet")
	}
}

// stopped makes a start that a signal ended a clean end.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
