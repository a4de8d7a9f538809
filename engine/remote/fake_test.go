package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"lorry/engine"
	"lorry/engine/echo"
)

// fake speaks the protocol as servers do, quirks and all, and has echo compute the answers.
type fake struct {
	*httptest.Server
	owner string // llamacpp or vllm
	echo  *echo.Engine
	loras string // what /lora-adapters says; empty: 404

	mu    sync.Mutex
	seen  []map[string]any            // bodies, as they came
	times int                         // posts
	first []func(http.ResponseWriter) // what the first posts get instead of an answer
}

func newFake(t *testing.T, owner string, first ...func(http.ResponseWriter)) *fake {
	t.Helper()
	e, err := echo.New(echo.Config{Delay: 100 * time.Microsecond, Slots: 64, Context: 512})
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{owner: owner, echo: e, first: first}
	if owner == "llamacpp" {
		f.loras = "[]"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", f.models)
	mux.HandleFunc("GET /lora-adapters", f.adapters)
	mux.HandleFunc("POST /v1/chat/completions", f.post)
	mux.HandleFunc("POST /v1/completions", f.post)
	mux.HandleFunc("POST /v1/embeddings", f.embed)
	if owner == "llamacpp" || owner == "vllm" {
		mux.HandleFunc("POST /tokenize", f.tokenize)
		mux.HandleFunc("POST /detokenize", f.detokenize)
		mux.HandleFunc("POST /apply-template", f.render)
	}
	f.Server = httptest.NewServer(mux)
	t.Cleanup(func() { f.Server.Close(); e.Close() })
	return f
}

func (f *fake) models(w http.ResponseWriter, _ *http.Request) {
	m := map[string]any{"id": "tiny.gguf", "object": "model", "owned_by": f.owner}
	if f.owner == "llamacpp" {
		m["meta"] = map[string]any{"n_ctx": 512, "n_ctx_train": 8192}
	} else {
		m["max_model_len"] = 512
	}
	json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": []any{m}, "models": []any{m}})
}

func (f *fake) adapters(w http.ResponseWriter, r *http.Request) {
	if f.loras == "" {
		http.NotFound(w, r)
		return
	}
	fmt.Fprint(w, f.loras)
}

// order is a body as the fake reads it.
type order struct {
	Model    string          `json:"model"`
	Messages json.RawMessage `json:"messages"`
	Prompt   string          `json:"prompt"`
	Stop     []string        `json:"stop"`
	Max      int             `json:"max_tokens"`
	N        int             `json:"n"`
	Stream   bool            `json:"stream"`
	Options  struct {
		Usage bool `json:"include_usage"`
	} `json:"stream_options"`
	Logprobs any  `json:"logprobs"`
	Top      int  `json:"top_logprobs"`
	Echo     bool `json:"echo"`
}

func (f *fake) remember(raw []byte) func(http.ResponseWriter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var body map[string]any
	json.Unmarshal(raw, &body)
	f.seen = append(f.seen, body)
	if f.times++; f.times <= len(f.first) {
		return f.first[f.times-1]
	}
	return nil
}

func (f *fake) last() map[string]any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[len(f.seen)-1]
}

func (f *fake) posts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.times
}

func (f *fake) post(w http.ResponseWriter, r *http.Request) {
	var raw json.RawMessage
	json.NewDecoder(r.Body).Decode(&raw)
	if instead := f.remember(raw); instead != nil {
		instead(w)
		return
	}
	var o order
	if err := json.Unmarshal(raw, &o); err != nil {
		f.refuse(w, 400, "invalid_request_error", err.Error())
		return
	}
	if f.owner == "llamacpp" && (o.N > 1 || o.Echo) {
		f.refuse(w, 400, "invalid_request_error", "Only one completion choice is allowed")
		return
	}
	s := speaker{fake: f, w: w, o: o, chat: strings.Contains(r.URL.Path, "chat")}
	s.answer(r.Context())
}

// refuse has llama-server's shape: a number as the code.
func (f *fake) refuse(w http.ResponseWriter, status int, kind, message string) {
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": status, "message": message, "type": kind}})
}

// speaker gives one answer.
type speaker struct {
	*fake
	w     http.ResponseWriter
	o     order
	chat  bool
	begun map[int]bool
}

func (s *speaker) request() *engine.Request {
	r := &engine.Request{Kind: engine.Text, Model: s.echo.Model(), Prompt: s.o.Prompt, Messages: s.o.Messages}
	r.Sampling = engine.Sampling{N: max(1, s.o.N), Stop: s.o.Stop, MaxTokens: max(0, s.o.Max), Logprobs: s.o.Logprobs != nil, TopLogprobs: 1}
	if s.chat {
		r.Kind = engine.Chat
		r.Sampling.Logprobs = r.Sampling.Logprobs && (s.owner != "llamacpp" || s.o.Top > 0)
	}
	return r
}

func (s *speaker) answer(ctx context.Context) {
	var emit func(engine.Chunk)
	if s.o.Stream {
		s.begun = map[int]bool{}
		emit = s.chunk
	}
	c, err := s.echo.Run(ctx, s.request(), emit)
	switch {
	case errors.Is(err, engine.ErrContextLength):
		s.refuse(s.w, 400, "exceed_context_size_error", "the request exceeds the available context size, try increasing it")
	case err != nil:
		s.refuse(s.w, 500, "server_error", err.Error())
	case s.o.Stream:
		s.end(c)
	default:
		s.whole(c)
	}
}

// strange is a reason for an end as TGI and others spell it.
func (s *speaker) strange(f engine.Finish) any {
	switch {
	case f == "":
		return nil
	case f == engine.FinishStop && s.owner == "llamacpp":
		return "eos_token"
	}
	return f
}

func (s *speaker) logprobs(ls []engine.Logprob) any {
	if len(ls) == 0 {
		return nil
	}
	if !s.chat && s.owner != "llamacpp" {
		out := map[string][]any{}
		for _, l := range ls {
			out["tokens"] = append(out["tokens"], l.Token)
			out["token_logprobs"] = append(out["token_logprobs"], l.Logprob)
			out["top_logprobs"] = append(out["top_logprobs"], map[string]float64{l.Token: 0, "other": -5})
		}
		return out
	}
	var content []any
	for _, l := range ls {
		one := map[string]any{"token": l.Token, "logprob": l.Logprob, "bytes": []int{104, 105}}
		content = append(content, map[string]any{"token": l.Token, "logprob": l.Logprob, "bytes": nil, "top_logprobs": []any{one, one}})
	}
	return map[string]any{"content": content}
}

func (s *speaker) whole(c *engine.Completion) {
	var choices []any
	for i, choice := range c.Choices {
		one := map[string]any{"index": i, "finish_reason": s.strange(choice.Finish), "logprobs": s.logprobs(choice.Logprobs)}
		if s.chat {
			one["message"] = map[string]any{"role": "assistant", "content": choice.Text}
		} else {
			one["text"] = choice.Text
		}
		choices = append(choices, one)
	}
	json.NewEncoder(s.w).Encode(map[string]any{"choices": choices, "usage": usage(c.Usage), "timings": timings(c.Usage)})
}

func usage(u engine.Usage) map[string]any {
	return map[string]any{"prompt_tokens": u.PromptTokens, "completion_tokens": u.CompletionTokens, "total_tokens": u.PromptTokens + u.CompletionTokens}
}

func timings(u engine.Usage) map[string]any {
	return map[string]any{"prompt_n": u.PromptTokens, "cache_n": 0, "prompt_ms": 1.5, "predicted_n": u.CompletionTokens, "predicted_ms": 10.5}
}

func (s *speaker) data(v any) {
	raw, _ := json.Marshal(v)
	fmt.Fprintf(s.w, "data: %s\n\n", raw)
	s.w.(http.Flusher).Flush()
}

// chunk sends a role alone first, a comment now and then, and the end in an event of its own with no content.
func (s *speaker) chunk(c engine.Chunk) {
	if !s.begun[c.Index] && s.chat {
		s.data(map[string]any{"choices": []any{map[string]any{"index": c.Index, "delta": map[string]any{"role": "assistant", "content": nil}}}})
	}
	s.begun[c.Index] = true
	fmt.Fprint(s.w, ": keep-alive\n\n:\n\nid: 7\nretry: 10\n\n")
	one := map[string]any{"index": c.Index, "finish_reason": nil, "logprobs": s.logprobs(c.Logprobs)}
	if s.chat {
		one["delta"] = map[string]any{"content": c.Text}
	} else {
		one["text"] = c.Text
	}
	s.data(map[string]any{"choices": []any{one}})
	if c.Finish != "" {
		last := map[string]any{"index": c.Index, "finish_reason": s.strange(c.Finish)}
		if s.chat {
			last["delta"] = map[string]any{}
		}
		s.data(map[string]any{"choices": []any{last}})
	}
}

// end sends the count, if asked, with no choices.
func (s *speaker) end(c *engine.Completion) {
	if s.o.Options.Usage {
		s.data(map[string]any{"choices": []any{}, "usage": usage(c.Usage), "timings": timings(c.Usage)})
	}
	fmt.Fprint(s.w, "data: [DONE]\n\n")
}
