package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"lorry/engine"
	"lorry/engine/echo"
	"lorry/engine/remote"
)

// embed has echo's vectors, three times as long as they should be, the last one first; llama-server's in base64, though
// numbers were asked for.
func (f *fake) embed(w http.ResponseWriter, r *http.Request) {
	var raw json.RawMessage
	json.NewDecoder(r.Body).Decode(&raw)
	if instead := f.remember(raw); instead != nil {
		instead(w)
		return
	}
	var o struct{ Input []string }
	if err := json.Unmarshal(raw, &o); err != nil {
		f.refuse(w, 400, "invalid_request_error", err.Error())
		return
	}
	c, err := f.echo.Run(r.Context(), embedding(f.echo.Model(), o.Input...), nil)
	if err != nil {
		f.refuse(w, 500, "server_error", err.Error())
		return
	}
	var data []any
	for i := range c.Embeddings {
		at := len(c.Embeddings) - 1 - i
		data = append(data, map[string]any{"object": "embedding", "index": at, "embedding": f.vector(c.Embeddings[at])})
	}
	json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": data, "usage": usage(c.Usage)})
}

func (f *fake) vector(v engine.Vector) any {
	for i := range v {
		v[i] *= 3
	}
	if f.owner == "llamacpp" {
		return v
	}
	return []float32(v)
}

// tokenize makes a token of each byte.
func (f *fake) tokenize(w http.ResponseWriter, r *http.Request) {
	var o struct {
		Content, Prompt string
		Messages        json.RawMessage
	}
	json.NewDecoder(r.Body).Decode(&o)
	tokens := []int{}
	if o.Messages != nil {
		tokens = make([]int, f.count(r.Context(), o.Messages))
	}
	for _, b := range []byte(o.Content + o.Prompt) {
		tokens = append(tokens, int(b))
	}
	json.NewEncoder(w).Encode(map[string]any{"tokens": tokens, "count": len(tokens)})
}

// count is how many words a run of the messages counts.
func (f *fake) count(ctx context.Context, messages json.RawMessage) int {
	c, err := f.echo.Run(ctx, &engine.Request{ID: "count", Kind: engine.Count, Messages: messages, Model: engine.Model{Base: echo.Base}}, nil)
	if err != nil {
		return 0
	}
	return c.Usage.PromptTokens
}

// render makes a byte for each word of a conversation, of which tokenize makes a token each.
func (f *fake) render(w http.ResponseWriter, r *http.Request) {
	var o struct{ Messages json.RawMessage }
	json.NewDecoder(r.Body).Decode(&o)
	json.NewEncoder(w).Encode(map[string]string{"prompt": strings.Repeat("x", f.count(r.Context(), o.Messages))})
}

func (f *fake) detokenize(w http.ResponseWriter, r *http.Request) {
	var o struct{ Tokens []int }
	json.NewDecoder(r.Body).Decode(&o)
	var text []byte
	for _, b := range o.Tokens {
		text = append(text, byte(b))
	}
	name := map[string]string{"llamacpp": "content", "vllm": "prompt"}[f.owner]
	json.NewEncoder(w).Encode(map[string]any{name: string(text)})
}

func embedding(m engine.Model, texts ...string) *engine.Request {
	r := &engine.Request{ID: "e", Kind: engine.Embed, Model: m}
	for _, s := range texts {
		r.Inputs = append(r.Inputs, engine.Input{Text: s})
	}
	return r
}

func TestEmbedBody(t *testing.T) {
	f := newFake(t, "vllm")
	e := open(t, remote.Config{URL: f.URL})
	r := embedding(model(t, e), "a", "b")
	r.Dimensions = 8
	if _, err := e.Run(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(f.last())
	if want := `{"dimensions":8,"encoding_format":"float","input":["a","b"],"model":"tiny.gguf"}`; string(got) != want {
		t.Errorf("sent %s, want %s", got, want)
	}
}

// TestEmbedAnswers: what is no answer to the question is an error, and not a hole in the answer.
func TestEmbedAnswers(t *testing.T) {
	for name, c := range map[string]struct{ answer, says string }{
		"one is missing":  {`{"data":[{"index":0,"embedding":[1,2]}]}`, "no vector for input 1 of 2"},
		"one too many":    {`{"data":[{"index":7,"embedding":[1,2]}]}`, "vector 7 of 2"},
		"all zero":        {`{"data":[{"index":0,"embedding":[0,0]}]}`, "holds no numbers"},
		"cut base64":      {`{"data":[{"index":0,"embedding":"AAA="}]}`, "no vector in base64"},
		"no vectors":      {`{"data":null}`, "no vector for input 0"},
		"another's words": {`<html>`, "OpenAI-compatible"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, "vllm", func(w http.ResponseWriter) { fmt.Fprint(w, c.answer) })
			e := open(t, remote.Config{URL: f.URL})
			_, err := e.Run(t.Context(), embedding(model(t, e), "a", "b"), nil)
			if got := engine.AsError(err); got.Class != engine.Internal || !strings.Contains(got.Message, c.says) {
				t.Errorf("got %+v, want %q", got, c.says)
			}
		})
	}
}

// TestEmbedRetries: a busy server is asked again, one that refuses is not.
func TestEmbedRetries(t *testing.T) {
	busy := func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }
	f := newFake(t, "vllm", busy, busy)
	e := open(t, remote.Config{URL: f.URL})
	if _, err := e.Run(t.Context(), embedding(model(t, e), "a"), nil); err != nil || f.posts() != 3 {
		t.Errorf("got %v after %d posts", err, f.posts())
	}
	f = newFake(t, "vllm", func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) })
	e = open(t, remote.Config{URL: f.URL})
	if _, err := e.Run(t.Context(), embedding(model(t, e), "a"), nil); !errors.Is(err, engine.ErrInvalid) || f.posts() != 1 {
		t.Errorf("got %v after %d posts", err, f.posts())
	}
}
