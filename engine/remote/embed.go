package remote

import (
	"bytes"
	"context"
	"encoding/json"

	"lorry/engine"
)

// compute answers a request of which nothing is drawn: vectors, tokens, a text.
func (e *Engine) compute(ctx context.Context, l *listing, s served, r *engine.Request) (*engine.Completion, error) {
	switch r.Kind {
	case engine.Embed:
		return e.embed(ctx, l, s, r)
	case engine.Tokenize:
		return e.tokenize(ctx, l, s, r)
	case engine.Count:
		return e.count(ctx, l, s, r)
	}
	return e.detokenize(ctx, l, s, r)
}

// wireVectors is an answer to /v1/embeddings.
type wireVectors struct {
	Data []struct {
		Index     int        `json:"index"`
		Embedding wireVector `json:"embedding"`
	} `json:"data"`
	Usage wireUsage `json:"usage"`
}

// wireVector comes as numbers or, from servers that don't look at encoding_format, in base64.
type wireVector struct{ engine.Vector }

func (w *wireVector) UnmarshalJSON(raw []byte) error {
	if bytes.HasPrefix(raw, []byte(`"`)) {
		return json.Unmarshal(raw, &w.Vector)
	}
	return json.Unmarshal(raw, (*[]float32)(&w.Vector))
}

// embed asks for vectors as numbers, which every server writes.
func (e *Engine) embed(ctx context.Context, l *listing, s served, r *engine.Request) (*engine.Completion, error) {
	b := body{"model": s.id, "input": inputs(r.Inputs), "encoding_format": "float"}
	put(b, "dimensions", r.Dimensions, 0)
	if l.loras != nil {
		b["lora"] = l.scales(s)
	}
	var w wireVectors
	if err := e.question(ctx, "/v1/embeddings", b, &w); err != nil {
		return nil, err
	}
	c := &engine.Completion{Embeddings: make([]engine.Vector, len(r.Inputs)), Usage: engine.Usage{PromptTokens: w.Usage.PromptTokens}}
	for _, d := range w.Data {
		if d.Index < 0 || d.Index >= len(c.Embeddings) {
			return nil, engine.Errorf(engine.Internal, "", "", "engine/remote: the server gave vector %d of %d", d.Index, len(c.Embeddings))
		}
		v, ok := unit(d.Embedding.Vector)
		if !ok {
			return nil, engine.Errorf(engine.Internal, "", "", "engine/remote: the server's vector %d holds no numbers", d.Index)
		}
		c.Embeddings[d.Index] = v
	}
	return c, whole(c.Embeddings)
}

// whole makes sure that each input has its vector, and that a message holds them.
func whole(vs []engine.Vector) error {
	for i, v := range vs {
		if len(v) == 0 {
			return engine.Errorf(engine.Internal, "", "", "engine/remote: the server gave no vector for input %d of %d", i, len(vs))
		}
	}
	return engine.CheckVectors(len(vs), len(vs[0]))
}

// unit is a vector as all engines give it: of length 1.
func unit(v engine.Vector) (engine.Vector, bool) {
	sum := make([]float64, len(v))
	for i, x := range v {
		sum[i] = float64(x)
	}
	return engine.Unit(sum)
}

// inputs are texts or tokens; a server takes one kind at a time, so a mixture goes as it is and is the server's to refuse.
func inputs(list []engine.Input) (out []any) {
	for _, in := range list {
		if len(in.Tokens) > 0 {
			out = append(out, in.Tokens)
		} else {
			out = append(out, in.Text)
		}
	}
	return out
}

// tokenize asks vLLM, SGLang or llama-server in its own words; OpenAI's protocol has none.
func (e *Engine) tokenize(ctx context.Context, l *listing, s served, r *engine.Request) (*engine.Completion, error) {
	b := body{"model": s.id, "prompt": r.Prompt, "add_special_tokens": false}
	switch l.dialect {
	case llamaServer:
		b = body{"content": r.Prompt, "add_special": false, "parse_special": true}
	case openAI:
		return nil, noTokenizer()
	}
	var w struct{ Tokens []int32 }
	if err := e.question(ctx, "/tokenize", b, &w); err != nil {
		return nil, err
	}
	return &engine.Completion{Tokens: w.Tokens, Choices: []engine.Choice{{Finish: engine.FinishStop}}}, nil
}

// count asks vLLM or llama-server how many tokens a conversation's prompt has. The latter renders it first.
func (e *Engine) count(ctx context.Context, l *listing, s served, r *engine.Request) (*engine.Completion, error) {
	b := body{"model": s.id, "messages": r.Messages, "add_generation_prompt": true}
	if r.Tools != nil {
		b["tools"] = r.Tools
	}
	switch l.dialect {
	case vLLM:
	case llamaServer:
		var w struct{ Prompt string }
		if err := e.question(ctx, "/apply-template", b, &w); err != nil {
			return nil, err
		}
		b = body{"content": w.Prompt, "add_special": true, "parse_special": true}
	default:
		return nil, noTokenizer()
	}
	var w struct{ Tokens []int32 }
	if err := e.question(ctx, "/tokenize", b, &w); err != nil {
		return nil, err
	}
	return &engine.Completion{Choices: []engine.Choice{{Finish: engine.FinishStop}}, Usage: engine.Usage{PromptTokens: len(w.Tokens)}}, nil
}

func (e *Engine) detokenize(ctx context.Context, l *listing, s served, r *engine.Request) (*engine.Completion, error) {
	if l.dialect == openAI {
		return nil, noTokenizer()
	}
	var w struct{ Content, Prompt, Text string } // llama-server's, vLLM's and SGLang's name of it
	if err := e.question(ctx, "/detokenize", body{"model": s.id, "tokens": r.Tokens}, &w); err != nil {
		return nil, err
	}
	return &engine.Completion{Choices: []engine.Choice{{Text: w.Content + w.Prompt + w.Text, Finish: engine.FinishStop}}}, nil
}

func noTokenizer() error {
	return engine.Errorf(engine.Invalid, engine.CodeUnsupported, "model", "the server of this model tells of no tokens: ask a model that runs here")
}

// question sends a body and reads the whole answer, again as often as that may help.
func (e *Engine) question(ctx context.Context, path string, b body, into any) error {
	if err := e.hold(ctx); err != nil {
		return err
	}
	defer e.release()
	raw, err := encodeBody(b)
	if err != nil {
		return err
	}
	return e.retry(ctx, func() (bool, error) {
		req, resp, err := e.postTo(ctx, path, raw)
		if err != nil {
			return true, err
		}
		defer resp.Body.Close()
		return true, decode(req, resp, into)
	})
}
