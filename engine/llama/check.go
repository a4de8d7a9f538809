package llama

import (
	"encoding/json"
	"slices"
	"strings"

	"lorry/engine"
)

// Bounds of OpenAI's API, and of good sense.
const (
	maxStops = 4
	maxTop   = 20
	maxN     = 128
)

// check refuses what this engine can't or will not do, each by its name: nothing that was asked for is left out.
func check(r *engine.Request, v *vocab) error {
	if err := r.Check(); err != nil {
		return err
	}
	if err := checkFeatures(r); err != nil {
		return err
	}
	for id := range r.Sampling.LogitBias {
		if !v.has(id) {
			return invalid("logit_bias", "logit_bias names the token %d, but there are %d", id, v.size)
		}
	}
	return checkTokens(r, v)
}

func checkTokens(r *engine.Request, v *vocab) error {
	name := "prompt"
	if r.Kind == engine.Detokenize {
		name = "tokens"
	}
	for _, id := range r.Tokens {
		if !v.has(id) {
			return invalid(name, "%s holds the token %d, but there are %d", name, id, v.size)
		}
	}
	if !r.Samples() {
		return nil
	}
	return checkSampling(r.Sampling)
}

func invalid(param, format string, args ...any) error {
	return engine.Errorf(engine.Invalid, engine.CodeInvalidValue, param, format, args...)
}

func unsupported(param, what string) error {
	return engine.Errorf(engine.Invalid, engine.CodeUnsupported, param, "this engine does not support %s", what)
}

func checkFeatures(r *engine.Request) error {
	switch {
	case r.Echo && r.Sampling.Logprobs:
		return unsupported("echo", "echo together with logprobs")
	case r.Suffix != "" && r.Echo:
		return unsupported("suffix", "suffix together with echo")
	case r.Suffix != "" && r.Kind != engine.Text:
		return unsupported("suffix", "a suffix to a conversation")
	case r.ReasoningEffort != "" && r.Kind != engine.Chat:
		return unsupported("reasoning_effort", "reasoning_effort outside of a conversation")
	case r.Echo && r.Kind != engine.Text:
		return unsupported("echo", "echo of a conversation")
	}
	return nil
}

// blank says that a field holds nothing.
func blank(raw json.RawMessage) bool {
	s := strings.Join(strings.Fields(string(raw)), "")
	return s == "" || s == "null" || s == "[]"
}

// word is a JSON string, or the string under a key of an object; "?" for anything else that is not nothing.
func word(raw json.RawMessage, key string) (s string) {
	if blank(raw) || json.Unmarshal(raw, &s) == nil && key == "" {
		return s
	}
	var fields map[string]json.RawMessage
	if key != "" && json.Unmarshal(raw, &fields) == nil && json.Unmarshal(fields[key], &s) == nil {
		return s
	}
	return "?"
}

func checkSampling(s engine.Sampling) error {
	for _, f := range []struct {
		name       string
		got        float64
		from, upto float64
	}{
		{"temperature", s.Temperature, 0, 2}, {"top_p", s.TopP, 0, 1}, {"min_p", s.MinP, 0, 1},
		{"frequency_penalty", s.FrequencyPenalty, -2, 2}, {"presence_penalty", s.PresencePenalty, -2, 2},
		{"repeat_penalty", s.RepeatPenalty, 0, 100}, {"n", float64(s.N), 1, maxN}, {"top_k", float64(s.TopK), 0, 1 << 31},
		{"max_tokens", float64(s.MaxTokens), 0, 1 << 31}, {"min_tokens", float64(s.MinTokens), 0, 1 << 31},
		{"top_logprobs", float64(s.TopLogprobs), 0, maxTop}, {"stop", float64(len(s.Stop)), 0, maxStops},
	} {
		if !(f.got >= f.from && f.got <= f.upto) {
			return invalid(f.name, "%s is %v: it must be between %v and %v", f.name, f.got, f.from, f.upto)
		}
	}
	if slices.Contains(s.Stop, "") {
		return invalid("stop", "a stop string is empty")
	}
	return nil
}
