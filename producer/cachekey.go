package producer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"lorry/engine"
)

// keyed is all that decides an answer, keys sorted. Its bytes are the cache's names in a running fleet: the golden in
// the tests guards them.
type keyed struct {
	Adapter       string          `json:"adapter"`
	Base          string          `json:"base"`
	Deterministic bool            `json:"deterministic,omitempty"`
	Dimensions    int             `json:"dimensions,omitempty"`
	Echo          bool            `json:"echo"`
	Format        json.RawMessage `json:"format"`
	Grammar       string          `json:"grammar,omitempty"`
	Inputs        []engine.Input  `json:"inputs,omitempty"`
	Kind          engine.Kind     `json:"kind"`
	Messages      json.RawMessage `json:"messages"`
	OneCall       bool            `json:"one_call,omitempty"`
	Prompt        string          `json:"prompt"`
	Reasoning     string          `json:"reasoning,omitempty"`
	Sampling      keyedSampling   `json:"sampling"`
	Settings      string          `json:"settings"`
	Suffix        string          `json:"suffix,omitempty"`
	Template      string          `json:"template"`
	Tenant        string          `json:"tenant"`
	Tokens        []int32         `json:"tokens"`
	ToolChoice    json.RawMessage `json:"tool_choice"`
	Tools         json.RawMessage `json:"tools"`
}

// keyedSampling has every field of engine.Sampling (a test compares them).
type keyedSampling struct {
	BestOf           int               `json:"best_of,omitempty"`
	FrequencyPenalty float64           `json:"frequency_penalty"`
	IgnoreEOS        bool              `json:"ignore_eos"`
	LogitBias        map[int32]float64 `json:"logit_bias"`
	Logprobs         bool              `json:"logprobs"`
	MaxTokens        int               `json:"max_tokens"`
	MinP             float64           `json:"min_p"`
	MinTokens        int               `json:"min_tokens"`
	N                int               `json:"n"`
	PresencePenalty  float64           `json:"presence_penalty"`
	RepeatPenalty    float64           `json:"repeat_penalty"`
	Seed             uint64            `json:"seed"`
	Stop             []string          `json:"stop"`
	Temperature      float64           `json:"temperature"`
	TopK             int               `json:"top_k"`
	TopLogprobs      int               `json:"top_logprobs"`
	TopP             float64           `json:"top_p"`
}

// CacheKey names the answer to a tenant's request: equal requests have equal keys, over all producers. White space and
// escapes in the client's JSON don't count; the order of keys does, since templates print them in that order. The seed
// counts unless the temperature is 0, where nothing is drawn. The model's name doesn't count, its digests do.
func CacheKey(tenant string, r *engine.Request) string {
	m := r.Model
	k := keyed{Tenant: tenant, Base: m.Base, Deterministic: r.Deterministic, Adapter: m.Adapter, Template: m.Template, Settings: m.Settings, Kind: r.Kind, Echo: r.Echo,
		Messages: canonical(r.Messages), Prompt: r.Prompt, Tokens: r.Tokens, Tools: canonical(r.Tools), ToolChoice: canonical(r.ToolChoice),
		Format: canonical(r.ResponseFormat), Grammar: r.Grammar, Inputs: r.Inputs, Dimensions: r.Dimensions, Suffix: r.Suffix,
		OneCall: r.OneToolCall, Reasoning: r.ReasoningEffort, Sampling: sorted(r.Sampling)}
	b, err := json.Marshal(k)
	if err != nil {
		panic("producer: " + err.Error()) // checked JSON and our own types: a bug
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// sorted is the sampling in the key's order.
func sorted(s engine.Sampling) keyedSampling {
	k := keyedSampling{BestOf: s.BestOf, FrequencyPenalty: s.FrequencyPenalty, IgnoreEOS: s.IgnoreEOS, LogitBias: s.LogitBias, Logprobs: s.Logprobs,
		MaxTokens: s.MaxTokens, MinP: s.MinP, MinTokens: s.MinTokens, N: s.N, PresencePenalty: s.PresencePenalty, RepeatPenalty: s.RepeatPenalty,
		Seed: s.Seed, Stop: s.Stop, Temperature: s.Temperature, TopK: s.TopK, TopLogprobs: s.TopLogprobs, TopP: s.TopP}
	if s.Temperature == 0 {
		k.Seed = 0
	}
	if s.RepeatPenalty == 1 {
		k.RepeatPenalty = 0 // both are off
	}
	if len(k.Stop) == 0 {
		k.Stop = nil
	}
	return k
}

// canonical rewrites JSON so that one value has one text, but for the order of keys, which is kept, and numbers, whose
// text templates may print. What is not JSON (there is none past the parser) stays as it is.
func canonical(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	c := canon{d: json.NewDecoder(bytes.NewReader(raw))}
	c.d.UseNumber()
	if c.value() != nil {
		return raw
	}
	return c.out.Bytes()
}

// canon copies a value from a decoder, token by token.
type canon struct {
	d   *json.Decoder
	out bytes.Buffer
}

func (c *canon) value() error {
	t, err := c.d.Token()
	if err != nil {
		return err
	}
	switch t := t.(type) {
	case json.Delim:
		return c.all(t)
	case json.Number:
		c.out.WriteString(t.String())
	default:
		c.scalar(t)
	}
	return nil
}

// all copies what stands between two brackets. A decoder answers the keys of an object as strings of their own.
func (c *canon) all(open json.Delim) error {
	c.out.WriteString(open.String())
	for i := 0; c.d.More(); i++ {
		if i > 0 {
			c.out.WriteByte(',')
		}
		if open == '{' {
			k, err := c.d.Token()
			if err != nil {
				return err
			}
			c.scalar(k)
			c.out.WriteByte(':')
		}
		if err := c.value(); err != nil {
			return err
		}
	}
	end, err := c.d.Token()
	if err == nil {
		c.out.WriteString(end.(json.Delim).String())
	}
	return err
}

func (c *canon) scalar(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("producer: " + err.Error()) // nil, a boolean or a string: a bug
	}
	c.out.Write(b)
}
