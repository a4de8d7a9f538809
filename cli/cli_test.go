package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a Lorry that answers chats with handle; the first model is m.
func server(t *testing.T, handle http.HandlerFunc) *Client {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":[{"id":"m"}]}`) })
	mux.HandleFunc("/", handle)
	s := httptest.NewServer(mux)
	c := NewClient(Target{URL: s.URL + "/v1/", Key: "k"})
	c.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	t.Cleanup(func() { c.http.CloseIdleConnections(); s.Close() })
	return c
}

// said is the user's text in a request.
func said(r *http.Request) string {
	var b struct{ Messages []struct{ Content string } }
	_ = json.NewDecoder(r.Body).Decode(&b)
	if len(b.Messages) == 0 {
		return ""
	}
	return b.Messages[len(b.Messages)-1].Content
}

func reply(w http.ResponseWriter, text string) {
	_ = json.NewEncoder(w).Encode(map[string]any{"choices": []any{map[string]any{"message": map[string]string{"content": text}}}, "usage": map[string]int{"completion_tokens": 2}})
}

// exec runs submit against a client, as the command would.
func exec(t *testing.T, cl *Client, in string, args ...string) (out, errs string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	c := newSubmit(func(*cobra.Command) func() (Target, error) { return func() (Target, error) { return cl.target, nil } })
	c.SetArgs(args)
	c.SetIn(strings.NewReader(in))
	c.SetOut(&o)
	c.SetErr(&e)
	c.SilenceUsage, c.SilenceErrors = true, true
	err = c.ExecuteContext(t.Context())
	return o.String(), e.String(), err
}

// Answers come in the input's order, whatever the order of their ends, and concurrency is bounded.
func TestOrderAndBound(t *testing.T) {
	var now, most atomic.Int64
	release := make(chan struct{})
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		text := said(r)
		if text == "1" { // the first ends after ten others
			<-release
		}
		if text == "10" {
			close(release)
		}
		reply(w, text)
	})
	var in strings.Builder
	for i := 1; i <= 200; i++ {
		fmt.Fprintln(&in, i)
	}
	out, errs, err := exec(t, cl, in.String(), "-f", "-", "-c", "4")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i, l := range lines {
		var o outcome
		if err := json.Unmarshal([]byte(l), &o); err != nil || o.Text != strconv.Itoa(i+1) || o.Line != i+1 {
			t.Fatalf("line %d is %s", i+1, l)
		}
	}
	if len(lines) != 200 || most.Load() > 4 || !strings.Contains(errs, "200 done, 0 failed") || !strings.Contains(errs, "400 tokens") {
		t.Errorf("%d lines, %d at once, %q", len(lines), most.Load(), errs)
	}
}

// What is refused for now is sent again; what is refused for good is an error of its line, and the others go on.
func TestRefusals(t *testing.T) {
	var tries atomic.Int64
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch text := said(r); {
		case text == "busy" && tries.Add(1) < 4:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case text == "bad":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":{"message":"no good","code":"bad_one"}}`)
		default:
			reply(w, text)
		}
	})
	var waited []time.Duration
	cl.pause = func(_ context.Context, d time.Duration) error { waited = append(waited, d); return nil }
	var raw json.RawMessage
	if err := cl.do(t.Context(), http.MethodPost, chatPath, nil, json.RawMessage(`{"messages":[{"content":"busy"}]}`), &raw); err != nil || tries.Load() != 4 {
		t.Errorf("%d tries, %v", tries.Load(), err)
	}
	if len(waited) != 3 || waited[0] != time.Second {
		t.Errorf("waited %v: Retry-After is not honoured", waited)
	}
	out, _, err := exec(t, cl, "a\nbad\nb\n", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "1 of 3 failed") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(out, `"error":{"message":"no good","code":"bad_one","status_code":400}`) || strings.Count(out, "\n") != 3 {
		t.Errorf("got %s", out)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for code, want := range map[int]string{401: "LORRY_API_KEY", 403: "admin key", 404: "404 no such thing", 500: "500 no such thing"} {
		cl := server(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			fmt.Fprint(w, `{"error":{"message":"no such thing"}}`)
		})
		if err := cl.do(t.Context(), http.MethodGet, "/v1/jobs", nil, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: got %v", code, err)
		}
	}
	cl := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprint(w, "<html>a proxy's page</html>")
	})
	if err := cl.do(t.Context(), http.MethodGet, "/x", nil, nil, nil); err == nil || !strings.Contains(err.Error(), "502 <html>a proxy's page") {
		t.Errorf("got %v", err)
	}
}

// A file is read as a whole first: nothing is sent when a line of it is bad.
func TestBadLineOfAFile(t *testing.T) {
	sent := atomic.Int64{}
	cl := server(t, func(w http.ResponseWriter, r *http.Request) { sent.Add(1); reply(w, said(r)) })
	for text, want := range map[string]string{
		"good\n\n{\"messages\":[]\n":                          "line 3: it begins like a JSON object",
		"good\n{\"model\":\"x\"}\n":                           `line 2: the object has neither "messages" nor "prompt"`,
		"{\"prompt\":\"a\"} trailing\n":                       "line 1: it begins like a JSON object, but column 16: there is more after it",
		"{\"custom_id\":\"a\",\"url\":\"/v1/x\",\"body\":{}}": `line 1: "url" is "/v1/x"`,
		"{\"url\":\"/v1/completions\",\"body\":[]}":           `line 1: "body" is no object`,
		"bad \xff\n": "line 1: it is no UTF-8",
		"\n \n":      "holds no prompt",
	} {
		file := filepath.Join(t.TempDir(), "in")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := exec(t, cl, "", "-f", file)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	if sent.Load() != 0 {
		t.Errorf("%d were sent", sent.Load())
	}
}

// Of a stream, what came before a bad line is answered.
func TestBadLineOfAStream(t *testing.T) {
	cl := server(t, func(w http.ResponseWriter, r *http.Request) { reply(w, said(r)) })
	out, _, err := exec(t, cl, "one\ntwo\n{\nnever\n", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "line 3: ") || strings.Count(out, "\n") != 2 {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestStreamBreaksOff(t *testing.T) {
	for name, tc := range map[string]struct{ body, out, want string }{
		"whole":      {"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n: keep-alive\n\ndata: {\"choices\":[],\"usage\":{\"completion_tokens\":1}}\n\ndata: [DONE]\n\n", "a\n", ""},
		"no end":     {"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", "a", "ended before it was whole"},
		"with error": {"data: {\"error\":{\"message\":\"engine crashed\"}}\n\ndata: [DONE]\n\n", "", "engine crashed"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tc.body) })
			out, _, err := exec(t, cl, "", "--stream", "x")
			if out != tc.out || (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, %v", out, err)
			}
		})
	}
}

// When submit is interrupted, jobs that are not over are cancelled, and their lines left out.
func TestInterruptedJobsAreCancelled(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	var cancelled atomic.Int64
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/cancel"):
			cancelled.Add(1)
		case r.Method == http.MethodPost:
			if r.Header.Get("Prefer") != "respond-async" || r.Header.Get("Idempotency-Key") == "" {
				t.Error("it is no asynchronous job")
			}
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprintf(w, `{"id":"job_%s","status":"queued"}`, said(r))
		case r.URL.Path == "/v1/jobs/job_1":
			fmt.Fprint(w, `{"id":"job_1","status":"succeeded","response":{"status_code":200,"body":{"choices":[{"message":{"content":"done"}}]}}}`)
		default:
			interrupt()
			fmt.Fprint(w, `{"id":"job_2","status":"running"}`)
		}
	})
	s := &submission{file: "-", async: true, wait: true, concurrency: 1, model: "m"}
	var out, errs bytes.Buffer
	err := s.many(ctx, cl, strings.NewReader("1\n2\n"), 2, &out, &errs)
	if err == nil || !strings.Contains(err.Error(), "interrupted: 1 of the prompts") || cancelled.Load() != 1 || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("got %v, %d cancelled, %s", err, cancelled.Load(), out.String())
	}
}

// A disk that is full ends the command with an error, not with a hang.
func TestOutputFails(t *testing.T) {
	cl := server(t, func(w http.ResponseWriter, r *http.Request) { reply(w, said(r)) })
	s := &submission{file: "-", wait: true, concurrency: 2, model: "m"}
	err := s.many(t.Context(), cl, strings.NewReader(strings.Repeat("x\n", 50)), 0, full{}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "write answers: disk full") {
		t.Errorf("got %v", err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestUsageErrors(t *testing.T) {
	for name, args := range map[string][]string{
		"prompt and file": {"-f", "x", "hello"}, "concurrency": {"-c", "0", "x"}, "stream of a file": {"--stream", "-f", "x"},
		"stream as JSON": {"--stream", "-o", "json", "x"}, "lane": {"--lane", "fast", "x"}, "no such file": {"-f", "/none"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := server(t, func(http.ResponseWriter, *http.Request) { t.Error("something was sent") })
			_, _, err := exec(t, cl, "", args...)
			if _, ok := errors.AsType[Usage](err); !ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNoModelYet(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":[]}`) }))
	defer s.Close()
	cl := NewClient(Target{URL: s.URL})
	defer cl.http.CloseIdleConnections()
	if _, err := cl.model(t.Context()); err == nil || !strings.Contains(err.Error(), "start a worker") {
		t.Errorf("got %v", err)
	}
}

// The flags fill in what a line leaves out, and never more.
func TestRequest(t *testing.T) {
	s := &submission{model: "m", maxTokens: 5, temperature: 0, tempSet: true, system: "be brief", lane: "flex"}
	for in, want := range map[string]string{
		"hi & <b>": `/v1/chat/completions {"lorry":{"lane":"flex"},"max_tokens":5,"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hi & <b>"}],"model":"m","temperature":0}`,
		`"a\nb"`:   `/v1/chat/completions {"lorry":{"lane":"flex"},"max_tokens":5,"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"a\nb"}],"model":"m","temperature":0}`,
		`"a" or b`: `/v1/chat/completions {"lorry":{"lane":"flex"},"max_tokens":5,"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"\"a\" or b"}],"model":"m","temperature":0}`,
		`{"prompt":"x","model":"n","temperature":1,"max_tokens":9,"lorry":{},"stream":true}`:              `/v1/completions {"lorry":{},"max_tokens":9,"model":"n","prompt":"x","temperature":1}`,
		`{"custom_id":"c","url":"/v1/chat/completions","body":{"messages":[],"max_completion_tokens":1}}`: `/v1/chat/completions {"lorry":{"lane":"flex"},"max_completion_tokens":1,"messages":[],"model":"m","temperature":0}`,
	} {
		r, err := s.request(line{n: 1, text: in})
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if got := r.path + " " + string(r.body); got != want {
			t.Errorf("%s:\n got %s\nwant %s", in, got, want)
		}
	}
}

// FuzzRequest: a line gives an error that names it, or a JSON object for an endpoint of ours.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{"plain", `"js"`, `{"prompt":"x"}`, `{"messages":[{}]}`, `{"custom_id":"c","url":"/v1/completions","body":{"prompt":1}}`, "{", "\xff"} {
		f.Add(s)
	}
	s := &submission{model: "m", maxTokens: 5}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := s.request(line{n: 7, text: text})
		if err != nil {
			if !strings.Contains(err.Error(), "line 7: ") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		var body map[string]json.RawMessage
		if err := json.Unmarshal(r.body, &body); err != nil || r.path != chatPath && r.path != textPath {
			t.Errorf("%q: %s %s (%v)", text, r.path, r.body, err)
		}
	})
}
