package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"lorry/dashboard"
	"lorry/producer"
	"lorry/registry"
	"lorry/scheduler"
	"lorry/webhook"
	"lorry/worker"
	"lorry/worker/gpu"
)

// startProducer adds the API to the crew. ready is a further condition of /readyz.
func (s *stores) startProducer(ctx context.Context, c *crew, cfg *Config, sealer *webhook.Sealer, ready func(context.Context) error) (http.Handler, error) {
	err := s.openFiles(ctx, c, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.openWeights(ctx, c.closer, cfg); err != nil {
		return nil, err
	}
	p, err := producer.New(producer.Config{
		Weights: s.weights, TryAdapter: s.tryAdapter, TryModel: s.tryModel, QuantizeModel: s.quantizeModel,
		Queue: s.queue, Results: s.results, Registry: s.registry, Access: s.access, Files: s.files, Batches: s.batches, Sealer: sealer, Log: s.log,
		MaxBody: int64(cfg.MaxBody), MaxModel: int64(cfg.MaxModel), TenantWaiting: cfg.TenantWaiting, Grace: cfg.Grace, WebhookAllow: []netip.Prefix(cfg.WebhookAllow),
		Ready: ready, NoMetrics: !cfg.Metrics,
	})
	if err != nil {
		return nil, err
	}
	if err := p.Setup(ctx); err != nil {
		return nil, err
	}
	c.start("producer", p.Run)
	return p.Handler(), nil
}

// startDashboard adds the pages to the crew.
func (s *stores) startDashboard(ctx context.Context, c *crew, cfg *Config) (http.Handler, error) {
	if err := s.openFiles(ctx, c, cfg); err != nil {
		return nil, err
	}
	d, err := dashboard.New(dashboard.Config{Queue: s.queue, Results: s.results, Registry: s.registry, Access: s.access, Fleet: s.fleet,
		Batches: s.batches, Files: s.files, Redis: s.redisAt.asynq(), Log: s.log})
	if err != nil {
		return nil, err
	}
	c.start("dashboard", d.Run)
	return d.Handler(), nil
}

// workerReady is how long a worker waits for the streams that others make.
const workerReady = 30 * time.Second

// work is a worker from its engine's start to its end, on stores whose weights are open, where llama needs them: open, register the models, pull. The engine outlives ctx, since
// what runs may finish.
func (s *stores) work(ctx context.Context, cfg *Config) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	eng, err := openEngine(life, cfg, s.log)
	if err != nil {
		return err
	}
	defer eng.Close()
	if err := retry(ctx, workerReady, func(ctx context.Context) error { return s.register(ctx, eng) }); err != nil {
		return err
	}
	adapters, err := s.adapters(ctx, cfg, eng)
	if err != nil {
		return err
	}
	devices, err := gpu.Open(gpu.Config{Log: s.log})
	if err != nil {
		return fmt.Errorf("worker: open devices: %w", err)
	}
	defer devices.Close()
	w, err := worker.New(ctx, worker.Config{Queue: s.queue, Results: s.results, Engine: eng.Engine, Adapters: adapters, Slots: cfg.Slots, Grace: cfg.Grace,
		Devices: devices.Sample, Crashes: eng.crashes, Log: s.log})
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	defer s.sweepAdapters(ctx, adapters)()
	return w.Run(ctx)
}

// workerState says whether one of this process's engines takes work. A process without a model of its own has nothing to be
// ready for before one is pushed.
func (s *stores) workerState(cfg *Config) func() (string, error) {
	host, _ := os.Hostname()
	return func() (string, error) {
		for _, h := range s.fleet.Workers() {
			if h.Host == host && h.PID == os.Getpid() && h.Slots > 0 && !h.Draining {
				return "ok", nil
			}
		}
		if cfg.ownModel() || slices.ContainsFunc(s.pushedModels(), func(m registry.Model) bool { return cfg.Models.has(m.Name) }) {
			return "", errors.New("no engine takes work yet: its model is being loaded or fetched, or does not fit (the log says so)")
		}
		return "no model is pushed yet: there is nothing to serve", nil
	}
}

// workParts are a worker with the model of the settings, if they have one, and who serves pushed models, if that is this one's.
func (s *stores) workParts(cfg *Config, pushed bool) (parts []func(context.Context) error) {
	if cfg.ownModel() {
		parts = append(parts, func(ctx context.Context) error { return s.work(ctx, cfg) })
	}
	if pushed {
		parts = append(parts, func(ctx context.Context) error { return s.servePushed(ctx, cfg) })
	}
	return parts
}

// register makes what the engine serves known, and sees that its jobs have a place to wait.
func (s *stores) register(ctx context.Context, e *opened) error {
	info, err := e.Info(ctx)
	if err != nil {
		return err
	}
	for _, m := range info.Models {
		if err := s.queue.SetupBase(ctx, m.B()); err != nil {
			return err
		}
		put := s.registry.Put
		if e.pushed {
			put = s.registry.Serve // its name may be gone
		}
		err := put(ctx, registry.Model{Name: m.Name, Base: m.Base, Adapter: m.Adapter, Template: m.Template, Settings: m.Settings,
			Context: m.Context, Runtime: e.kind, File: e.file, OwnedBy: "lorry"})
		if err != nil {
			return err
		}
		s.log.Info().Str("model", m.Name).Str("base", m.B()).Int("context", m.Context).Str("engine", info.Version).Msg("model is served")
	}
	return nil
}

// startScheduler adds the scheduler to the crew. instance is empty, or a name that no other process has at the same moment.
func (s *stores) startScheduler(ctx context.Context, c *crew, cfg *Config, sealer *webhook.Sealer, instance string) error {
	if err := errors.Join(s.openFiles(ctx, c, cfg), s.openWeights(ctx, c.closer, cfg)); err != nil {
		return err
	}
	sc, err := scheduler.New(scheduler.Config{Queue: s.queue, Results: s.results, Redis: s.redisAt.asynq(), Sealer: sealer,
		WebhookAllow: []netip.Prefix(cfg.WebhookAllow), Access: s.access, Files: s.files, Batches: s.batches, Weights: s.weights, Models: s.registry,
		Lines: producer.NewLines(producer.LinesConfig{Registry: s.registry, Sealer: sealer, MaxBody: int64(cfg.MaxBody)}), RefuseLate: cfg.RefuseLate, Instance: instance, Log: s.log})
	if err != nil {
		return err
	}
	c.start("scheduler", sc.Run)
	c.start("blobs", s.clearBlobs)
	return nil
}

// masterKey seals webhooks' secrets: the set one, else, where the data folder is ours, one made there. Nil is none.
func masterKey(cfg *Config, own bool) ([]byte, error) {
	text := cfg.MasterKey
	path := filepath.Join(cfg.Data, "master.key")
	if text == "" && own {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			b = make([]byte, 32)
			_, _ = rand.Read(b) // never fails
			b = []byte(base64.StdEncoding.EncodeToString(b) + "\n")
			err = writeFile(path, b)
		}
		if err != nil {
			return nil, fmt.Errorf("master key: %w", err)
		}
		text = string(b)
	}
	key, err := webhook.ParseMasterKey(text)
	if err != nil {
		return nil, fmt.Errorf("master_key: %w (`openssl rand -base64 32` makes one)", err)
	}
	return key, nil
}

// newSealer is nil where there is no master key.
func newSealer(cfg *Config, own bool) (*webhook.Sealer, error) {
	key, err := masterKey(cfg, own)
	if err != nil || key == nil {
		return nil, err
	}
	return webhook.NewSealer(key)
}

// listensAlone refuses a listener that others can reach while there is no key: anybody would be let in.
func (s *stores) listensAlone(ctx context.Context, cfg *Config) error {
	keys, err := s.access.HasKeys(ctx)
	if err != nil {
		return err
	}
	if keys {
		return nil
	}
	if cfg.loopback() {
		s.log.Warn().Str("listen", cfg.Listen).Msg("no API key was ever made: whoever reaches this loopback address is let in as tenant default; lorry key create makes one")
		return nil
	}
	where := "--data " + cfg.Data
	if cfg.NATS != "" {
		where = "--nats " + redactURLs(cfg.NATS)
	}
	return fmt.Errorf("refusing to listen on %s without a key: everybody who reaches it could use it; first run `lorry key create --tenant default --admin %s`, or listen on 127.0.0.1", cfg.Listen, where)
}

// role is a command that runs one role against NATS and Redis that run elsewhere.
func role(use, short, example string, start func(ctx context.Context, c *crew, cfg *Config, s *stores) error) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, Example: example}
	c.Long = short + `.

It works against NATS (JetStream) and Redis or Valkey of the fleet: --nats and --redis name them. Without them it joins
the ` + "`lorry up`" + ` that runs on the same data folder. SIGTERM drains: no new work, what runs is finished or handed back,
exit 0; a second one ends at once.`
	load := bindConfig(c, use)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		log := newLog(cfg, cmd.ErrOrStderr()).With().Str("role", use).Logger()
		return runRole(cmd.Context(), cfg, use, log, start)
	}
	return c
}

func runRole(ctx context.Context, cfg *Config, use string, log logger, start func(context.Context, *crew, *Config, *stores) error) error {
	at, err := findPlaces(cfg)
	if err != nil {
		return err
	}
	cfg.Blobs = at.Blobs
	c := newCrew(log, cfg.Grace)
	defer c.stop()
	s, err := openStores(ctx, cfg, at, use, cfg.loopback(), log)
	if err != nil {
		return err
	}
	if use == "producer" || use == "scheduler" {
		if err := s.setup(ctx); err != nil {
			s.close()
			return err
		}
	}
	if err := s.run(ctx, c, use); err != nil {
		return err
	}
	if err := start(ctx, c, cfg, s); err != nil {
		return err
	}
	if use == "worker" || use == "scheduler" {
		state := alwaysReady
		if use == "worker" {
			state = s.workerState(cfg)
		}
		if err := startMetrics(c, cfg, log, state); err != nil {
			return err
		}
	}
	log.Info().Str("version", versionString()).Msg("started")
	return c.finish(ctx)
}

func newProducer() *cobra.Command {
	return role("producer", "Run a producer: the HTTP API", `  lorry producer --nats nats://nats:4222 --redis redis://valkey:6379 --listen 0.0.0.0:8080
  LORRY_NATS=tls://n1,tls://n2 LORRY_NATS_CREDS=fleet.creds LORRY_REDIS=rediss://:secret@valkey lorry producer --replicas 3`,
		func(ctx context.Context, c *crew, cfg *Config, s *stores) error {
			if err := s.listensAlone(ctx, cfg); err != nil {
				return err
			}
			sealer, err := newSealer(cfg, cfg.NATS == "")
			if err != nil {
				return err
			}
			var api http.Handler
			web, err := startHTTP(c, cfg, s.log, func() http.Handler { return api })
			if err != nil {
				return err
			}
			if api, err = s.startProducer(ctx, c, cfg, sealer, nil); err != nil {
				return err
			}
			web.open()
			return nil
		})
}

func newDashboard() *cobra.Command {
	return role("dashboard", "Run a dashboard", `  lorry dashboard --nats nats://nats:4222 --redis redis://valkey:6379 --listen 127.0.0.1:8081`,
		func(ctx context.Context, c *crew, cfg *Config, s *stores) error {
			if err := s.listensAlone(ctx, cfg); err != nil {
				return err
			}
			var pages http.Handler
			web, err := startHTTP(c, cfg, s.log, func() http.Handler { return withHealth(pages, cfg.Metrics, alwaysReady) })
			if err != nil {
				return err
			}
			if pages, err = s.startDashboard(ctx, c, cfg); err != nil {
				return err
			}
			web.open()
			return nil
		})
}

func newScheduler() *cobra.Command {
	return role("scheduler", "Run a scheduler: what runs next, and what happens later",
		`  lorry scheduler --nats nats://nats:4222 --redis redis://valkey:6379   # run two: one works, the other takes over`,
		func(ctx context.Context, c *crew, cfg *Config, s *stores) error {
			sealer, err := newSealer(cfg, cfg.NATS == "")
			if err != nil {
				return err
			}
			return s.startScheduler(ctx, c, cfg, sealer, "")
		})
}

func newWorker() *cobra.Command {
	return role("worker", "Run a worker: an engine and the jobs that it takes", `  lorry worker --data /srv/lorry                # joins the lorry up of that folder on this box
  lorry worker --nats nats://nats:4222 --redis redis://valkey:6379 --model-file llama.gguf --model-name support
  lorry worker --nats … --redis … --model-file none --models support   # a pushed model, and none of its own
  lorry worker --nats … --redis … --engine http://vllm:8000 --slots 256`,
		func(ctx context.Context, c *crew, cfg *Config, s *stores) error {
			if err := makeData(cfg.Data); err != nil {
				return err
			}
			one := *cfg
			one.Workers = 1
			if err := checkEngine(&one); err != nil {
				return err
			}
			if err := one.quantized(ctx, s.log, one.quantizes(s.log, os.Stderr)); err != nil {
				return err
			}
			if one.Engine == "llama" {
				if err := s.openWeights(ctx, c.closer, &one); err != nil {
					return err
				}
			}
			c.start("worker", func(ctx context.Context) error {
				return together(ctx, s.workParts(&one, true))
			})
			return nil
		})
}
