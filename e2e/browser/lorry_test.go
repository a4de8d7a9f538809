//go:build browser

// Package browser looks at the dashboard of the real program through a real Chromium.
package browser

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lorry is `lorry up` without a worker, so that jobs wait until the test starts one.
type lorry struct {
	t    *testing.T
	exe  string
	data string
	url  string
	up   *program
}

// program is one process.
type program struct {
	cmd  *exec.Cmd
	said output
	done chan struct{}
	err  error // set once done is closed
}

// output keeps what the program says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func startLorry(t *testing.T, args ...string) *lorry {
	t.Helper()
	exe, err := filepath.Abs("../../lorry")
	if err == nil {
		_, err = os.Stat(exe)
	}
	if err != nil {
		t.Fatalf("%v; run: make build", err)
	}
	data, err := os.MkdirTemp("", "lorry-browser-") // short: Valkey's socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	l := &lorry{t: t, exe: exe, data: data}
	l.up = l.run(append([]string{"up", "--engine", "echo", "--workers", "0", "--data", data, "--listen", "127.0.0.1:0"}, args...)...)
	within(t, 30*time.Second, "lorry up serves", l.serves)
	return l
}

// run starts a command of lorry's. Settings of the tester's own Lorry stay out.
func (l *lorry) run(args ...string) *program {
	l.t.Helper()
	p := &program{cmd: exec.Command(l.exe, args...), done: make(chan struct{})}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LORRY_") || strings.HasPrefix(kv, "LORRY_RUNTIME=") {
			p.cmd.Env = append(p.cmd.Env, kv)
		}
	}
	p.cmd.Env = append(p.cmd.Env, "LORRY_ECHO_DELAY=100ms", "LORRY_LOG_FORMAT=json")
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	l.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if l.t.Failed() {
			l.t.Logf("lorry %s said:\n%s", args[0], p.said.String())
		}
	})
	return p
}

// worker joins by the data folder.
func (l *lorry) worker() *program {
	return l.run("worker", "--engine", "echo", "--data", l.data)
}

// register makes the model known, by a worker that comes and goes.
func (l *lorry) register() {
	l.t.Helper()
	w := l.worker()
	within(l.t, 20*time.Second, "a worker is there", func() bool { return l.api(http.MethodGet, "/readyz", nil, nil) == http.StatusOK })
	l.stop(w)
}

// serves reads where the program is from its run file, and asks it.
func (l *lorry) serves() bool {
	select {
	case <-l.up.done:
		l.t.Fatalf("lorry up ended: %v", l.up.err)
	default:
	}
	var run struct {
		HTTP string `json:"http"`
	}
	b, err := os.ReadFile(filepath.Join(l.data, "run", "lorry.json"))
	if err != nil || json.Unmarshal(b, &run) != nil || run.HTTP == "" {
		return false
	}
	l.url = run.HTTP
	resp, err := http.Get(l.url + "/healthz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// within waits for a condition outside the browser.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// submit sends an asynchronous job of so many words, and so of so many tokens.
func (l *lorry) submit(words int) (id string) {
	l.t.Helper()
	body, _ := json.Marshal(map[string]any{"model": "echo", "max_tokens": words,
		"messages": []map[string]string{{"role": "user", "content": strings.TrimSpace(strings.Repeat("word ", words))}}})
	var job struct{ ID string }
	if status := l.api(http.MethodPost, "/v1/chat/completions", body, &job, "Prefer", "respond-async", "Content-Type", "application/json"); status != http.StatusAccepted {
		l.t.Fatalf("submit: status %d", status)
	}
	return job.ID
}

func (l *lorry) status(id string) string {
	l.t.Helper()
	var job struct{ Status string }
	l.api(http.MethodGet, "/v1/jobs/"+id, nil, &job)
	return job.Status
}

// api sends a request; headers come in pairs.
func (l *lorry) api(method, path string, body []byte, into any, headers ...string) (status int) {
	l.t.Helper()
	r, err := http.NewRequestWithContext(l.t.Context(), method, l.url+path, bytes.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			l.t.Fatalf("%s %s: status %d: %s", method, path, resp.StatusCode, b)
		}
	}
	return resp.StatusCode
}

// stop is SIGTERM; the program must end with 0, open pages or not.
func (l *lorry) stop(p *program) {
	l.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if p.err != nil {
			l.t.Errorf("%s ended with %v", p.cmd.Args[1], p.err)
		}
	case <-time.After(20 * time.Second):
		l.t.Errorf("%s did not end within 20 s of SIGTERM", p.cmd.Args[1])
	}
}
