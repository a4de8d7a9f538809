package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorry/engine/child"
	"lorry/engine/enginetest"
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

// TestCheckDies: whatever ends a check, or would keep it for ever, is told in one line, with its last words.
func TestCheckDies(t *testing.T) {
	lib, deadly := filepath.Join(runtimeDir(t), "lib"), enginetest.DeadlyModel(t)
	endless := filepath.Join(t.TempDir(), "endless.gguf")
	if err := syscall.Mkfifo(endless, 0o600); err != nil {
		t.Fatal(err)
	}
	adapter := filepath.Join(t.TempDir(), "adapter.gguf")
	if err := os.WriteFile(adapter, enginetest.LoRA{Layers: 1, Width: 8, KV: 8, Rank: 2}.File(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args  []string
		limit time.Duration
		want  string
	}{
		"crash": {[]string{"--lib", lib, deadly}, 0, `GGML_ASSERT\(hparams.n_expert`},
		"hang":  {[]string{"--lib", lib, endless}, 3 * time.Second, "took longer than 3s"},
		// Whether a library, the weights or a thread finds no room depends on what Go holds: each is told in its own words.
		"memory":  {[]string{"--lib", lib, "--memory", "120000000", smollm2(t)}, 0, "."},
		"adapter": {[]string{"--lib", lib, adapter, "--base", deadly}, 0, `check\) ended: exit status 2`},
	} {
		t.Run(name, func(t *testing.T) {
			check := checkOf(t, c.args...)
			check.Limit = c.limit
			var r llama.Report
			err := check.Run(t.Context(), &r)
			if !errors.Is(err, child.ErrRefused) || !regexp.MustCompile(c.want).MatchString(err.Error()) || strings.Contains(err.Error(), "\n") {
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
