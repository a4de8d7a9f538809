package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"lorry/engine"
)

// TestQuantizedOnce: the file is made once for each model and format; one that may not be whole is made again.
func TestQuantizedOnce(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(dir, "my-f16.gguf")
	write(t, model, "weights")
	made := 0
	var fails error
	do := func(_ context.Context, file, out string) (engine.Quantized, error) {
		if file != model {
			t.Errorf("made of %s", file)
		}
		if _, err := os.Stat(out); err == nil {
			t.Error("what was there is in the way")
		}
		made++
		write(t, out, "small")
		return engine.Quantized{Before: engine.Measured{Format: "f16", Bytes: 7, Perplexity: 12.25}, After: engine.Measured{Format: "q4_0", Bytes: 5, Perplexity: 12.5}}, fails
	}
	var said bytes.Buffer
	up := func(to string) (*Config, error) {
		c := &Config{Data: filepath.Join(dir, "data"), Engine: "llama", Workers: 1, ModelFile: model, Quantize: to}
		if err := os.MkdirAll(c.Data, 0o700); err != nil {
			t.Fatal(err)
		}
		return c, c.quantized(t.Context(), zerolog.New(&said), do)
	}
	for _, step := range []struct {
		name   string
		before func(out string)
		to     string
		made   int
	}{
		{"first", nil, "q4_0", 1},
		{"again", nil, "q4_0", 1},
		{"another format", nil, "q8_0", 2},
		{"ended half-way", func(out string) { _ = os.Remove(out + ".json") }, "q4_0", 3},
		{"cut off", func(out string) { write(t, out, "") }, "q4_0", 4},
		{"another model", func(string) { write(t, model, "other weights") }, "q4_0", 5},
		{"nothing to do", nil, "", 5},
	} {
		c, _ := up(step.to)
		if step.before != nil {
			step.before(c.ModelFile)
		}
		c, err := up(step.to)
		if err != nil || made != step.made || (c.ModelFile == model) != (step.to == "") {
			t.Fatalf("%s: made %d times, want %d; serves %s, %v", step.name, made, step.made, c.ModelFile, err)
		}
		if step.to != "" && c.ModelName != "my-f16" {
			t.Errorf("%s: its name is %s", step.name, c.ModelName)
		}
	}
	for _, want := range []string{`"perplexity":12.25`, `"perplexity":12.5`, `"bytes":7`, `"made_before":true`} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %s in %s", want, said.String())
		}
	}
	fails = errors.New("the format is not known")
	if _, err := up("q9"); err == nil || !strings.Contains(err.Error(), "--quantize q9: the format is not known") {
		t.Errorf("got %v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
