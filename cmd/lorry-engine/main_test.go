package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/engine/child"
	"lorry/engine/enginetest"
	"lorry/engine/llama"
)

// asEngine makes the test binary the command itself.
const asEngine = "LORRY_TEST_AS_ENGINE"

func TestMain(m *testing.M) {
	if os.Getenv(asEngine) != "" {
		main()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// runtimeDir is where `make runtime` puts things.
func runtimeDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("LORRY_RUNTIME")
	if dir == "" {
		dir = filepath.Join("..", "..", "runtime")
	}
	if _, err := os.Stat(filepath.Join(dir, "lib")); err != nil {
		t.Fatal("run: make runtime")
	}
	return dir
}

func configured(t *testing.T, model string, more ...string) child.Config {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"--lib", filepath.Join(runtimeDir(t), "lib"), "--model", model, "--name", "smollm2",
		"--context", "2048", "--threads", "1",
	}
	return child.Config{Path: exe, Args: append(args, more...), Env: []string{asEngine + "=1"}}
}

func smollm2(t *testing.T) string { return filepath.Join(runtimeDir(t), "models", "smollm2.gguf") }

func TestSuiteBehindPipe(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		e, err := child.Start(context.Background(), configured(t, smollm2(t)))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}, enginetest.Options{})
}

// TestKilled ends the engine's process while it decodes: the request is a suspect, and the next one runs in a new one.
func TestKilled(t *testing.T) {
	e, err := child.Start(t.Context(), configured(t, smollm2(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	r := &engine.Request{ID: "job_1", Kind: engine.Text, Prompt: "Once upon a time", Sampling: engine.Sampling{N: 1, MaxTokens: 1000, IgnoreEOS: true}}
	var once sync.Once
	_, err = e.Run(t.Context(), r, func(engine.Chunk) {
		once.Do(func() { syscall.Kill(e.PID(), syscall.SIGKILL) })
	})
	if !errors.Is(err, engine.ErrCrashed) {
		t.Errorf("got %v, want crashed", err)
	}
	r.Sampling.MaxTokens = 3
	if c, err := e.Run(t.Context(), r, nil); err != nil || c.Usage.CompletionTokens != 3 {
		t.Errorf("after the restart: %+v, %v", c, err)
	}
}

// TestHung stops the engine's process while it decodes, as a driver that waits for ever would.
func TestHung(t *testing.T) {
	c := configured(t, smollm2(t))
	c.Hang = 5 * time.Second
	e, err := child.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	r := &engine.Request{ID: "job_1", Kind: engine.Text, Prompt: "Once upon a time", Sampling: engine.Sampling{N: 1, MaxTokens: 1000, IgnoreEOS: true}}
	var once sync.Once
	_, err = e.Run(t.Context(), r, func(engine.Chunk) {
		once.Do(func() { syscall.Kill(e.PID(), syscall.SIGSTOP) })
	})
	if !errors.Is(err, engine.ErrCrashed) || !strings.Contains(err.Error(), "no step for 5s") {
		t.Errorf("got %v, want crashed", err)
	}
}

func TestBadStart(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.gguf")
	if err := os.WriteFile(bad, []byte("GGUF is what it says"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		model string
		more  []string
		want  string
	}{
		"corrupt model": {bad, nil, "GGUF version"},
		"no model":      {bad + "x", nil, "no such file"},
		"no libraries":  {smollm2(t), []string{"--lib", t.TempDir()}, "make runtime"},
		"wrong flag":    {smollm2(t), []string{"--slots", "-1"}, "can't be negative"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := child.Start(context.Background(), configured(t, c.model, c.more...))
			if err == nil {
				e.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestByHand(t *testing.T) {
	for name, args := range map[string][]string{
		"no flags":     nil,
		"no pipe":      {"--lib", "x", "--model", "y", "--name", "z"},
		"an argument":  {"--name", "z", "serve"},
		"unknown flag": {"--serve"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out := command(t, args...)
			if code != 2 || !strings.Contains(out, "lorry") {
				t.Errorf("exit %d: %s", code, out)
			}
		})
	}
	if code, out := command(t, "--version"); code != 0 || !strings.Contains(out, llama.Version) {
		t.Errorf("--version: exit %d: %s", code, out)
	}
}

func command(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), asEngine+"=1")
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), b.String()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, b.String()
}
