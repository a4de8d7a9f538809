package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the test's own executable be lorry: what is tested is the program, in processes of its own.
func TestMain(m *testing.M) {
	if os.Getenv("LORRY_TEST_AS_LORRY") != "" {
		os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// runtimeFolder is where make runtime put Valkey.
func runtimeFolder(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("LORRY_RUNTIME")
	if dir == "" {
		dir, _ = filepath.Abs("runtime")
	}
	if _, err := os.Stat(filepath.Join(dir, "bin", "valkey-server")); err != nil {
		t.Fatal("run: make runtime")
	}
	return dir
}

// lorry is a command of the program, with nothing of the caller's settings.
func lorry(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe, args...)
	c.Env = []string{"LORRY_TEST_AS_LORRY=1", "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "LORRY_RUNTIME=" + runtimeFolder(t), "TMPDIR=" + os.TempDir()}
	c.Env = append(c.Env, env...)
	return c
}

// result is how a command ended.
type ended struct {
	out, err string
	code     int
}

func call(t *testing.T, env []string, args ...string) ended {
	t.Helper()
	return callIn(t, "", env, args...)
}

func callIn(t *testing.T, stdin string, env []string, args ...string) ended {
	t.Helper()
	c := lorry(t, env, args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &errs
	err := c.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return ended{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// box is a running lorry.
type box struct {
	t    *testing.T
	cmd  *exec.Cmd
	data string
	done chan struct{}

	mu  sync.Mutex
	log []string
}

// start starts a command that runs until it is stopped.
func start(t *testing.T, data string, env []string, args ...string) *box {
	t.Helper()
	b := &box{t: t, data: data, done: make(chan struct{})}
	b.cmd = lorry(t, append([]string{"LORRY_DATA=" + data, "LORRY_LISTEN=127.0.0.1:0", "LORRY_ENGINE=echo"}, env...), args...)
	out, err := b.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			b.mu.Lock()
			b.log = append(b.log, sc.Text())
			b.mu.Unlock()
		}
		_ = b.cmd.Wait()
		close(b.done)
	}()
	t.Cleanup(func() {
		select {
		case <-b.done:
		default:
			_ = b.cmd.Process.Kill()
			<-b.done
		}
		if t.Failed() {
			t.Logf("log of lorry %s:\n%s", strings.Join(args, " "), b.text())
		}
	})
	return b
}

func (b *box) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.log, "\n")
}

// url is its HTTP address.
func (b *box) url() string {
	r, _ := readRunFile(b.data)
	if r.PID != b.cmd.Process.Pid {
		return ""
	}
	return r.HTTP
}

// ready waits until it takes work.
func (b *box) ready() *box {
	b.t.Helper()
	b.until("ready", func() bool { return b.url() != "" && status(b.url()+"/readyz") == 200 })
	return b
}

// until waits for a condition; the end of the process fails the test.
func (b *box) until(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.After(60 * time.Second)
	for !ok() {
		select {
		case <-b.done:
			if !ok() {
				b.t.Fatalf("it ended before it was %s", what)
			}
			return
		case <-deadline:
			b.t.Fatalf("never %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func status(url string) int {
	resp, err := http.Get(url)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// exit waits for its end and returns the code.
func (b *box) exit() int {
	b.t.Helper()
	select {
	case <-b.done:
	case <-time.After(90 * time.Second):
		b.t.Fatal("it does not end")
	}
	return b.cmd.ProcessState.ExitCode()
}

func (b *box) signal(s os.Signal) {
	b.t.Helper()
	if err := b.cmd.Process.Signal(s); err != nil {
		b.t.Fatal(err)
	}
}

// ask sends a chat and returns the answer's status and text.
func (b *box) ask(ctx context.Context, prompt string) (int, string, error) {
	body := fmt.Sprintf(`{"model":"echo","messages":[{"role":"user","content":%q}]}`, prompt)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url()+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	var a struct {
		Choices []struct{ Message struct{ Content string } }
	}
	raw, err := io.ReadAll(resp.Body)
	_ = json.Unmarshal(raw, &a)
	if len(a.Choices) == 0 {
		return resp.StatusCode, string(raw), err
	}
	return resp.StatusCode, a.Choices[0].Message.Content, err
}

func TestUp(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	b := start(t, data, nil, "up").ready()
	if code, text, err := b.ask(t.Context(), "two words"); code != 200 || text != "two words" || err != nil {
		t.Fatalf("got %d %q, %v", code, text, err)
	}
	for path, want := range map[string]int{"/healthz": 200, "/metrics": 200, "/": 200, "/queues": 200, "/v1/models": 200, "/nothing": 404, "/v1/nothing": 404} {
		if got := status(b.url() + path); got != want {
			t.Errorf("GET %s: %d, want %d", path, got, want)
		}
	}
	for name, mode := range map[string]os.FileMode{"run/lorry.json": 0o600, "master.key": 0o600, "run": os.ModeDir | 0o700} {
		if st, err := os.Stat(filepath.Join(data, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, want mode %s", name, err, mode)
		}
	}
	if !strings.Contains(b.text(), "no API key was ever made") {
		t.Error("it does not say that everybody is let in")
	}

	t.Run("a second one on the folder", func(t *testing.T) {
		r := call(t, []string{"LORRY_ENGINE=echo"}, "up", "--data", data, "--listen", "127.0.0.1:0")
		if want := "another lorry runs on " + data + " (pid " + strconv.Itoa(b.cmd.Process.Pid) + ", http://"; r.code != 1 || !strings.Contains(r.err, want) {
			t.Errorf("got %d, %q", r.code, r.err)
		}
		if code, _, err := b.ask(t.Context(), "x"); code != 200 || err != nil {
			t.Errorf("the first one was disturbed: %d, %v", code, err)
		}
	})

	t.Run("a worker joins by the folder", func(t *testing.T) {
		w := start(t, data, nil, "worker")
		w.until("at work", func() bool { return strings.Contains(w.text(), "worker takes work") })
		w.signal(syscall.SIGTERM)
		if code := w.exit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})

	b.signal(syscall.SIGTERM)
	if code := b.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if out, err := exec.Command("pgrep", "-f", filepath.Join(data, "run", "redis.sock")).Output(); err == nil {
		t.Errorf("valkey is still there: %s", out)
	}
}

// What was accepted before a kill is answered after the next start, on the same folder.
func TestUpAfterKill(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	b := start(t, data, []string{"LORRY_WORKERS=0"}, "up")
	b.until("listening", func() bool { return status(b.url()+"/healthz") == 200 })
	if code := status(b.url() + "/readyz"); code != 503 {
		t.Errorf("readyz is %d without a worker", code)
	}
	// The model is registered by a worker that leaves again.
	w := start(t, data, nil, "worker")
	b.ready()
	w.signal(syscall.SIGTERM)
	w.exit()
	b.until("without a worker", func() bool { return status(b.url()+"/readyz") == 503 })
	r := call(t, nil, "submit", "--data", data, "--async", "--model", "echo", "for", "later")
	if r.code != 0 || !strings.HasPrefix(r.out, "job_") {
		t.Fatalf("got %+v", r)
	}
	job := strings.TrimSpace(r.out)
	b.signal(syscall.SIGKILL)
	b.exit()

	b = start(t, data, nil, "up").ready()
	b.until("done", func() bool {
		r = call(t, nil, "job", "get", job, "--data", data)
		return strings.Contains(r.out, "succeeded")
	})
	if !strings.HasSuffix(r.out, "\nfor later\n") {
		t.Errorf("got %q", r.out)
	}
}

// A drain finishes what runs, and says 503 to what comes.
func TestDrain(t *testing.T) {
	t.Parallel()
	b := start(t, t.TempDir(), []string{"LORRY_ECHO_DELAY=2s"}, "up").ready() // ten seconds, in which even a slow machine sees it run
	url := b.url()
	type answer struct {
		code int
		text string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		code, text, err := b.ask(context.Background(), "one two three four five")
		got <- answer{code, text, err}
	}()
	b.until("running", func() bool {
		r := call(t, nil, "job", "list", "--data", b.data, "--status", "running", "-o", "json")
		return strings.Contains(r.out, "job_")
	})
	b.signal(syscall.SIGTERM)
	b.until("refusing", func() bool { return status(url+"/readyz") == 503 })
	if a := <-got; a.code != 200 || a.text != "one two three four five" || a.err != nil {
		t.Errorf("the running job was not finished: %+v", a)
	}
	if code := b.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSecondSignal(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	b := start(t, data, []string{"LORRY_ECHO_DELAY=1h"}, "up").ready()
	go func() { _, _, _ = b.ask(context.Background(), "never ends") }()
	b.until("running", func() bool {
		return strings.Contains(call(t, nil, "job", "list", "--data", data, "--status", "running", "-o", "json").out, "job_")
	})
	b.signal(syscall.SIGINT)
	b.until("draining", func() bool { return strings.Contains(b.text(), "draining") })
	b.signal(syscall.SIGINT)
	if code := b.exit(); code != 1 || !strings.Contains(b.text(), "second signal") {
		t.Errorf("exit code %d", code)
	}
	if runtime.GOOS == "linux" {
		b.until("without valkey", func() bool {
			return exec.Command("pgrep", "-f", filepath.Join(data, "run", "redis.sock")).Run() != nil
		})
	}
}

func TestPublicListenerNeedsAKey(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	r := call(t, []string{"LORRY_ENGINE=echo"}, "up", "--data", data, "--listen", "0.0.0.0:0")
	if r.code != 1 || !strings.Contains(r.err, "lorry key create --tenant default --admin --data "+data) || strings.Contains(r.err, `"listening"`) {
		t.Fatalf("got %+v", r)
	}
	// The first key is made while no lorry runs.
	r = call(t, nil, "key", "create", "--tenant", "acme", "--admin", "--name", "first", "--data", data)
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	key := lines[len(lines)-1]
	if r.code != 0 || !strings.HasPrefix(key, "lorry_") {
		t.Fatalf("got %+v", r)
	}
	// It is enough; here on loopback, for tests listen nowhere else.
	b := start(t, data, nil, "up")
	b.until("ready", func() bool { return b.url() != "" && status(b.url()+"/readyz") == 200 })
	if got := status(b.url() + "/v1/models"); got != 401 {
		t.Errorf("without a key: %d", got)
	}
	admin := []string{"LORRY_URL=" + b.url(), "LORRY_API_KEY=" + key}
	if r := call(t, admin, "submit", "hello"); r.code != 0 || r.out != "hello\n" {
		t.Errorf("with the key: %+v", r)
	}

	// Over HTTP, and in the folder beside the running one, they are the same keys.
	r = call(t, admin, "key", "create", "--tenant", "other", "-o", "json")
	var k struct{ ID, Key, Tenant string }
	if err := json.Unmarshal([]byte(r.out), &k); err != nil || k.Tenant != "other" {
		t.Fatalf("got %+v, %v", r, err)
	}
	if r := call(t, nil, "key", "list", "--data", data); !strings.Contains(r.out, k.ID) || !strings.Contains(r.out, "first") || strings.Contains(r.out, k.Key) {
		t.Errorf("got %+v", r)
	}
	mine := []string{"LORRY_URL=" + b.url(), "LORRY_API_KEY=" + k.Key}
	if r := call(t, mine, "key", "list"); r.code != 1 || !strings.Contains(r.err, "403") {
		t.Errorf("a tenant's key lists keys: %+v", r)
	}
	if r := call(t, nil, "key", "revoke", k.ID, "--data", data); r.code != 0 {
		t.Errorf("got %+v", r)
	}
	b.until("revoked", func() bool { return strings.Contains(call(t, mine, "job", "list").err, "401") })
	if r := call(t, nil, "key", "revoke", "nokey", "--data", data); r.code != 1 || !strings.Contains(r.err, "lorry key list") {
		t.Errorf("got %+v", r)
	}
	if r := call(t, nil, "key", "create", "--tenant", "Not A Slug", "--data", data); r.code != 2 {
		t.Errorf("got %+v", r)
	}
}

func TestWebhookSecret(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	first := call(t, nil, "webhook", "secret", "--data", data)
	if first.code != 0 || !strings.HasPrefix(first.out, "whsec_") {
		t.Fatalf("got %+v", first)
	}
	b := start(t, data, nil, "up").ready()
	if again := call(t, nil, "webhook", "secret", "--data", data); again.out != first.out {
		t.Errorf("got %+v", again)
	}
	b.signal(syscall.SIGTERM)
	b.exit()
}

// One role a process, against servers that run elsewhere: those of a lorry up stand in for them.
func TestRoles(t *testing.T) {
	t.Parallel()
	b := start(t, t.TempDir(), []string{"LORRY_WORKERS=0"}, "up")
	b.until("listening", func() bool { return b.url() != "" })
	r, err := readRunFile(b.data)
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"LORRY_NATS=" + strings.Replace(r.NATS, "://", "://"+r.Token+"@", 1), "LORRY_REDIS=" + r.Redis}
	elsewhere := t.TempDir()
	worker := start(t, elsewhere, env, "worker", "--metrics-listen", "127.0.0.1:0")
	scheduler := start(t, t.TempDir(), env, "scheduler")
	producer := start(t, t.TempDir(), env, "producer")
	dash := start(t, t.TempDir(), env, "dashboard")
	b.ready()
	at := map[*box]string{}
	for _, x := range []*box{producer, dash} {
		x.until("listening", func() bool { at[x] = listening(x.text()); return at[x] != "" })
		x.until("ready", func() bool { return status(at[x]+"/readyz") == 200 })
	}
	if r := call(t, []string{"LORRY_URL=" + at[producer]}, "submit", "--async", "--wait", "through", "the", "fleet"); r.out != "through the fleet\n" {
		t.Errorf("got %+v", r)
	}
	if got := status(listening(worker.text()) + "/metrics"); got != 200 {
		t.Errorf("worker's metrics: %d", got)
	}
	if got := status(at[dash] + "/"); got != 200 {
		t.Errorf("dashboard: %d", got)
	}
	for name, x := range map[string]*box{"producer": producer, "dashboard": dash, "worker": worker, "scheduler": scheduler} {
		x.signal(syscall.SIGTERM)
		if code := x.exit(); code != 0 {
			t.Errorf("%s: exit code %d", name, code)
		}
	}
}

// listening is the URL that a log tells.
func listening(log string) string {
	for l := range strings.SplitSeq(log, "\n") {
		var e struct{ Message, URL string }
		if json.Unmarshal([]byte(l), &e) == nil && e.Message == "listening" {
			return e.URL
		}
	}
	return ""
}

// The store's server is restarted when it dies, and what it held is there again.
func TestValkeyIsRestarted(t *testing.T) {
	t.Parallel()
	b := start(t, t.TempDir(), nil, "up").ready()
	job := strings.TrimSpace(call(t, nil, "submit", "--data", b.data, "--async", "kept").out)
	b.until("done", func() bool {
		return strings.Contains(call(t, nil, "job", "get", job, "--data", b.data).out, "succeeded")
	})
	out, err := exec.Command("pgrep", "-f", filepath.Join(b.data, "run", "redis.sock")).Output()
	if err != nil {
		t.Fatal("no valkey: ", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("more than one valkey: %q", out)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until("restarting it", func() bool { return strings.Contains(b.text(), "redis ended") })
	b.ready()
	if r := call(t, nil, "job", "get", job, "--data", b.data); !strings.Contains(r.out, "kept") {
		t.Errorf("got %+v", r)
	}
}

// A folder whose socket would have too long a name gets a port and a password.
func TestLongDataFolder(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	b := start(t, data, nil, "up").ready()
	r, err := readRunFile(data)
	if err != nil || !strings.HasPrefix(r.Redis, "redis://:") {
		t.Fatalf("got %s, %v", redactURLs(r.Redis), err)
	}
	if code, text, err := b.ask(t.Context(), "x"); code != 200 || text != "x" || err != nil {
		t.Errorf("got %d %q, %v", code, text, err)
	}
}

// What is wrong with the call or the box is one line that says what to do.
func TestErrors(t *testing.T) {
	data := t.TempDir()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("not a model"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		env  []string
		args []string
		code int
		want string
	}{
		"unknown command":        {args: []string{"upp"}, code: 2, want: `unknown command "upp": did you mean up?`},
		"unknown subcommand":     {args: []string{"job", "gett", "x"}, code: 2, want: `unknown command "gett"`},
		"unknown flag":           {args: []string{"up", "--port", "1"}, code: 2, want: "unknown flag: --port (see lorry up --help)"},
		"too many arguments":     {args: []string{"up", "now"}, code: 2, want: "lorry up --help"},
		"bad format":             {args: []string{"version", "-o", "xml"}, code: 2, want: "neither text nor json"},
		"no tenant":              {args: []string{"key", "create", "--data", data}, code: 2, want: "--tenant is missing"},
		"bad engine":             {args: []string{"up", "--engine", "gpt"}, code: 2, want: "none of llama, echo"},
		"no engine's libraries":  {env: []string{"LORRY_RUNTIME=" + data}, args: []string{"up", "--data", data}, code: 1, want: "run `make"},
		"no valkey":              {env: []string{"LORRY_RUNTIME=" + data, "PATH=/nothing"}, args: []string{"up", "--engine", "echo", "--data", data}, code: 1, want: "name a running one with --redis"},
		"no model":               {args: []string{"model", "path", "smollm2", "--model-file", "/none.gguf", "--model-name", "smollm2"}, code: 1, want: "name a GGUF file with --model-file"},
		"another model":          {args: []string{"model", "path", "gpt", "--model-file", file}, code: 1, want: "no model gpt here"},
		"adapter before a URL":   {args: []string{"up", "--data", data, "--engine", "http://127.0.0.1:1", "--adapter", "poet=x.gguf"}, code: 2, want: "only the engine llama serves adapters"},
		"push of nothing":        {args: []string{"model", "push", "poet"}, code: 2, want: "or an adapter's with --adapter and --base"},
		"nobody to join":         {args: []string{"worker", "--engine", "echo", "--data", data}, code: 1, want: "name the servers with --nats and --redis"},
		"folder that is a file":  {args: []string{"up", "--engine", "echo", "--data", file}, code: 1, want: "name another one with --data"},
		"nobody answers":         {args: []string{"job", "list", "--url", "http://127.0.0.1:1"}, code: 1, want: "start one with `lorry up`"},
		"no prompt":              {args: []string{"submit", "--url", "http://127.0.0.1:1", "-f", "/none"}, code: 2, want: "/none"},
		"bad master key":         {args: []string{"up", "--engine", "echo", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--master-key", "short"}, code: 1, want: "openssl rand -base64 32"},
		"address that is in use": {args: []string{"up", "--engine", "echo", "--data", t.TempDir(), "--listen", "127.0.0.1:99999"}, code: 1, want: "choose another address with --listen"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := call(t, tc.env, tc.args...)
			lines := strings.Split(strings.TrimSpace(r.err), "\n")
			last := lines[len(lines)-1]
			if r.code != tc.code || !strings.HasPrefix(last, "lorry: ") || !strings.Contains(last, tc.want) {
				t.Errorf("got %d, %q; want %d, …%s…", r.code, r.err, tc.code, tc.want)
			}
		})
	}
}

// NATS or Redis away at the start: one clear error, and no endless wait.
func TestServersAway(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("short: it waits out the time that servers get to start")
	}
	for name, tc := range map[string]struct {
		env  []string
		want string
	}{
		"nats":  {[]string{"LORRY_NATS=nats://tok@127.0.0.1:1", "LORRY_REDIS=redis://127.0.0.1:1"}, "nats: connect nats://xxxxx@127.0.0.1:1"},
		"redis": {[]string{"LORRY_REDIS=redis://:pw@127.0.0.1:1"}, "redis: connect redis://xxxxx@127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := call(t, append(tc.env, "LORRY_ENGINE=echo", "LORRY_LISTEN=127.0.0.1:0", "LORRY_DATA="+t.TempDir()), "up")
			if r.code != 1 || !strings.Contains(r.err, tc.want) || !strings.Contains(r.err, "is it running there?") {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestVersionAndConfig(t *testing.T) {
	if r := call(t, nil, "version"); r.code != 0 || !strings.HasPrefix(r.out, "lorry ") {
		t.Errorf("got %+v", r)
	}
	r := call(t, []string{"LORRY_SLOTS=5"}, "config", "-o", "json", "--engine", "echo")
	var rows []shownKnob
	if err := json.Unmarshal([]byte(r.out), &rows); err != nil {
		t.Fatal(err, r)
	}
	got := map[string]string{}
	for _, k := range rows {
		got[k.Key] = k.Value + " " + k.Source
	}
	if got["slots"] != "5 env LORRY_SLOTS" || got["engine"] != "echo flag --engine" || got["workers"] != "1 default" {
		t.Errorf("got %v", got)
	}
}

func TestSubmitFile(t *testing.T) {
	t.Parallel()
	b := start(t, t.TempDir(), nil, "up").ready()
	in := filepath.Join(t.TempDir(), "in.jsonl")
	text := "plain words\n\n\"a JSON string\"\n" + `{"messages":[{"role":"user","content":"a chat"}]}` + "\n" + `{"prompt":"a text","max_tokens":1}` + "\n" +
		`{"custom_id":"c5","method":"POST","url":"/v1/chat/completions","body":{"model":"echo","messages":[{"role":"user","content":"of a batch"}]}}` + "\n"
	if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.jsonl")
	if r := call(t, nil, "submit", "--data", b.data, "-f", in, "-O", out); r.code != 0 || !strings.Contains(r.err, "5 done, 0 failed") || r.out != "" {
		t.Fatalf("got %+v", r)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for l := range strings.SplitSeq(strings.TrimSpace(string(raw)), "\n") {
		var o struct {
			Line     int
			Text     string
			CustomID string `json:"custom_id"`
		}
		if err := json.Unmarshal([]byte(l), &o); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(o.Line, o.CustomID, " ", o.Text))
	}
	if want := "1 plain words|3 a JSON string|4 a chat|5 a|6c5 of a batch"; strings.Join(got, "|") != want {
		t.Errorf("got %s, want %s", strings.Join(got, "|"), want)
	}
	// Streams, jobs, and cancels through the same program.
	if r := call(t, nil, "submit", "--data", b.data, "--stream", "as", "it", "comes"); r.out != "as it comes\n" {
		t.Errorf("got %+v", r)
	}
	r := call(t, nil, "submit", "--data", b.data, "--async", "-f", in)
	if r.code != 0 || strings.Count(r.out, `"job":"job_`) != 5 {
		t.Errorf("got %+v", r)
	}
	if r := call(t, nil, "job", "list", "--data", b.data, "--limit", "2"); strings.Count(r.out, "job_") != 3 || !strings.Contains(r.out, "more: lorry job list --after job_") {
		t.Errorf("got %+v", r)
	}
	if r := call(t, nil, "job", "get", "job_none", "--data", b.data); r.code != 1 || !strings.Contains(r.err, "404") {
		t.Errorf("got %+v", r)
	}
	if r := callIn(t, "good\n{\"bad\n", nil, "submit", "--data", b.data, "-f", "-"); r.code != 1 || !strings.Contains(r.err, "line 2: it begins like a JSON object") || !strings.Contains(r.out, `"text":"good"`) {
		t.Errorf("got %+v", r)
	}
}

// Ctrl-C cancels the jobs that submit waits for.
func TestSubmitInterrupted(t *testing.T) {
	t.Parallel()
	b := start(t, t.TempDir(), []string{"LORRY_ECHO_DELAY=1h", "LORRY_GRACE=1s"}, "up").ready()
	for name, args := range map[string][]string{"waited": {"submit", "never", "ends"}, "asynchronous": {"submit", "--async", "--wait", "never", "ends"}} {
		t.Run(name, func(t *testing.T) {
			c := lorry(t, []string{"LORRY_DATA=" + b.data}, args...)
			var errs bytes.Buffer
			c.Stderr = &errs
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			b.until("running", func() bool {
				return strings.Contains(call(t, nil, "job", "list", "--data", b.data, "--status", "running", "-o", "json").out, "job_")
			})
			_ = c.Process.Signal(syscall.SIGINT)
			_ = c.Wait()
			if c.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), "interrupted") {
				t.Errorf("got %d, %q", c.ProcessState.ExitCode(), errs.String())
			}
			b.until("cancelled", func() bool {
				return !strings.Contains(call(t, nil, "job", "list", "--data", b.data, "--status", "running", "-o", "json").out, "job_")
			})
		})
	}
}
