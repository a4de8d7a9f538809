package remote_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/engine/enginetest"
	"lorry/engine/remote"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg remote.Config) *remote.Engine {
	t.Helper()
	if cfg.Backoff == 0 {
		cfg.Backoff = time.Millisecond
	}
	e, err := remote.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestSuite(t *testing.T) {
	for _, owner := range []string{"llamacpp", "vllm", "someone"} {
		t.Run(owner, func(t *testing.T) {
			enginetest.Run(t, func(t *testing.T) engine.Engine {
				return open(t, remote.Config{URL: newFake(t, owner).URL + "/v1/", MaxConcurrent: 8})
			}, enginetest.Options{})
		})
	}
}

// TestSuiteAgainst runs the suite against the server that LORRY_TEST_REMOTE names, whatever it is.
func TestSuiteAgainst(t *testing.T) {
	url := os.Getenv("LORRY_TEST_REMOTE")
	if url == "" {
		t.Skip("LORRY_TEST_REMOTE names no server; the fakes above ran")
	}
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		return open(t, remote.Config{URL: url, Key: os.Getenv("LORRY_TEST_REMOTE_KEY"), MaxConcurrent: 8})
	}, enginetest.Options{})
}

// model is what the engine serves first.
func model(t *testing.T, e *remote.Engine) engine.Model {
	t.Helper()
	info, err := e.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.Models[0].Model
}

func chat(m engine.Model, s engine.Sampling) *engine.Request {
	s.N = max(1, s.N)
	return &engine.Request{Kind: engine.Chat, Model: m, Scope: "acme", Messages: json.RawMessage(`[{"role":"user","content":"one < two three"}]`), Sampling: s}
}

func TestInfo(t *testing.T) {
	f := newFake(t, "llamacpp")
	f.loras = `[{"id":0,"path":"/adapters/pirate.gguf","scale":1.0},{"id":1,"path":"/adapters/poet.gguf","scale":1.0}]`
	info, err := open(t, remote.Config{URL: f.URL, MaxConcurrent: 5, Key: "sk-secret"}).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range info.Models {
		names = append(names, m.Name)
		if m.Context != 512 || m.Base != info.Models[0].Base {
			t.Errorf("got %+v", m)
		}
	}
	if want := []string{"tiny.gguf", "tiny.gguf/pirate", "tiny.gguf/poet"}; !reflect.DeepEqual(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if info.Slots != 5 || !strings.HasPrefix(info.Version, "llama-server at http://127.0.0.1:") {
		t.Errorf("got %+v", info)
	}
}

// TestDigest: one server, however its address is written, and whatever the key.
func TestDigest(t *testing.T) {
	f := newFake(t, "vllm")
	want := model(t, open(t, remote.Config{URL: f.URL}))
	other := strings.Replace(f.URL, "http://", "HTTP://", 1) + "/v1"
	if got := model(t, open(t, remote.Config{URL: other, Key: "k"})); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestBody(t *testing.T) {
	all := engine.Sampling{Temperature: 0.5, TopP: 0.9, TopK: 20, MinP: 0.1, FrequencyPenalty: 0.2, PresencePenalty: -0.3, RepeatPenalty: 1.1,
		LogitBias: map[int32]float64{7: -100}, Seed: 1<<40 + 5, Stop: []string{"\n"}, MaxTokens: 9, IgnoreEOS: true, Logprobs: true, TopLogprobs: 2}
	usual := engine.Sampling{TopP: 1, Seed: 3}
	salt := "8c92b7e1b1c1e2cf" // only that it is there: see below
	for name, c := range map[string]struct {
		owner string
		s     engine.Sampling
		want  string
	}{
		"llama-server, all": {"llamacpp", all, `{"model":"tiny.gguf","temperature":0.5,"top_p":0.9,"top_k":20,"min_p":0.1,"frequency_penalty":0.2,"presence_penalty":-0.3,"repeat_penalty":1.1,"repeat_last_n":512,
			"logit_bias":{"7":-100},"seed":261,"stop":["\n"],"max_tokens":9,"ignore_eos":true,"logprobs":true,"top_logprobs":2,"cache_prompt":false}`},
		"llama-server, usual": {"llamacpp", usual, `{"model":"tiny.gguf","temperature":0,"top_p":1,"top_k":0,"min_p":0,"repeat_penalty":1,"seed":3,"cache_prompt":false}`},
		"vLLM, all": {"vllm", all, `{"model":"tiny.gguf","temperature":0.5,"top_p":0.9,"top_k":20,"min_p":0.1,"frequency_penalty":0.2,"presence_penalty":-0.3,"repetition_penalty":1.1,
			"logit_bias":{"7":-100},"seed":261,"stop":["\n"],"max_tokens":9,"ignore_eos":true,"logprobs":true,"top_logprobs":2,"cache_salt":"` + salt + `"}`},
		"anyone, usual": {"someone", usual, `{"model":"tiny.gguf","temperature":0,"seed":3}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, c.owner)
			e := open(t, remote.Config{URL: f.URL})
			if _, err := e.Run(t.Context(), chat(model(t, e), c.s), nil); err != nil {
				t.Fatal(err)
			}
			got := f.last()
			if s, ok := got["cache_salt"].(string); ok && len(s) == 64 {
				got["cache_salt"] = salt
			}
			delete(got, "messages")
			var want map[string]any
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestGrammar: llama-server takes ours, others have other words for it or none.
func TestGrammar(t *testing.T) {
	const grammar = `root ::= "a"`
	for owner, takes := range map[string]bool{"llamacpp": true, "vllm": false, "someone": false} {
		f := newFake(t, owner)
		e := open(t, remote.Config{URL: f.URL})
		r := chat(model(t, e), engine.Sampling{})
		r.Grammar = grammar
		_, err := e.Run(t.Context(), r, nil)
		if takes && (err != nil || f.last()["grammar"] != grammar) {
			t.Errorf("%s: got %v", owner, err)
		}
		if !takes && !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%s: got %v", owner, err)
		}
	}
}

// TestLoras: every adapter is named, the wanted one with 1.
func TestLoras(t *testing.T) {
	f := newFake(t, "llamacpp")
	f.loras = `[{"id":0,"path":"/a/pirate.gguf"},{"id":1,"path":"/a/poet.gguf"}]`
	e := open(t, remote.Config{URL: f.URL})
	info, err := e.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{`[{"id":0,"scale":0},{"id":1,"scale":0}]`, `[{"id":0,"scale":1},{"id":1,"scale":0}]`, `[{"id":0,"scale":0},{"id":1,"scale":1}]`} {
		if _, err := e.Run(t.Context(), chat(info.Models[i].Model, engine.Sampling{}), nil); err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(f.last()["lora"]); string(got) != want {
			t.Errorf("%s: got %s, want %s", info.Models[i].Name, got, want)
		}
	}
	unknown := info.Models[1].Model
	unknown.Adapter = strings.Repeat("0", 64)
	if _, err := e.Run(t.Context(), chat(unknown, engine.Sampling{}), nil); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func status(code int, body string, headers ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		want   engine.Error
		posts  int
	}{
		"OpenAI's":              {status(400, `{"error":{"message":"bad n","type":"invalid_request_error","param":"n","code":"invalid_value"}}`), engine.Error{Class: "invalid", Code: "invalid_value", Param: "n", Message: "bad n"}, 1},
		"llama-server's":        {status(400, `{"error":{"code":400,"message":"bad","type":"invalid_request_error"}}`), engine.Error{Class: "invalid", Message: "bad"}, 1},
		"llama-server's limit":  {status(400, `{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_ctx":512}}`), engine.Error{Class: "invalid", Code: engine.CodeContextLength, Message: "available context"}, 1},
		"vLLM's limit":          {status(400, `{"object":"error","message":"This model's maximum context length is 512 tokens.","type":"BadRequestError","param":null,"code":400}`), engine.Error{Class: "invalid", Code: engine.CodeContextLength, Message: "512 tokens"}, 1},
		"TGI's":                 {status(422, "{\"error\":\"Input validation error: `inputs` must have less than 512 tokens. Given: 900\",\"error_type\":\"validation\"}"), engine.Error{Class: "invalid", Code: engine.CodeContextLength, Message: "Given: 900"}, 1},
		"FastAPI's":             {status(422, `{"detail":[{"loc":["body","n"],"msg":"too many"}]}`), engine.Error{Class: "invalid", Message: "too many"}, 1},
		"no JSON":               {status(400, "<h1>Bad Request</h1>"), engine.Error{Class: "invalid", Message: "<h1>Bad Request</h1>"}, 1},
		"no body":               {status(413, ""), engine.Error{Class: "invalid", Message: "Request Entity Too Large"}, 1},
		"not found":             {status(404, `{"error":{"message":"no such model"}}`), engine.Error{Class: "not_found", Code: engine.CodeModelNotFound, Message: "404: no such model"}, 1},
		"wrong key":             {status(401, `{"error":{"message":"Incorrect API key provided: sk-secret"}}`), engine.Error{Class: "unavailable", Message: "key provided: ***: is the key right?"}, 1},
		"redirect":              {status(307, "", "Location", "https://elsewhere.test/"), engine.Error{Class: "unavailable", Message: "redirects to https://elsewhere.test/"}, 1},
		"too many":              {status(429, `{"error":{"message":"slow down","code":"rate_limit_exceeded"}}`), engine.Error{Class: "unavailable", Code: "rate_limit_exceeded", Message: "429: slow down"}, 3},
		"far too many":          {status(429, `{"error":{"message":"tomorrow"}}`, "Retry-After", "86400"), engine.Error{Class: "unavailable", Message: "tomorrow"}, 1},
		"loading":               {status(503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`), engine.Error{Class: "unavailable", Message: "Loading model"}, 3},
		"failing":               {status(500, `oops`), engine.Error{Class: "unavailable", Message: "500: oops"}, 3},
		"not OpenAI":            {status(200, `<html>`), engine.Error{Class: "internal", Message: "is this an OpenAI-compatible server?"}, 1},
		"an answer too few":     {status(200, `{"choices":[]}`), engine.Error{Class: "internal", Message: "no answer 1 of 1"}, 1},
		"aborted":               {status(200, `{"choices":[{"index":0,"finish_reason":"abort","message":{"content":""}}]}`), engine.Error{Class: "unavailable", Message: "aborted"}, 3},
		"an error as a success": {status(200, `{"error":{"message":"bad","type":"invalid_request_error"}}`), engine.Error{Class: "invalid", Message: "bad"}, 1},
		"cut off":               {status(200, `{"choices"`, "Content-Length", "900"), engine.Error{Class: "unavailable", Message: "broke off"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "someone", c.answer, c.answer, c.answer, c.answer)
			e := open(t, remote.Config{URL: f.URL, Retries: 2, Key: "sk-secret"})
			_, err := e.Run(t.Context(), chat(model(t, e), engine.Sampling{}), nil)
			checkError(t, err, c.want)
			if got := f.posts(); got != c.posts {
				t.Errorf("sent %d times, want %d", got, c.posts)
			}
		})
	}
}

func checkError(t *testing.T, err error, want engine.Error) {
	t.Helper()
	if err == nil {
		t.Fatal("there was no error")
	}
	got := engine.AsError(err)
	if got.Class != want.Class || got.Code != want.Code || got.Param != want.Param || !strings.Contains(got.Message, want.Message) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if strings.Contains(got.Message, "sk-secret") {
		t.Errorf("the key stands in %q", got.Message)
	}
}

// TestStreamErrors: errors in a stream, which began as a success.
func TestStreamErrors(t *testing.T) {
	const piece = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n"
	for name, c := range map[string]struct {
		stream string
		want   engine.Error
		posts  int
	}{
		"after a piece":     {piece + "data: {\"error\":{\"code\":500,\"message\":\"out of memory\",\"type\":\"server_error\"}}\n\n", engine.Error{Class: "unavailable", Message: "out of memory"}, 1},
		"at once":           {"data: {\"error\":{\"code\":503,\"message\":\"busy\"}}\n\n", engine.Error{Class: "unavailable", Message: "busy"}, 3},
		"in an error field": {"error: {\"code\":400,\"message\":\"bad\",\"type\":\"invalid_request_error\"}\n\n", engine.Error{Class: "invalid", Message: "bad"}, 1},
		"an error event":    {"event: error\ndata: {\"error\":{\"message\":\"the context is full\",\"type\":\"context_length_exceeded\"}}\n\n", engine.Error{Class: "invalid", Code: engine.CodeContextLength, Message: "full"}, 1},
		"an error's text":   {"event: error\ndata: no more\n\n", engine.Error{Class: "internal", Message: "no more"}, 1},
		"TGI's":             {"data: {\"error\":\"Model is overloaded\",\"error_type\":\"overloaded\"}\n\n", engine.Error{Class: "unavailable", Message: "overloaded"}, 3},
		"of no kind":        {"data: {\"error\":{\"message\":\"what?\"}}\n\n", engine.Error{Class: "internal", Message: "what?"}, 1},
		"broken off":        {piece, engine.Error{Class: "unavailable", Message: "broke off"}, 1},
		"empty":             {"", engine.Error{Class: "unavailable", Message: "broke off"}, 3},
		"half an event":     {"data: {\"choices\":[", engine.Error{Class: "unavailable", Message: "broke off"}, 3},
		"no JSON":           {"data: hello\n\n", engine.Error{Class: "internal", Message: "can't be read"}, 1},
		"a choice too many": {"data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"one\"}}]}\n\n", engine.Error{Class: "internal", Message: "answer 1 of 1"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			answer := status(200, c.stream)
			f := newFake(t, "someone", answer, answer, answer, answer)
			e := open(t, remote.Config{URL: f.URL, Retries: 2})
			_, err := e.Run(t.Context(), chat(model(t, e), engine.Sampling{}), func(engine.Chunk) {})
			checkError(t, err, c.want)
			if got := f.posts(); got != c.posts {
				t.Errorf("sent %d times, want %d", got, c.posts)
			}
		})
	}
}

// TestStreams: what servers leave out.
func TestStreams(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		max    int
		want   engine.Completion
	}{
		"no [DONE], no usage": {"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"},\"finish_reason\":\"length\"}]}\n\n", 0,
			engine.Completion{Choices: []engine.Choice{{Text: "ab", Finish: "length"}}, Usage: engine.Usage{CompletionTokens: 2}}},
		"no reason, at the limit": {"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n", 1,
			engine.Completion{Choices: []engine.Choice{{Text: "a", Finish: "length"}}, Usage: engine.Usage{CompletionTokens: 1}}},
		"no reason, before it": {"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"\"}]}\r\n\r\ndata: [DONE]\r\n\r\n", 2,
			engine.Completion{Choices: []engine.Choice{{Text: "a", Finish: "stop"}}, Usage: engine.Usage{CompletionTokens: 1}}},
		"timings": {"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}],\"timings\":{\"prompt_n\":3,\"cache_n\":4,\"predicted_n\":1,\"prompt_ms\":500,\"predicted_ms\":500}}\n\ndata: [DONE]\n\n", 0,
			engine.Completion{Choices: []engine.Choice{{Text: "a", Finish: "stop"}}, Usage: engine.Usage{PromptTokens: 7, CachedTokens: 4, CompletionTokens: 1, EngineSeconds: 1}}},
		"a thought": {"data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"h\",\"reasoning\":\"h\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning\":\"m\"}}]}\n\n" +
			"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}],\"usage\":{\"completion_tokens\":3,\"completion_tokens_details\":{\"reasoning_tokens\":2}}}\n\ndata: [DONE]\n\n", 0,
			engine.Completion{Choices: []engine.Choice{{Text: "a", Reasoning: "hm", Finish: "stop"}}, Usage: engine.Usage{CompletionTokens: 3, ReasoningTokens: 2}}},
		"calls in pieces": {"data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\n\n" +
			"data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n", 0,
			engine.Completion{Choices: []engine.Choice{{Finish: "tool_calls", ToolCalls: json.RawMessage(`[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]`)}},
				Usage: engine.Usage{PromptTokens: 1, CompletionTokens: 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "someone", status(200, c.stream))
			e := open(t, remote.Config{URL: f.URL})
			got, err := e.Run(t.Context(), chat(model(t, e), engine.Sampling{MaxTokens: c.max}), func(engine.Chunk) {})
			if err != nil {
				t.Fatal(err)
			}
			got.Usage.FirstTokenSeconds = 0
			if diff := cmp.Diff(&c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNamedCalls: whatever a server says of a call to a named function, it ended as OpenAI says.
func TestNamedCalls(t *testing.T) {
	for reason, want := range map[string]map[string]engine.Finish{
		`"tool_calls"`: {`"required"`: "tool_calls", `{"type":"function","function":{"name":"f"}}`: "stop"},
		`null`:         {`"auto"`: "tool_calls", `{"type":"function","function":{"name":"f"}}`: "stop"},
	} {
		for choice, finish := range want {
			f := newFake(t, "someone", status(200, `{"choices":[{"index":0,"message":{"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":`+reason+`}]}`))
			e := open(t, remote.Config{URL: f.URL})
			r := chat(model(t, e), engine.Sampling{})
			r.Tools, r.ToolChoice = json.RawMessage(`[{"type":"function","function":{"name":"f"}}]`), json.RawMessage(choice)
			c, err := e.Run(t.Context(), r, nil)
			if err != nil || c.Choices[0].Finish != finish || c.Choices[0].ToolCalls == nil {
				t.Errorf("%s after %s: %+v, %v", choice, reason, c, err)
			}
		}
	}
}

// TestRetry: what was busy twice answers the third time; a wait that the server names is waited for.
func TestRetry(t *testing.T) {
	busy := status(429, "", "Retry-After-Ms", "120")
	f := newFake(t, "someone", busy, status(503, ""))
	e := open(t, remote.Config{URL: f.URL})
	start := time.Now()
	if _, err := e.Run(t.Context(), chat(model(t, e), engine.Sampling{}), nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); f.posts() != 3 || took < 120*time.Millisecond {
		t.Errorf("sent %d times in %v", f.posts(), took)
	}
}

// TestAway: the server is not there yet; nothing else than that is wrong, and it may come.
func TestAway(t *testing.T) {
	srv := httptest.NewUnstartedServer(nil)
	url := "http://" + srv.Listener.Addr().String()
	srv.Listener.Close()
	e := open(t, remote.Config{URL: url, Retries: 1})
	_, err := e.Info(t.Context())
	checkError(t, err, engine.Error{Class: "unavailable", Message: "engine/remote: GET " + url + "/v1/models: "})
	checkError(t, err, engine.Error{Class: "unavailable", Message: "connection refused: is the server running?"})
	_, err = e.Run(t.Context(), chat(engine.Model{Name: "m"}, engine.Sampling{}), nil)
	checkError(t, err, engine.Error{Class: "unavailable", Message: "is the server running?"})
}

func TestFilter(t *testing.T) {
	f := newFake(t, "vllm")
	if m := model(t, open(t, remote.Config{URL: f.URL, Models: []string{"tiny.gguf", "absent"}})); m.Name != "tiny.gguf" {
		t.Errorf("got %+v", m)
	}
	_, err := open(t, remote.Config{URL: f.URL, Models: []string{"absent"}}).Info(t.Context())
	checkError(t, err, engine.Error{Class: "unavailable", Message: `serves ["tiny.gguf"], and none of ["absent"]`})
}

// TestDeterministic: a server's word for it is not to be had.
func TestDeterministic(t *testing.T) {
	e := open(t, remote.Config{URL: newFake(t, "vllm").URL})
	r := &engine.Request{Kind: engine.Text, Model: model(t, e), Prompt: "x", Deterministic: true, Sampling: engine.Sampling{N: 1}}
	_, err := e.Run(t.Context(), r, nil)
	checkError(t, err, engine.Error{Class: "invalid", Code: engine.CodeUnsupported, Param: "lorry.deterministic", Message: "lorry.deterministic"})
}

// TestNoList: a server without a list serves what it is said to.
func TestNoList(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	if m := model(t, open(t, remote.Config{URL: srv.URL, Models: []string{"m"}})); m.Name != "m" {
		t.Errorf("got %+v", m)
	}
	_, err := open(t, remote.Config{URL: srv.URL}).Info(t.Context())
	checkError(t, err, engine.Error{Class: "not_found", Code: engine.CodeModelNotFound, Message: "404"})
}

// TestBounded: no more requests are under way than allowed, also when one asks for several answers.
func TestBounded(t *testing.T) {
	f := newFake(t, "llamacpp")
	count := &counter{RoundTripper: http.DefaultTransport}
	client := &http.Client{Transport: count}
	defer client.CloseIdleConnections()
	e := open(t, remote.Config{URL: f.URL, MaxConcurrent: 2, HTTPClient: client})
	m := model(t, e)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := e.Run(t.Context(), chat(m, engine.Sampling{N: 3}), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if count.most > 2 || f.posts() != 18 {
		t.Errorf("%d at once, %d in all", count.most, f.posts())
	}
}

type counter struct {
	http.RoundTripper
	mu        sync.Mutex
	now, most int
}

func (c *counter) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += n
	c.most = max(c.most, c.now)
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.add(1)
	defer c.add(-1)
	return c.RoundTripper.RoundTrip(r)
}

func (c *counter) CloseIdleConnections() { c.RoundTripper.(*http.Transport).CloseIdleConnections() }

func TestNewRefuses(t *testing.T) {
	for name, url := range map[string]string{
		"no scheme": "127.0.0.1:8000", "another scheme": "ftp://host/", "no host": "http:///v1", "a password": "http://u:sk-secret@host/",
		"a query": "http://host/?a=b", "nothing": "", "broken": "http://[::1",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := remote.New(remote.Config{URL: url})
			if err == nil || strings.Contains(err.Error(), "sk-secret") {
				t.Errorf("got %v", err)
			}
		})
	}
}
