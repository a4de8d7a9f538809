package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rs/zerolog"

	"lorry/engine"
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
	e.Str("format", m.Format).Int64("bytes", m.Bytes).Float64("prompt_tokens_per_second", m.Prompt).Float64("tokens_per_second", m.Together).Float64("perplexity", m.Perplexity)
}
