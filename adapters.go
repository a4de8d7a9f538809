package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lorry/blob"
	"lorry/engine"
	"lorry/engine/child"
	"lorry/registry"
	"lorry/worker"
)

// AdapterFile is a LoRA adapter that is served from a file.
type AdapterFile struct {
	Name, File string
	// Base is the model that it changes; empty is the only one of the worker's.
	Base string
	// Pin keeps it in memory once it is loaded.
	Pin bool
}

// Adapters are adapters, written as NAME=FILE[,base=NAME][,pin], by ";", or a list in YAML.
type Adapters []AdapterFile

// UnmarshalText parses the form with semicolons.
func (a *Adapters) UnmarshalText(b []byte) error {
	var out Adapters
	for s := range strings.SplitSeq(string(b), ";") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		f, err := parseAdapter(s)
		if err != nil {
			return err
		}
		out = append(out, f)
	}
	*a = out
	return nil
}

func parseAdapter(s string) (f AdapterFile, err error) {
	parts := strings.Split(s, ",")
	var ok bool
	if f.Name, f.File, ok = strings.Cut(parts[0], "="); !ok || f.File == "" {
		return f, fmt.Errorf("%q is no adapter, as poet=poet.gguf", s)
	}
	if n, err := registry.ParseName(f.Name); err != nil || n.Alias != "" {
		return f, fmt.Errorf("%q: %w", s, registry.ErrName)
	}
	for _, p := range parts[1:] {
		switch key, value, _ := strings.Cut(p, "="); {
		case key == "base" && value != "":
			f.Base = value
		case p == "pin":
			f.Pin = true
		default:
			return f, fmt.Errorf("%q: after an adapter's file come base=NAME and pin, not %q", s, p)
		}
	}
	return f, nil
}

// UnmarshalYAML takes a list or one string.
func (a *Adapters) UnmarshalYAML(unmarshal func(any) error) error {
	return unmarshalList(unmarshal, ";", a)
}

// String is what UnmarshalText takes.
func (a Adapters) String() string {
	out := make([]string, len(a))
	for i, f := range a {
		out[i] = f.Name + "=" + f.File
		if f.Base != "" {
			out[i] += ",base=" + f.Base
		}
		if f.Pin {
			out[i] += ",pin"
		}
	}
	return strings.Join(out, ";")
}

// check says which file can't be read.
func (a Adapters) check() error {
	for _, f := range a {
		if st, err := os.Stat(f.File); err != nil || !st.Mode().IsRegular() {
			return fmt.Errorf("the adapter %s can't be read: %s is no file: name one with --adapter %s=FILE", f.Name, f.File, f.Name)
		}
	}
	return nil
}

// pins are the digests of pinned adapters, by commas.
func (c *Config) pins() (string, error) {
	var all []string
	for _, f := range c.Adapter {
		if !f.Pin {
			continue
		}
		digest, err := digestOf(c.Data, f.File)
		if err != nil {
			return "", err
		}
		all = append(all, digest)
	}
	return strings.Join(all, ","), nil
}

// adaptersDir is where the engines of this box read adapters.
func (c *Config) adaptersDir() string { return filepath.Join(c.Data, "adapters") }

// adapters registers those of the settings, and is where an engine's are fetched and tried: nil for one that has its own.
func (s *stores) adapters(ctx context.Context, cfg *Config, eng *opened) (*worker.Weights, error) {
	if eng.kind != "llama" {
		return nil, nil
	}
	a, err := s.newAdapters(cfg, eng.file)
	for i := 0; err == nil && i < len(cfg.Adapter); i++ {
		err = s.addAdapter(ctx, cfg, eng, a, cfg.Adapter[i])
	}
	return a, err
}

// newAdapters fetches adapters of a base, and tries each before it comes into the folder from which engines load it.
func (s *stores) newAdapters(cfg *Config, base string) (*worker.Weights, error) {
	check, err := newCheck(cfg, "adapter", cmp.Or(cfg.AdapterCheck, 2*time.Minute), "--base", base)
	if err != nil {
		return nil, err
	}
	return worker.NewWeights(worker.WeightsConfig{Store: s.weights, Dir: cfg.adaptersDir(), Try: check.try, Timeout: fetchTime + check.Limit, Log: s.log})
}

// fetchTime bounds the copying of an adapter from its store, in front of its check.
const fetchTime = 10 * time.Minute

// weightsCheck is `lorry-engine check` on a file that nobody trusts yet.
type weightsCheck struct {
	child.Check
	what string // "adapter" or "model"
}

func newCheck(cfg *Config, what string, limit time.Duration, more ...string) (c weightsCheck, err error) {
	c.what, c.Limit = what, limit
	if c.Path, err = engineExe(); err != nil {
		return c, err
	}
	lib, err := libDir(cfg)
	c.Args = append([]string{"check", "--lib", lib}, more...)
	return c, err
}

// try is worker.WeightsConfig's Try.
func (c weightsCheck) try(ctx context.Context, file string) error {
	c.Args = append(slices.Clone(c.Args), file)
	var report json.RawMessage
	err := c.Run(ctx, &report)
	if r, ok := errors.AsType[*child.Refusal](err); ok {
		e := engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "model", "the %s can't be used: %s", c.what, strings.ReplaceAll(r.Reason, file+": ", ""))
		e.Stderr = r.Stderr
		return e
	}
	return err
}

// triesAdapters tries those that are pushed to this process, where it has workers that would have to do it soon anyway: what
// passes lies ready for them. Nil elsewhere, where the first worker that needs an adapter tries it.
func (s *stores) triesAdapters(cfg *Config) func(context.Context, registry.Model, string) error {
	if cfg.Engine != "llama" || cfg.Workers == 0 {
		return nil
	}
	return func(ctx context.Context, base registry.Model, digest string) error {
		if _, err := os.Stat(base.File); err != nil {
			return nil // another host's
		}
		a, err := s.newAdapters(cfg, base.File)
		if err != nil {
			return err
		}
		return a.Fetch(ctx, digest)
	}
}

// sweepAdapters clears the folder of what nothing names any more, now and then, until stop is called.
func (s *stores) sweepAdapters(ctx context.Context, a *worker.Weights) (stop func()) {
	if a == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { every(ctx, clearEvery, func() { s.sweepOnce(a, s.namesAdapter) }) })
	return func() { cancel(); wg.Wait() }
}

func (s *stores) sweepOnce(a *worker.Weights, named func(digest string) bool) {
	switch n, err := a.Sweep(named); {
	case err != nil:
		s.log.Warn().Err(err).Msg("the folders of models and adapters are not swept")
	case n > 0:
		s.log.Info().Int("files", n).Msg("unused models or adapters removed")
	}
}

// namesAdapter says whether a model stands for an adapter.
func (s *stores) namesAdapter(digest string) bool {
	return slices.ContainsFunc(s.registry.List(), func(m registry.Model) bool { return m.Adapter == digest })
}

// addAdapter registers one of the settings' adapters, unless that was done before.
func (s *stores) addAdapter(ctx context.Context, cfg *Config, eng *opened, from *worker.Weights, a AdapterFile) error {
	if a.Base == "" {
		info, err := eng.Info(ctx)
		if err != nil {
			return err
		}
		a.Base = info.Models[0].Name
	}
	if known, err := s.known(ctx, cfg, a); known || err != nil {
		return err
	}
	f, err := os.Open(a.File)
	if err != nil {
		return err
	}
	defer f.Close()
	try := func(ctx context.Context, _ registry.Model, digest string) error { return from.Fetch(ctx, digest) }
	m, err := s.registry.AddAdapter(ctx, s.weights, registry.Adapter{Name: a.Name, Base: a.Base, OwnedBy: "lorry", Try: try}, f)
	if err != nil {
		return fmt.Errorf("--adapter %s=%s: %w", a.Name, a.File, err)
	}
	s.log.Info().Str("model", m.Name).Str("base", a.Base).Str("adapter", m.Adapter).Msg("adapter is served")
	return nil
}

// known says that a name stands for a file's adapter already, and the store has it.
func (s *stores) known(ctx context.Context, cfg *Config, a AdapterFile) (bool, error) {
	digest, err := digestOf(cfg.Data, a.File)
	if err != nil {
		return false, err
	}
	m, err := s.registry.Resolve(a.Name)
	base, baseErr := s.registry.Resolve(a.Base)
	if err != nil || baseErr != nil || m.Adapter != digest || m.Base != base.Base || m.Template != base.Template || m.Settings != base.Settings {
		return false, nil
	}
	_, err = s.weights.Stat(ctx, digest)
	if errors.Is(err, blob.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
