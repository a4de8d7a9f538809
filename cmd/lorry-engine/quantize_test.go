package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorry/engine"
	"lorry/engine/child"
)

// tool is a command of this executable.
func tool(t *testing.T, name string, args ...string) child.Tool {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asEngine, "1")
	return child.Tool{Path: exe, Args: append([]string{name, "--lib", filepath.Join(runtimeDir(t), "lib"), "--model", smollm2(t), "--threads", "1"}, args...)}
}

func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

func TestQuantizeWrites(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "q8.gguf")
	q := tool(t, "quantize", "--to", "q8_0", "--out", out, "--requantize", "--no-measure")
	var last child.Progress
	q.Progress = func(p child.Progress) { last = p }
	var r engine.Quantized
	if err := q.Run(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
	if last.Stage != "write q8_0" || last.Done != last.Of || last.Of == 0 {
		t.Errorf("the last progress was %+v", last)
	}
	if r.Before.Format != "q4_1" || r.After.Format != "q8_0" || r.After.Bytes <= r.Before.Bytes || r.After.File != out || r.Seconds <= 0 {
		t.Errorf("got %+v", r)
	}
	if names := left(t, dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// Whoever is told to stop half-way leaves nothing.
func TestQuantizeStopped(t *testing.T) {
	for to, more := range map[string][]string{"q6_k": {"--no-measure"}, fastest: nil} {
		t.Run(to, func(t *testing.T) {
			dir := t.TempDir()
			q := tool(t, "quantize", append(more, "--to", to, "--out", filepath.Join(dir, "x.gguf"), "--requantize")...)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			wrote := false
			q.Progress = func(p child.Progress) {
				if p.Of > 0 && p.Done > p.Of/2 && strings.HasPrefix(p.Stage, "write") {
					wrote = wrote || len(left(t, dir)) > 0
					cancel()
				}
			}
			if to == fastest { // it measures first, which takes long
				q.Progress = func(p child.Progress) { wrote = true; cancel() }
			}
			if err := q.Run(ctx, new(engine.Quantized)); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if names := left(t, dir); len(names) > 0 || !wrote {
				t.Errorf("left behind: %v; it had begun: %v", names, wrote)
			}
		})
	}
}

func TestToolFails(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"unknown format": {[]string{"--to", "q9", "--out", filepath.Join(dir, "x")}, "take one of"},
		"nothing to do":  {[]string{"--out", filepath.Join(dir, "x")}, "must be given"},
		"no such flag":   {[]string{"--two", "q9"}, "not defined"},
		"another device": {[]string{"--to", "q8_0", "--out", filepath.Join(dir, "x"), "--requantize", "--device", "cuda:9"}, "is not here"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tool(t, "quantize", c.args...).Run(t.Context(), new(engine.Quantized))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
