package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lorry/blob"
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

// adapters registers those of the settings, and is where an engine's are fetched: nil for one that has its own.
func (s *stores) adapters(ctx context.Context, cfg *Config, eng *opened) (_ *worker.Adapters, done func(), err error) {
	done = func() {}
	if eng.kind != "llama" {
		return nil, done, nil
	}
	store, err := s.openBlobs(ctx, func(_ string, f func()) { done = f }, cfg, weightsBucket)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range cfg.Adapter {
		if err := s.addAdapter(ctx, cfg, eng, store, f); err != nil {
			done()
			return nil, nil, err
		}
	}
	a, err := worker.NewAdapters(worker.AdaptersConfig{Store: store, Dir: cfg.adaptersDir(), Log: s.log})
	return a, done, err
}

// addAdapter registers one of the settings' adapters, unless that was done before.
func (s *stores) addAdapter(ctx context.Context, cfg *Config, eng *opened, store blob.Store, a AdapterFile) error {
	if a.Base == "" {
		info, err := eng.Info(ctx)
		if err != nil {
			return err
		}
		a.Base = info.Models[0].Name
	}
	if known, err := s.known(ctx, cfg, store, a); known || err != nil {
		return err
	}
	f, err := os.Open(a.File)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := s.registry.AddAdapter(ctx, store, registry.Adapter{Name: a.Name, Base: a.Base, OwnedBy: "lorry"}, f)
	if err != nil {
		return fmt.Errorf("--adapter %s=%s: %w", a.Name, a.File, err)
	}
	s.log.Info().Str("model", m.Name).Str("base", a.Base).Str("adapter", m.Adapter).Msg("adapter is served")
	return nil
}

// known says that a name stands for a file's adapter already, and the store has it.
func (s *stores) known(ctx context.Context, cfg *Config, store blob.Store, a AdapterFile) (bool, error) {
	digest, err := digestOf(cfg.Data, a.File)
	if err != nil {
		return false, err
	}
	m, err := s.registry.Resolve(a.Name)
	base, baseErr := s.registry.Resolve(a.Base)
	if err != nil || baseErr != nil || m.Adapter != digest || m.Base != base.Base || m.Template != base.Template || m.Settings != base.Settings {
		return false, nil
	}
	_, err = store.Stat(ctx, digest)
	if errors.Is(err, blob.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
