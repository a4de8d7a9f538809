package producer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"

	"lorry/engine"
)

// keyed is the text of a key: all that decides an answer, one part after the other, each with its length before it, so
// that no two requests have one text.
type keyed struct{ b []byte }

// keyVersion stands first. Changing it, or the order of parts, empties the caches of a running fleet: the golden in the
// tests guards them.
const keyVersion = 1

// CacheKey names the answer to a tenant's request: equal requests have equal keys, over all producers. White space and
// escapes in the client's JSON don't count; the order of keys does, since templates print them in that order. The seed
// counts unless the temperature is 0, where nothing is drawn. The model's name doesn't count, its digests do.
func CacheKey(tenant string, r *engine.Request) string {
	k, m := keyed{make([]byte, 0, 1024)}, r.Model
	k.number(keyVersion)
	k.text(tenant, m.Base, m.Adapter, m.Template, m.Settings, string(r.Kind), r.Prompt, r.Suffix, r.Grammar, r.ReasoningEffort)
	k.json(r.Messages, r.Tools, r.ToolChoice, r.ResponseFormat)
	k.tokens(r.Tokens)
	k.inputs(r.Inputs)
	k.number(int64(r.Dimensions))
	k.flags(r.Deterministic, r.Echo, r.OneToolCall)
	k.sampling(r.Sampling)
	sum := sha256.Sum256(k.b)
	return hex.EncodeToString(sum[:])
}

// sampling adds every field (a test changes each). What says the same has the same text.
func (k *keyed) sampling(s engine.Sampling) {
	if s.Temperature == 0 {
		s.Seed = 0
	}
	if s.RepeatPenalty == 1 {
		s.RepeatPenalty = 0 // both are off
	}
	for _, f := range []float64{s.Temperature, s.TopP, s.MinP, s.FrequencyPenalty, s.PresencePenalty, s.RepeatPenalty} {
		k.float(f)
	}
	for _, n := range []int{s.TopK, s.MaxTokens, s.MinTokens, s.N, s.BestOf, s.TopLogprobs} {
		k.number(int64(n))
	}
	k.number(int64(s.Seed))
	k.flags(s.IgnoreEOS, s.Logprobs)
	k.number(int64(len(s.Stop)))
	k.text(s.Stop...)
	k.bias(s.LogitBias)
}

func (k *keyed) number(n int64)  { k.b = binary.AppendVarint(k.b, n) }
func (k *keyed) float(f float64) { k.b = binary.BigEndian.AppendUint64(k.b, math.Float64bits(f+0)) } // -0 + 0 is 0

func (k *keyed) text(ss ...string) {
	for _, s := range ss {
		k.number(int64(len(s)))
		k.b = append(k.b, s...)
	}
}

func (k *keyed) json(vs ...json.RawMessage) {
	for _, v := range vs {
		c := canonical(v)
		k.number(int64(len(c)))
		k.b = append(k.b, c...)
	}
}

func (k *keyed) flags(bs ...bool) {
	for _, b := range bs {
		k.b = strconv.AppendBool(k.b, b)
	}
}

func (k *keyed) tokens(ts []int32) {
	k.number(int64(len(ts)))
	for _, t := range ts {
		k.number(int64(t))
	}
}

func (k *keyed) inputs(ins []engine.Input) {
	k.number(int64(len(ins)))
	for _, in := range ins {
		k.text(in.Text)
		k.tokens(in.Tokens)
	}
}

func (k *keyed) bias(m map[int32]float64) {
	k.number(int64(len(m)))
	for _, t := range slices.Sorted(maps.Keys(m)) {
		k.number(int64(t))
		k.float(m[t])
	}
}

// canonical rewrites JSON so that one value has one text, but for the order of keys, which is kept, and numbers, whose
// text templates may print. What is not JSON (there is none past the parser) stays as it is.
func canonical(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	if plainText(raw) {
		return compact(raw)
	}
	c := canon{d: json.NewDecoder(bytes.NewReader(raw))}
	c.d.UseNumber()
	if c.value() != nil {
		return raw
	}
	return c.out.Bytes()
}

// plainText says whether each string in the JSON can be written in one way only, but for escapes that it does not use:
// then the value's text is its own without the white space. encoding/json escapes two line separators of Unicode.
func plainText(raw []byte) bool {
	return bytes.IndexByte(raw, '\\') < 0 && !bytes.Contains(raw, []byte("\u2028")) && !bytes.Contains(raw, []byte("\u2029"))
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
	e := json.NewEncoder(&c.out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("producer: " + err.Error()) // nil, a boolean or a string: a bug
	}
	c.out.Truncate(c.out.Len() - 1) // the encoder's newline
}
