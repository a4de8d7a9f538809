package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program under test. What it says is shown if the test fails.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	said tail
	done chan struct{}
	err  error // set once done is closed
}

// start runs a program; it is killed at the test's end if it still runs. Settings of the tester's own Lorry stay out.
func start(t testing.TB, name, exe string, args []string, env map[string]string) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: exec.Command(exe, args...), done: make(chan struct{})}
	p.cmd.Env = environment(env)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(p.cleanup)
	return p
}

func environment(more map[string]string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LORRY_") {
			env = append(env, kv)
		}
	}
	for k, v := range more {
		env = append(env, k+"="+v)
	}
	return env
}

func (p *process) cleanup() {
	if !p.ended() {
		p.kill()
	}
	if p.t.Failed() {
		p.t.Logf("the end of what %s said:\n%s", p.name, p.said.String())
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill is SIGKILL: no goodbye.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop is SIGTERM: the program drains, and must end with 0.
func (p *process) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(90 * time.Second):
		p.t.Errorf("%s did not end within 90 s of SIGTERM", p.name)
		p.kill()
	}
	if p.err != nil {
		p.t.Errorf("%s ended with %v after SIGTERM", p.name, p.err)
	}
}

// children are the PIDs of its child processes that run a program called comm.
func (p *process) children(comm string) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // gone since
		}
		open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
		fields := strings.Fields(string(b[end+1:]))
		if string(b[open+1:end]) == comm && fields[1] == strconv.Itoa(p.cmd.Process.Pid) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// tail keeps the last bytes written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - 64<<10; n > 0 {
		t.b = t.b[n:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// eventually waits until ok returns nil, looking every 20 ms; the last error is the test's.
func eventually(t testing.TB, within time.Duration, what string, ok func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	last := errors.New("never looked")
	for {
		if err := ok(ctx); err == nil {
			return
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, within, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// finished waits for a program that ends by itself and returns what it said.
func finished(t testing.TB, p *process) string {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		t.Fatalf("%s did not end within a minute", p.name)
	}
	if p.err != nil {
		t.Fatalf("%s: %v\n%s", p.name, p.err, p.said.String())
	}
	return p.said.String()
}
