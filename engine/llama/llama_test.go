package llama

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"sync"
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
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(quick.dir)
		os.Exit(code)
	}))
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

// deviceVar has tests compute elsewhere than on the CPU. Those that compare numbers fail there: a GPU's kernels round
// otherwise by how many rows they compute.
const deviceVar = "LORRY_TEST_DEVICE"

// config is SmolLM2 on one thread: the machine is shared.
func config(t testing.TB) Config {
	return Config{
		Lib: runtimeFile(t, "lib"), File: runtimeFile(t, "models", "smollm2.gguf"),
		Model: engine.Model{Name: "smollm2"}, Threads: 1, Context: 2048,
		Device: cmp.Or(os.Getenv(deviceVar), "cpu"),
	}
}

// quick is where quickly puts its model.
var quick struct {
	once sync.Once
	dir  string
	err  error
}

// quickly is config with the model in q4_0, made once for all tests: it computes two to three times as fast. It is for
// tests of much computing that do not look at the numbers.
func quickly(t testing.TB) Config {
	t.Helper()
	c := config(t)
	quick.once.Do(func() {
		if quick.dir, quick.err = os.MkdirTemp("", "lorry-llama-"); quick.err == nil {
			quick.err = Quantize(Quantization{Lib: c.Lib, From: c.File, Out: filepath.Join(quick.dir, "q4_0.gguf"), To: "q4_0", Requantize: true, Threads: 1})
		}
	})
	if quick.err != nil {
		t.Fatal(quick.err)
	}
	c.File = filepath.Join(quick.dir, "q4_0.gguf")
	return c
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
	enginetest.Run(t, func(t *testing.T) engine.Engine { return open(t, quickly(t)) }, enginetest.Options{})
}
