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

	"lorry/engine"
	"lorry/registry"
	"lorry/worker"
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
// an engine of its own, until it was deleted and no accepted job needs it. It takes them in the order in which they were
// pushed, as long as they fit into its room.
type pushed struct {
	*stores
	cfg   *Config
	own   string // the base that is served anyway; empty: none
	room  room
	files *worker.Weights

	held map[string]*serving // by base
	told map[string]bool     // of no room, by base
	wg   sync.WaitGroup
}

// serving is a model that is served, or about to be.
type serving struct {
	need  int64 // bytes
	leave context.CancelFunc
	done  chan struct{} // closed when its engine has ended
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
	defer p.room.close()
	defer p.wg.Wait()
	p.wg.Go(func() { every(ctx, clearEvery, func() { s.sweepOnce(p.files, s.namesModel) }) })
	if !cfg.ownModel() {
		p.log.Info().Str("models", cmp.Or(string(cfg.Models), "all")).Int64("model_memory", p.room.most).Msg("this worker has no model of its own: it serves what is pushed (lorry model push)")
	}
	every(ctx, lookEvery, func() { p.look(ctx) })
	return nil
}

func (s *stores) newPushed(cfg *Config) (p *pushed, err error) {
	p = &pushed{stores: s, cfg: cfg, held: map[string]*serving{}, told: map[string]bool{}}
	if cfg.ownModel() {
		file, _, err := modelOf(cfg)
		if err != nil {
			return nil, err
		}
		if p.own, err = cfg.digestOfModel(file); err != nil {
			return nil, err
		}
	}
	if p.files, err = s.newModels(cfg); err != nil {
		return nil, err
	}
	p.room, err = cfg.openRoom()
	return p, err
}

// look lets go of what nobody wants any more, and begins to serve what is wanted and fits.
func (p *pushed) look(ctx context.Context) {
	there := p.pushedModels()
	p.letGo(there)
	for _, m := range p.wanted(there) {
		if p.fits(m) {
			p.begin(ctx, m)
		}
	}
}

// pushedModels are those that can be asked for, and those that are deleted while accepted jobs may need them.
func (s *stores) pushedModels() []registry.Model {
	all := append(s.registry.List(), s.registry.Leaving()...)
	return slices.DeleteFunc(all, func(m registry.Model) bool { return !m.Pushed() })
}

// letGo ends what is not there any more. Its room is free once its engine has ended.
func (p *pushed) letGo(there []registry.Model) {
	for base, s := range p.held {
		if !slices.ContainsFunc(there, func(m registry.Model) bool { return m.Base == base }) {
			s.leave()
		}
		select {
		case <-s.done:
			delete(p.held, base)
		default:
		}
	}
}

func (p *pushed) begin(ctx context.Context, m registry.Model) {
	s := &serving{need: p.cfg.need(m), done: make(chan struct{})}
	delete(p.told, m.Base)
	p.held[m.Base] = s
	one, leave := context.WithCancel(ctx)
	s.leave = leave
	p.wg.Go(func() {
		defer close(s.done)
		p.keepServing(one, m)
		if ctx.Err() == nil {
			p.drop(m)
		}
	})
}

// drop deletes the copy of a model that left.
func (p *pushed) drop(m registry.Model) {
	if err := p.files.Drop(m.Base, p.namesModel); err != nil {
		p.log.Warn().Err(err).Str("model", m.Name).Msg("the copy of a deleted model stays for a day")
		return
	}
	p.log.Info().Str("model", m.Name).Str("base", m.Base).Msg("a deleted model is served no more, its copy is removed")
}

// wanted are the models whose bases are not served here yet, in the order in which they were pushed.
func (p *pushed) wanted(models []registry.Model) (out []registry.Model) {
	for _, m := range models {
		if p.held[m.Base] == nil && m.Base != p.own && p.cfg.Models.has(m.Name) {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b registry.Model) int { return cmp.Compare(a.Created, b.Created) })
	return slices.CompactFunc(out, func(a, b registry.Model) bool { return a.Base == b.Base })
}

// fits says whether there is room for one more, and tells the log once where there is none.
func (p *pushed) fits(m registry.Model) bool {
	need, held, coming := p.cfg.need(m), int64(0), int64(0)
	for base, s := range p.held {
		held += s.need
		if p.fleet.Slots(engine.Model{Base: base}.B()) == 0 { // not loaded, as far as is known: what is free now is also its own
			coming += s.need
		}
	}
	why := ""
	if held+need > p.room.most {
		why = "model_memory is taken (--model-memory allows more, --models chooses, lorry model delete makes room)"
	} else if free := p.room.free(); coming+need > free {
		why = fmt.Sprintf("only %s of memory are free", Size(free))
	}
	if why != "" && !p.told[m.Base] {
		p.told[m.Base] = true
		p.log.Warn().Str("model", m.Name).Int64("needs", need).Int64("held", held).Int64("model_memory", p.room.most).
			Msg("a pushed model is not served here: " + why)
	}
	return why == ""
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
	return slices.ContainsFunc(s.pushedModels(), func(m registry.Model) bool { return m.Base == digest })
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
