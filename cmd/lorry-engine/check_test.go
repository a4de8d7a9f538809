package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorry/engine/child"
	"lorry/engine/llama"
)

func checkOf(t *testing.T, args ...string) child.Check {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return child.Check{Path: exe, Args: append([]string{"check"}, args...), Env: []string{asEngine + "=1"}}
}

// TestCheck looks at the demo's model, by reading and by loading it.
func TestCheck(t *testing.T) {
	for _, args := range [][]string{nil, {"--lib", filepath.Join(runtimeDir(t), "lib")}} {
		var r llama.Report
		if err := checkOf(t, append(args, smollm2(t))...).Run(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		if r.Kind != "model" || r.Architecture != "llama" || r.Layers != 30 || r.Parameters < 100_000_000 || r.Loaded != (args != nil) {
			t.Errorf("got %+v", r)
		}
		if r.Template == nil || !strings.HasSuffix(r.Template.Sample, "<|im_start|>assistant\n") {
			t.Errorf("its template: %+v", r.Template)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no model":         {[]string{file("hello, I am a model")}, "no GGUF file"},
		"absent":           {[]string{"/nowhere/x.gguf"}, "no such file"},
		"no adapter":       {[]string{smollm2(t), "--base", smollm2(t)}, "not a LoRA adapter"},
		"no template":      {[]string{"--template", file("{% if %}")}, "compile"},
		"no text":          {[]string{"--template", file("a\xff")}, "UTF-8"},
		"deadly template":  {[]string{"--template", file(`{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(1) }}`)}, "does not end well"},
		"without messages": {[]string{"--template", file(`{{ raise_exception("never") }}`), smollm2(t)}, "never"},
	} {
		t.Run(name, func(t *testing.T) {
			var r llama.Report
			err := checkOf(t, c.args...).Run(t.Context(), &r)
			if !errors.Is(err, child.ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestCheckByHand(t *testing.T) {
	for name, args := range map[string][]string{
		"nothing":      {"check"},
		"two files":    {"check", "a", "b"},
		"unknown flag": {"check", "--fast", "a"},
		"base alone":   {"check", "--base", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, out := command(t, args...); code != 2 || !strings.Contains(out, "lorry-engine: ") {
				t.Errorf("exit %d: %s", code, out)
			}
		})
	}
	if code, out := command(t, "check", "--help"); code != 0 || !strings.Contains(out, "--template FILE") {
		t.Errorf("exit %d: %s", code, out)
	}
}
