package llama

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/engine/enginetest"
)

// asRenderer is an argument that makes the test binary a process for templates.
const asRenderer = "render"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == asRenderer {
		if err := ServeTemplates(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == asDead {
		die(os.Args[2])
	}
	goleak.VerifyTestMain(m)
}

// runtimeFile finds a part of the runtime: where LORRY_RUNTIME says, else in the nearest folder named runtime upward.
func runtimeFile(t testing.TB, parts ...string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for root := os.Getenv("LORRY_RUNTIME"); ; dir = filepath.Dir(dir) {
		try := filepath.Join(append([]string{dir, "runtime"}, parts...)...)
		if root != "" {
			try = filepath.Join(append([]string{root}, parts...)...)
		}
		if _, err := os.Stat(try); err == nil {
			return try
		}
		if root != "" || dir == filepath.Dir(dir) {
			t.Fatalf("%s is missing: run: make runtime", filepath.Join(parts...))
		}
	}
}

// config is SmolLM2 on one thread: the machine is shared.
func config(t testing.TB) Config {
	return Config{
		Lib: runtimeFile(t, "lib"), File: runtimeFile(t, "models", "smollm2.gguf"),
		Model: engine.Model{Name: "smollm2"}, Threads: 1, Context: 2048,
	}
}

func open(t testing.TB, c Config) *Engine {
	t.Helper()
	e, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestSuite(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) engine.Engine { return open(t, config(t)) }, enginetest.Options{})
}
