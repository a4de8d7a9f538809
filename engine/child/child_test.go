package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lorry/engine"
	"lorry/engine/echo"
	"lorry/engine/enginetest"
)

// config runs this test's binary as a child.
func config(role string, env ...string) Config {
	return Config{Path: os.Args[0], Env: append(env, roleEnv+"="+role), Backoff: time.Millisecond}
}

func start(t *testing.T, cfg Config) *Engine {
	t.Helper()
	e, err := Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func request(id, prompt string) *engine.Request {
	return &engine.Request{ID: id, Kind: engine.Text, Model: engine.Model{Name: echo.Name, Base: echo.Base}, Prompt: prompt,
		Sampling: engine.Sampling{N: 1}}
}

func TestSuite(t *testing.T) {
	before := countFDs(t)
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		return start(t, config("echo", "LORRY_TEST_DELAY=200us"))
	}, enginetest.Options{})
	if after := countFDs(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// countFDs is 0 where the system does not tell.
func countFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(list)
}

// running is a run that has begun in the child.
type running struct {
	id  string
	err chan error
}

// begin runs a command and returns when the child has taken it up.
func begin(t *testing.T, e *Engine, id, command string) running {
	t.Helper()
	r, begun := running{id, make(chan error, 1)}, make(chan struct{})
	go func() {
		_, err := e.Run(context.Background(), request(id, command), func(engine.Chunk) { close(begun) })
		r.err <- err
	}()
	select {
	case <-begun:
	case err := <-r.err:
		t.Fatalf("%s: %v", id, err)
	}
	return r
}

// TestCrash: who was in the call that died is a suspect, who was not is given back, and the next run finds a new child.
func TestCrash(t *testing.T) {
	crashes := make(chan Crash, 1)
	cfg := config("echo")
	cfg.OnCrash = func(c Crash) { crashes <- c }
	e := start(t, cfg)
	pid := e.PID()
	neighbour, bystander := begin(t, e, "neighbour", "hold"), begin(t, e, "bystander", "wait")

	_, err := e.Run(t.Context(), request("culprit", "crash"), nil)
	checkCrashed(t, err)
	checkCrashed(t, <-neighbour.err)
	if err := <-bystander.err; !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("bystander: got %v, want unavailable", err)
	}
	if _, err := e.Run(t.Context(), request("next", "hello"), nil); err != nil {
		t.Errorf("next: %v", err)
	}
	c := <-crashes
	if !slices.Equal(c.Suspects, []string{"culprit", "neighbour"}) || c.PID != pid || e.PID() == pid {
		t.Errorf("got %+v; was %d, is %d", c, pid, e.PID())
	}
	if !strings.Contains(c.Err.Error(), "signal: killed") || !strings.Contains(c.Stderr, "GGML_ASSERT") {
		t.Errorf("got %+v", c)
	}
}

func checkCrashed(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, engine.ErrCrashed) || !strings.Contains(engine.AsError(err).Stderr, "GGML_ASSERT(n_tokens > 0) failed") {
		t.Errorf("got %v, want crashed with the last words", err)
	}
}

// TestHang: a child that makes no more steps is killed; suspects are those in the call, or all where there is none.
func TestHang(t *testing.T) {
	for name, c := range map[string]struct {
		command   string
		bystander error
	}{
		"in a call":         {"hang", engine.ErrUnavailable},
		"outside of a call": {"ponder", engine.ErrCrashed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			crashes := make(chan Crash, 1)
			cfg := config("echo")
			cfg.Hang, cfg.OnCrash = 3*time.Second, func(c Crash) { crashes <- c }
			e := start(t, cfg)
			bystander := begin(t, e, "bystander", "wait")
			_, err := e.Run(t.Context(), request("culprit", c.command), nil)
			got := engine.AsError(err)
			if !errors.Is(err, engine.ErrCrashed) || !strings.Contains(got.Message, "no step for 3s") || !strings.Contains(got.Stderr, "SIGQUIT") {
				t.Errorf("culprit: got %v with %q, want crashed, with where it stood", err, got.Stderr)
			}
			if err := <-bystander.err; !errors.Is(err, c.bystander) {
				t.Errorf("bystander: got %v, want %v", err, c.bystander)
			}
			if c := <-crashes; !strings.Contains(c.Err.Error(), "no step for 3s") {
				t.Errorf("got %v", c.Err)
			}
			if _, err := e.Run(t.Context(), request("next", "hello"), nil); err != nil {
				t.Errorf("next: %v", err)
			}
		})
	}
}

// TestSlow: one that makes steps may take its time.
func TestSlow(t *testing.T) {
	cfg := config("echo", "LORRY_TEST_DELAY=300ms")
	cfg.Hang = 2 * time.Second
	words := strings.Repeat("word ", 12) // 3.6 s
	if _, err := start(t, cfg).Run(t.Context(), request("slow", words), nil); err != nil {
		t.Errorf("got %v", err)
	}
}

// TestPanic: what Go code throws in the child is a crash as well, with its trace.
func TestPanic(t *testing.T) {
	_, err := start(t, config("echo")).Run(t.Context(), request("culprit", "panic"), nil)
	if !errors.Is(err, engine.ErrCrashed) || !strings.Contains(engine.AsError(err).Stderr, "panic: slice bounds out of range") {
		t.Errorf("got %+v", err)
	}
}

// TestKilledFromOutside: nobody was decoding, so nobody is suspected.
func TestKilledFromOutside(t *testing.T) {
	crashes := make(chan Crash, 1)
	cfg := config("echo")
	cfg.OnCrash = func(c Crash) { crashes <- c }
	e := start(t, cfg)
	waiting := begin(t, e, "waiting", "wait")
	if err := syscall.Kill(e.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting.err; !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	if c := <-crashes; len(c.Suspects) > 0 {
		t.Errorf("suspects are %v", c.Suspects)
	}
	if _, err := e.Info(t.Context()); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

// TestRestarts: runs go on, or are told to come again, while the child is killed over and over.
func TestRestarts(t *testing.T) {
	e := start(t, config("echo"))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := 0; n < 50; {
				prompt := fmt.Sprintf("mine is %d %d", i, n)
				c, err := e.Run(t.Context(), request(prompt, prompt), nil)
				switch {
				case err == nil && c.Choices[0].Text != prompt:
					t.Errorf("asked %q, got %q", prompt, c.Choices[0].Text)
				case err == nil:
					n++
				case !errors.Is(err, engine.ErrUnavailable):
					t.Errorf("got %v", err)
					return
				}
			}
		})
	}
	for range 5 {
		if _, err := e.Info(t.Context()); err == nil {
			syscall.Kill(e.PID(), syscall.SIGKILL)
		}
	}
	wg.Wait()
}

func TestStartFails(t *testing.T) {
	slow := config("stuck")
	slow.StartTimeout = 4 * time.Second // in which even a slow machine has it say what it does
	for name, c := range map[string]struct {
		cfg  Config
		want []string
	}{
		"corrupt model":     {config("corrupt"), []string{"model.gguf is corrupt: block_count is 1000000000"}},
		"missing library":   {config("missing"), []string{"exit status 127", "libffi.so.8"}},
		"no executable":     {Config{Path: "/nowhere/lorry-engine"}, []string{"/nowhere/lorry-engine", "no such file"}},
		"never ready":       {slow, []string{"not ready in time (4s)", "loading 1 of 1000 files"}},
		"of another build":  {config("newer"), []string{"speaks version 7"}},
		"not an executable": {Config{Path: "/dev/null"}, []string{"permission denied"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := Start(t.Context(), c.cfg)
			if err == nil {
				e.Close()
				t.Fatal("it started")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
		})
	}
}

// TestStartCancelled: a caller that gives up waits for nothing but the child's end.
func TestStartCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, config("stuck")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestDown: while the child can't be started, runs wait a bounded time and are told why; then it comes back.
func TestDown(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	touch(t, mark)
	cfg := config("once", "LORRY_TEST_MARK="+mark)
	cfg.Wait = 300 * time.Millisecond
	e := start(t, cfg)
	os.Remove(mark)
	syscall.Kill(e.PID(), syscall.SIGKILL)
	for {
		_, err := e.Run(t.Context(), request("a", "hello"), nil)
		if err != nil && !errors.Is(err, engine.ErrUnavailable) {
			t.Fatalf("got %v, want unavailable", err)
		}
		if err != nil && strings.Contains(err.Error(), "the model's file is gone") {
			break
		}
	}
	touch(t, mark)
	eventually(t, "the restart", func() bool {
		_, err := e.Run(t.Context(), request("a", "hello"), nil)
		return err == nil
	})
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestContextEnds: the context of Start is the engine's life.
func TestContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	e, err := Start(ctx, config("echo"))
	if err != nil {
		t.Fatal(err)
	}
	pid := e.PID()
	held := begin(t, e, "held", "hold")
	cancel()
	if err := <-held.err; !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, want unavailable: nothing crashed", err)
	}
	e.Close()
	if alive(pid) {
		t.Error("the child lives on")
	}
}

// TestCloseByForce: a child that does not listen is killed after the grace.
func TestCloseByForce(t *testing.T) {
	cfg := config("deaf")
	cfg.Grace = 100 * time.Millisecond
	e := start(t, cfg)
	pid := e.PID()
	e.Close()
	if alive(pid) {
		t.Error("the child lives on")
	}
}

// TestParentKilled: a deaf child ends with a parent that had no time to say anything.
func TestParentKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this system has no parent-death signal")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	var pid int
	if _, err := fmt.Sscan(line, &pid); err != nil || !alive(pid) {
		t.Fatalf("the parent said %q: %v", line, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "the child's end", func() bool { return !alive(pid) })
}

// eventually waits for a condition that nothing else tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(2 * time.Minute); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// alive says whether a process runs; one that is dead and waits for its parent does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err != nil || !strings.HasPrefix(state, "Z")
}

// TestStopped: a caller can leave while the child is stopped and the pipe is full.
func TestStopped(t *testing.T) {
	e := start(t, config("echo"))
	syscall.Kill(e.PID(), syscall.SIGSTOP)
	defer syscall.Kill(e.PID(), syscall.SIGCONT)
	large := strings.Repeat("apple ", 1<<20)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := e.Run(ctx, request("large", large), nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
}

func TestNextBackoff(t *testing.T) {
	const first = 100 * time.Millisecond
	for name, c := range map[string]struct{ before, up, want time.Duration }{
		"the first":         {0, time.Second, first},
		"the second":        {first, time.Second, 2 * first},
		"the last":          {8 * time.Second, 0, 10 * time.Second},
		"no more":           {10 * time.Second, 0, 10 * time.Second},
		"after a long life": {10 * time.Second, time.Minute, first},
	} {
		t.Run(name, func(t *testing.T) {
			if got := nextBackoff(first, c.before, c.up); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	e, err := Start(b.Context(), config("echo"))
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	r := request("bench", "hello")
	for b.Loop() {
		if _, err := e.Run(b.Context(), r, nil); err != nil {
			b.Fatal(err)
		}
	}
}
