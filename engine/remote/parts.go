package remote

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"

	"lorry/engine"
)

// wireToolCall is a call, or a piece of one: pieces of one index are joined.
type wireToolCall struct {
	Index    *int   `json:"index,omitempty"`
	ID       string `json:"id,omitempty"`
	Type     string `json:"type,omitempty"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

// joinCalls adds calls or pieces of them. A call's own index is its place in the array, and is left out there.
func joinCalls(calls, more []wireToolCall) []wireToolCall {
	for _, m := range more {
		at := len(calls)
		if m.Index != nil && *m.Index >= 0 && *m.Index < len(calls) {
			at = *m.Index
		}
		m.Index = nil
		if at == len(calls) {
			if m.Type == "" {
				m.Type = "function"
			}
			calls = append(calls, m)
			continue
		}
		c := &calls[at]
		if c.ID == "" {
			c.ID = m.ID
		}
		c.Function.Name += m.Function.Name
		c.Function.Arguments += m.Function.Arguments
	}
	return calls
}

// wireLogprobs are in the shape of chats (which llama-server uses for texts too) or that of texts, or null.
type wireLogprobs struct {
	Content []wireLogprob `json:"content"`

	Tokens        []string             `json:"tokens"`
	TokenLogprobs []*float64           `json:"token_logprobs"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
}

type wireLogprob struct {
	Token   string        `json:"token"`
	Logprob float64       `json:"logprob"`
	Bytes   []int         `json:"bytes"`
	Top     []wireLogprob `json:"top_logprobs"`
}

// UnmarshalJSON takes what has one of the shapes, and nothing from anything else (an array, in old servers).
func (w *wireLogprobs) UnmarshalJSON(raw []byte) error {
	if !bytes.HasPrefix(raw, []byte("{")) {
		return nil
	}
	type plain wireLogprobs
	return json.Unmarshal(raw, (*plain)(w))
}

// tokens is each token with at most so many of the likeliest others.
func (w *wireLogprobs) tokens(top int) []engine.Logprob {
	var out []engine.Logprob
	for _, c := range w.Content {
		l := c.logprob()
		for _, t := range c.Top[:min(top, len(c.Top))] {
			l.Top = append(l.Top, t.logprob())
		}
		out = append(out, l)
	}
	for i, token := range w.Tokens {
		out = append(out, w.parallel(i, token, top))
	}
	return out
}

func (w *wireLogprob) logprob() engine.Logprob {
	l := engine.Logprob{Token: w.Token, Logprob: w.Logprob}
	for _, b := range w.Bytes {
		l.Bytes = append(l.Bytes, byte(b))
	}
	return l
}

// parallel is token i of the arrays. Its likeliest others come as a map: ordered here, likeliest first.
func (w *wireLogprobs) parallel(i int, token string, top int) engine.Logprob {
	l := engine.Logprob{Token: token}
	if i < len(w.TokenLogprobs) && w.TokenLogprobs[i] != nil {
		l.Logprob = *w.TokenLogprobs[i]
	}
	if i >= len(w.TopLogprobs) {
		return l
	}
	others := w.TopLogprobs[i]
	names := slices.SortedFunc(maps.Keys(others), func(a, b string) int {
		return cmp.Or(cmp.Compare(others[b], others[a]), cmp.Compare(a, b))
	})
	for _, name := range names[:min(top, len(names))] {
		l.Top = append(l.Top, engine.Logprob{Token: name, Logprob: others[name]})
	}
	return l
}
