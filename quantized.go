package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rs/zerolog"

	"lorry/blob"
	"lorry/engine"
	"lorry/engine/child"
)

// quantizing writes a model in another format, and measures both. A file that is there is not overwritten.
type quantizing func(ctx context.Context, file, out string) (engine.Quantized, error)

// quantized has c serve its model in the format that it names. That file is made once, and kept in the data folder by the
// digest of what it was made of.
func (c *Config) quantized(ctx context.Context, log logger, write quantizing) error {
	if c.Quantize == "" || c.Engine != "llama" || c.Workers == 0 {
		return nil
	}
	file, name, err := modelOf(c)
	if err != nil {
		return err
	}
	from, err := digestOf(c.Data, file)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.Data, "quantized")
	unlock, err := lockFolder(dir)
	if err != nil {
		return err
	}
	defer unlock()
	out := filepath.Join(dir, from+"-"+c.Quantize+".gguf")
	q, known := readQuantized(out)
	if !known {
		if q, err = quantizeTo(ctx, file, out, write); err != nil {
			return fmt.Errorf("--quantize %s: %w (lorry quantize has more to choose; --model-file serves what it wrote)", c.Quantize, err)
		}
	}
	log.Info().Str("model", name).Bool("made_before", known).Object("before", measuredLog(q.Before)).Object("after", measuredLog(q.After)).Msg("model is quantized")
	c.ModelFile, c.ModelName = out, name
	return nil
}

// quantizeTo leaves the file and, behind it, what was measured: without that, the file is not whole for sure.
func quantizeTo(ctx context.Context, file, out string, write quantizing) (q engine.Quantized, err error) {
	if err := os.RemoveAll(out); err != nil {
		return q, err
	}
	if q, err = write(ctx, file, out); err != nil {
		return q, err
	}
	b, err := json.Marshal(q)
	if err != nil {
		return q, err
	}
	return q, writeFile(out+".json", b)
}

// readQuantized is what was measured when a file was made.
func readQuantized(out string) (q engine.Quantized, ok bool) {
	b, err := os.ReadFile(out + ".json")
	if err != nil || json.Unmarshal(b, &q) != nil {
		return q, false
	}
	st, err := os.Stat(out)
	return q, err == nil && st.Size() == q.After.Bytes
}

// lockFolder makes a folder, and waits until no other process is at work in it.
func lockFolder(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return lockFile(filepath.Join(dir, ".lock"), syscall.LOCK_EX)
}

// quantizes runs lorry-engine, and shows on a terminal how far it is; else the log tells its stages.
func (c *Config) quantizes(log logger, errs io.Writer) quantizing {
	if !isTerminal(errs) {
		errs = stageLog{log}
	}
	return func(ctx context.Context, file, out string) (q engine.Quantized, err error) {
		return q, runTool(ctx, c, "quantize", file, []string{"--to", c.Quantize, "--out", out}, errs, &q)
	}
}

// stageLog logs what runTool says of its stages, a line each.
type stageLog struct{ log logger }

func (s stageLog) Write(b []byte) (int, error) {
	s.log.Info().Str("stage", strings.TrimSpace(string(b))).Msg("quantizing the model")
	return len(b), nil
}

// measuredLog is what the log tells of a file.
type measuredLog engine.Measured

func (m measuredLog) MarshalZerologObject(e *zerolog.Event) {
	e.Str("format", m.Format).Int64("bytes", m.Bytes)
	if m.Perplexity > 0 { // it was measured
		e.Float64("prompt_tokens_per_second", m.Prompt).Float64("tokens_per_second", m.Together).Float64("perplexity", m.Perplexity)
	}
}

// pushes begins the names of what is quantized for a push, in the folder of quantized models.
const pushes = "push-"

// quantizesModels writes models that are pushed to this process in other formats: nil where it has no engine to do so. What
// a process that died left half-way is removed.
func (s *stores) quantizesModels(cfg *Config) func(ctx context.Context, digest, to string, again bool) (io.ReadCloser, error) {
	if cfg.Engine != "llama" || cfg.Workers == 0 {
		return nil
	}
	dir := filepath.Join(cfg.Data, "quantized")
	for _, pattern := range []string{pushes, "." + pushes} { // the latter are the tool's
		left, _ := filepath.Glob(filepath.Join(dir, pattern+"*"))
		for _, f := range left {
			_ = os.Remove(f)
		}
	}
	return func(ctx context.Context, digest, to string, again bool) (io.ReadCloser, error) {
		p := &pushedQuantized{stores: s, cfg: cfg, digest: digest, out: filepath.Join(dir, pushes+rand.Text()+".gguf")}
		if err := p.write(ctx, to, again); err != nil {
			return nil, errors.Join(err, p.Close())
		}
		return p, nil
	}
}

// pushedQuantized is a pushed model in another format.
type pushedQuantized struct {
	*stores
	*os.File
	cfg         *Config
	digest, out string // of the pushed file, which lies where models do
}

// write makes it, one at a time on this box: each has all processors.
func (p *pushedQuantized) write(ctx context.Context, to string, again bool) error {
	unlock, err := lockFolder(filepath.Dir(p.out))
	if err != nil {
		return err
	}
	defer unlock()
	from := filepath.Join(p.cfg.modelsDir(), p.digest)
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := blob.Room(filepath.Dir(p.out), st.Size()); err != nil {
		return err
	}
	args := []string{"--to", to, "--out", p.out}
	if again {
		args = append(args, "--requantize")
	}
	if to != "fastest" { // which is found by measuring; the client waits, and lorry quantize measures
		args = append(args, "--no-measure")
	}
	var q engine.Quantized
	if err := runTool(ctx, p.cfg, "quantize", from, args, stageLog{p.log}, &q); err != nil {
		return p.fault(err, from)
	}
	p.log.Info().Str("file", p.digest).Object("before", measuredLog(q.Before)).Object("after", measuredLog(q.After)).Msg("pushed model is quantized")
	p.File, err = os.Open(p.out)
	return err
}

// fault tells what the tool says of the model, or of the format, from faults of this box.
func (p *pushedQuantized) fault(err error, from string) error {
	if r, ok := errors.AsType[*child.Refusal](err); ok {
		words := strings.TrimPrefix(strings.ReplaceAll(r.Reason, from, "the file"), "llama: ")
		return engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "quantize", "%s", words)
	}
	return err
}

// Close takes away what is not needed any more: it is in the store.
func (p *pushedQuantized) Close() error {
	if p.File != nil {
		_ = p.File.Close()
	}
	_ = os.Remove(p.out)
	files, err := p.newModels(p.cfg)
	if err != nil {
		return err
	}
	return files.Drop(p.digest, p.namesModel)
}
