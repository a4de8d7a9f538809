package child

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/engine/echo"
)

// roleEnv makes the test binary a child, of the kind named.
const roleEnv = "LORRY_TEST_CHILD"

func TestMain(m *testing.M) {
	if role, ok := os.LookupEnv(roleEnv); ok {
		os.Exit(roles[role]())
	}
	goleak.VerifyTestMain(m)
}

var roles = map[string]func() int{
	"echo":    func() int { return serve(openFragile) },
	"corrupt": func() int { return serve(refuse("model.gguf is corrupt: block_count is 1000000000")) },
	"once":    func() int { return serve(openOnce) },
	"missing": func() int {
		fmt.Fprintln(os.Stderr, "error while loading shared libraries: libffi.so.8: cannot open shared object file")
		return 127
	},
	"stuck": func() int { return serve(openNever) },
	"plain": func() int {
		return serve(func(engine.DecodeObserver) (engine.Engine, error) { return echo.New(echo.Config{}) })
	},
	"newer": func() int {
		conn, _ := Conn(FD)
		frame, _ := encode(&message{Kind: kindReady})
		conn.Write([]byte(strings.Replace(string(frame), `"v":1`, `"v":7`, 1)))
		select {}
	},
	"looks": func() int { fmt.Println(`{"kind":"model","layers":30}`); return 0 },
	"refuses": func() int {
		fmt.Fprintln(os.Stderr, "some noise\nlorry-engine: model.gguf: gguf: it is no GGUF file")
		return 1
	},
	"dies": func() int {
		fmt.Fprintln(os.Stderr, "GGML_ASSERT(n_layer <= 512) failed")
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		return 0
	},
	"panics": func() int {
		fmt.Fprintln(os.Stderr, "llama.cpp:12: no good")
		panic("oh")
	},
	"stares":  func() int { fmt.Fprintln(os.Stderr, "loading"); select {} },
	"rambles": func() int { return ramble() },
	"parent":  parent,
	"deaf":    deaf,
}

// ramble prints until nobody listens.
func ramble() int {
	for {
		if _, err := fmt.Println(strings.Repeat("{", 1<<16)); err != nil {
			return 1
		}
	}
}

func serve(open func(engine.DecodeObserver) (engine.Engine, error)) int {
	conn, err := Conn(FD)
	if err == nil {
		err = Serve(context.Background(), conn, open)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func refuse(why string) func(engine.DecodeObserver) (engine.Engine, error) {
	return func(engine.DecodeObserver) (engine.Engine, error) { return nil, errors.New(why) }
}

func openNever(engine.DecodeObserver) (engine.Engine, error) {
	fmt.Fprintln(os.Stderr, "loading 1 of 1000 files")
	select {}
}

// openOnce opens while the file named by LORRY_TEST_MARK is there.
func openOnce(observe engine.DecodeObserver) (engine.Engine, error) {
	if _, err := os.Stat(os.Getenv("LORRY_TEST_MARK")); err != nil {
		return nil, errors.New("the model's file is gone")
	}
	return openFragile(observe)
}

// parent starts a child, tells its process, and waits to be killed. Its child does not listen to the pipe.
func parent() int {
	e, err := Start(context.Background(), Config{Path: os.Args[0], Env: []string{roleEnv + "=deaf"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(e.PID())
	select {}
}

// deaf serves once and then neither ends with its pipe nor by a polite signal.
func deaf() int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	serve(openFragile)
	select {}
}

// fragile is echo, but for prompts that are commands:
//
//	hold    is decoding, says so, and goes on until its caller leaves
//	wait    says so, is not decoding, and goes on until its caller leaves
//	crash   is decoding, and kills the process
//	panic   is decoding, and panics
//	hang    is decoding, and makes no more steps
//	ponder  is not decoding, and makes no more steps
type fragile struct {
	*echo.Engine
	observe engine.DecodeObserver

	mu       sync.Mutex
	decoding map[string]bool
	hangs    bool
	steps    int
}

// Steps goes on with each look, until it hangs.
func (f *fragile) Steps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.hangs {
		f.steps++
	}
	return f.steps
}

// hang stops all steps.
func (f *fragile) hang() {
	f.mu.Lock()
	f.hangs = true
	f.mu.Unlock()
	select {}
}

func openFragile(observe engine.DecodeObserver) (engine.Engine, error) {
	delay, _ := time.ParseDuration(os.Getenv("LORRY_TEST_DELAY"))
	e, err := echo.New(echo.Config{Context: 512, Slots: 16, Delay: delay})
	return &fragile{Engine: e, observe: observe, decoding: map[string]bool{}}, err
}

// Snapshot shows who is decoding.
func (f *fragile) Snapshot(context.Context) (engine.Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := engine.Snapshot{Slots: 16}
	for _, id := range slices.Sorted(maps.Keys(f.decoding)) {
		s.Running = append(s.Running, engine.Sequence{ID: id})
	}
	return s, nil
}

func (f *fragile) set(id string, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decoding[id] = on
	if !on {
		delete(f.decoding, id)
	}
	f.observe(slices.Sorted(maps.Keys(f.decoding)))
}

func (f *fragile) Run(ctx context.Context, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	switch r.Prompt {
	case "hold", "crash", "panic", "hang":
		f.set(r.ID, true)
		defer f.set(r.ID, false)
	case "wait", "ponder":
	default:
		return f.Engine.Run(ctx, r, emit)
	}
	switch r.Prompt {
	case "crash":
		fmt.Fprintln(os.Stderr, "GGML_ASSERT(n_tokens > 0) failed")
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "panic":
		go panic("slice bounds out of range") // where no deferred call of ours tidies up
		select {}
	case "hang", "ponder":
		f.hang()
	}
	emit(engine.Chunk{Text: r.Prompt})
	<-ctx.Done()
	return nil, context.Cause(ctx)
}
