package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lorry/registry"
	"lorry/worker"
	"lorry/worker/gpu"
)

// Models are the pushed models that a process serves: "all", "none", or names by commas.
type Models string

// UnmarshalText parses the form with commas.
func (m *Models) UnmarshalText(b []byte) error {
	text := strings.ReplaceAll(string(b), " ", "")
	if text != "" && text != "all" && text != "none" {
		for name := range strings.SplitSeq(text, ",") {
			if n, err := registry.ParseName(name); err != nil || n.Alias != "" {
				return fmt.Errorf("%q: %w; or all, or none", name, registry.ErrName)
			}
		}
	}
	*m = Models(text)
	return nil
}

// UnmarshalYAML takes a list or one string.
func (m *Models) UnmarshalYAML(unmarshal func(any) error) error {
	return unmarshalList(unmarshal, ",", m)
}

func (m Models) has(name string) bool {
	return m == "" || m == "all" || m != "none" && slices.Contains(strings.Split(string(m), ","), name)
}

// pushed serves models that were pushed to the fleet, beside what the process's own workers serve: each by a worker with
// an engine of its own, once and for all that the process lives. It takes them in the order in which they were pushed, as
// long as their files together fit into its memory.
type pushed struct {
	*stores
	cfg   *Config
	own   string // the base that is served anyway
	most  int64  // bytes
	files *worker.Weights

	held map[string]int64 // bytes, by base
	told map[string]bool  // of no room, by base
	wg   sync.WaitGroup
}

// lookEvery is how often the registry's view is looked at. It is in memory: a look costs microseconds.
const lookEvery = time.Second

// servePushed serves pushed models until ctx ends, and returns when they have drained. Only llama serves files.
func (s *stores) servePushed(ctx context.Context, cfg *Config) error {
	if cfg.Engine != "llama" || cfg.Models == "none" {
		<-ctx.Done()
		return nil
	}
	p, err := s.newPushed(cfg)
	if err != nil {
		return err
	}
	defer p.wg.Wait()
	p.wg.Go(func() { every(ctx, clearEvery, func() { s.sweepOnce(p.files, s.namesModel) }) })
	every(ctx, lookEvery, func() { p.look(ctx) })
	return nil
}

func (s *stores) newPushed(cfg *Config) (p *pushed, err error) {
	p = &pushed{stores: s, cfg: cfg, most: int64(cfg.ModelMemory), held: map[string]int64{}, told: map[string]bool{}}
	file, _, err := modelOf(cfg)
	if err != nil {
		return nil, err
	}
	if p.own, err = cfg.digestOfModel(file); err != nil {
		return nil, err
	}
	if p.most == 0 {
		if p.most, err = someMemory(); err != nil {
			return nil, err
		}
	}
	p.files, err = s.newModels(cfg)
	return p, err
}

// someMemory is half of what the devices have, or the machine where it has none.
func someMemory() (most int64, err error) {
	devices, err := gpu.Open(gpu.Config{})
	if err != nil {
		return 0, fmt.Errorf("measure memory: %w", err)
	}
	defer devices.Close()
	all, _ := devices.Sample()
	for _, d := range all {
		most += int64(d.MemoryTotal / 2)
	}
	return most, nil
}

// look begins to serve what is wanted and fits.
func (p *pushed) look(ctx context.Context) {
	for _, m := range p.wanted(p.registry.List()) {
		if !p.fits(m) {
			continue
		}
		p.held[m.Base] = m.Size
		p.wg.Go(func() { p.keepServing(ctx, m) })
	}
}

// wanted are the models whose bases are not served here yet, in the order in which they were pushed.
func (p *pushed) wanted(models []registry.Model) (out []registry.Model) {
	for _, m := range models {
		_, held := p.held[m.Base]
		if m.Stored && m.Adapter == "" && !held && m.Base != p.own && p.cfg.Models.has(m.Name) {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b registry.Model) int { return cmp.Compare(a.Created, b.Created) })
	return slices.CompactFunc(out, func(a, b registry.Model) bool { return a.Base == b.Base })
}

// fits says whether there is room for one more, and tells the log once where there is none.
func (p *pushed) fits(m registry.Model) bool {
	var sum int64
	for _, n := range p.held {
		sum += n
	}
	if sum+m.Size <= p.most {
		return true
	}
	if !p.told[m.Base] {
		p.told[m.Base] = true
		p.log.Warn().Str("model", m.Name).Int64("bytes", m.Size).Int64("held", sum).Int64("model_memory", p.most).
			Msg("a pushed model is not served here: there is no room for it (--model-memory allows more, --models chooses)")
	}
	return false
}

// keepServing serves a model until ctx ends. What fails is tried again, less and less often.
func (p *pushed) keepServing(ctx context.Context, m registry.Model) {
	for wait := 5 * time.Second; ctx.Err() == nil; wait = min(2*wait, 10*time.Minute) {
		err := p.serve(ctx, m)
		if ctx.Err() != nil {
			return
		}
		p.log.Error().Err(err).Str("model", m.Name).Dur("again_in", wait).Msg("a pushed model is not served")
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func (p *pushed) serve(ctx context.Context, m registry.Model) error {
	if err := p.files.Fetch(ctx, m.Base); err != nil {
		return err
	}
	one := *p.cfg
	one.ModelFile, one.ModelName, one.base = filepath.Join(one.modelsDir(), m.Base), m.Name, m.Base
	one.Adapter, one.Quantize = nil, ""
	return p.work(ctx, &one)
}

// modelsDir is where the engines of this box read pushed models.
func (c *Config) modelsDir() string { return filepath.Join(c.Data, "models") }

// namesModel says whether a pushed model stands for a file.
func (s *stores) namesModel(digest string) bool {
	return slices.ContainsFunc(s.registry.List(), func(m registry.Model) bool { return m.Stored && m.Base == digest })
}

// newModels fetches pushed models, and tries each before it comes into the folder from which engines load it.
func (s *stores) newModels(cfg *Config) (*worker.Weights, error) {
	check, err := newCheck(cfg, "model", cmp.Or(cfg.ModelCheck, 10*time.Minute))
	if err != nil {
		return nil, err
	}
	return worker.NewWeights(worker.WeightsConfig{What: "model", Store: s.weights, Dir: cfg.modelsDir(), Try: check.try, Timeout: modelFetchTime + check.Limit, Log: s.log})
}

// modelFetchTime bounds the copying of a model from its store, in front of its check.
const modelFetchTime = 6 * time.Hour

// triesModels tries those that are pushed to this process: what passes lies ready for its workers. Nil where it has none.
func (s *stores) triesModels(cfg *Config) func(context.Context, string) error {
	if cfg.Engine != "llama" || cfg.Workers == 0 {
		return nil
	}
	return func(ctx context.Context, digest string) error {
		files, err := s.newModels(cfg)
		if err != nil {
			return err
		}
		return files.Fetch(ctx, digest)
	}
}
