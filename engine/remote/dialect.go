package remote

import (
	"math"

	"lorry/engine"
)

// dialect is whose words a server uses, told by the owned_by of its models.
type dialect string

const (
	openAI      dialect = ""
	llamaServer dialect = "llamacpp"
	vLLM        dialect = "vllm"
	sgLang      dialect = "sglang"
)

func dialectOf(ownedBy string) dialect {
	switch d := dialect(ownedBy); d {
	case llamaServer, vLLM, sgLang:
		return d
	}
	return openAI
}

func (d dialect) name() string {
	switch d {
	case llamaServer:
		return "llama-server"
	case vLLM:
		return "vLLM"
	case sgLang:
		return "SGLang"
	}
	return "OpenAI-compatible server"
}

// body is a request in OpenAI's words. What the request leaves open is left out, for hosted servers refuse names that
// they don't know; but a server of a known dialect, whose own defaults would change the answer, is told everything.
type body map[string]any

func (e *Engine) body(l *listing, s served, r *engine.Request, stream bool) (body, error) {
	b := body{"model": s.id}
	b.prompt(r)
	b.sampling(&r.Sampling)
	if err := b.dialect(l.dialect, r, s.info.Context); err != nil {
		return nil, err
	}
	if stream {
		b["stream"], b["stream_options"] = true, map[string]bool{"include_usage": true}
	}
	if l.loras != nil {
		b["lora"] = l.scales(s)
	}
	if !e.cfg.SharePrompts {
		b.scope(l.dialect, r.Scope)
	}
	return b, nil
}

func (b body) prompt(r *engine.Request) {
	if r.Kind == engine.Chat {
		b["messages"] = r.Messages
		b.raw("tools", r.Tools)
		b.raw("tool_choice", r.ToolChoice)
		b.raw("response_format", r.ResponseFormat)
		put(b, "reasoning_effort", r.ReasoningEffort, "")
		if r.OneToolCall {
			b["parallel_tool_calls"] = false
		}
		return
	}
	put(b, "suffix", r.Suffix, "")
	b["prompt"] = r.Prompt
	if len(r.Tokens) > 0 {
		b["prompt"] = r.Tokens
	}
	if serverEchoes(r) {
		b["echo"] = true
	}
}

// serverEchoes says that the prompt's text is the server's to say: it alone can spell tokens. A text is put before the
// answer here, since not every server can.
func serverEchoes(r *engine.Request) bool { return r.Echo && len(r.Tokens) > 0 }

func (b body) raw(name string, raw []byte) {
	if len(raw) > 0 {
		b[name] = rawJSON(raw)
	}
}

func (b body) sampling(s *engine.Sampling) {
	b["temperature"], b["seed"] = s.Temperature, foldSeed(s.Seed)
	put(b, "n", s.N, 1)
	put(b, "top_p", s.TopP, 1)
	put(b, "top_k", s.TopK, 0)
	put(b, "min_p", s.MinP, 0)
	put(b, "frequency_penalty", s.FrequencyPenalty, 0)
	put(b, "presence_penalty", s.PresencePenalty, 0)
	put(b, "max_tokens", s.MaxTokens, 0)
	put(b, "min_tokens", s.MinTokens, 0)
	put(b, "ignore_eos", s.IgnoreEOS, false)
	if len(s.Stop) > 0 {
		b["stop"] = s.Stop
	}
	if len(s.LogitBias) > 0 {
		b["logit_bias"] = s.LogitBias
	}
}

// put sets what is neither absent nor the default.
func put[T comparable](b body, name string, v, usual T) {
	var zero T
	if v != usual && v != zero {
		b[name] = v
	}
}

// foldSeed makes 31 bits of a seed, which every server takes: the same ones each time.
func foldSeed(seed uint64) uint64 { return (seed ^ seed>>32) & math.MaxInt32 }

func (b body) dialect(d dialect, r *engine.Request, context int) error {
	s := &r.Sampling
	penalty := "repetition_penalty"
	if d == llamaServer {
		penalty = "repeat_penalty"
	}
	put(b, penalty, s.RepeatPenalty, 1)
	if r.Grammar != "" && d != llamaServer {
		return engine.Errorf(engine.Invalid, engine.CodeUnsupported, "grammar", "this %s takes no grammar in GBNF: ask for a JSON schema", d.name())
	}
	put(b, "grammar", r.Grammar, "")
	b.logprobs(r, d)
	switch d {
	case llamaServer:
		if s.MinTokens > 0 {
			return engine.Errorf(engine.Invalid, engine.CodeUnsupported, "min_tokens", "llama-server knows no min_tokens")
		}
		delete(b, "n") // one request for each answer: see fan
		b.everything(s, penalty, context)
	case vLLM, sgLang:
		if r.Kind == engine.Text && s.MaxTokens == 0 {
			b["max_tokens"] = nil // left out, it would be 16
		}
	}
	return nil
}

// everything names what llama-server would else choose by itself: it cuts to 40 likely tokens, for one, and looks for
// repetitions in the last 64.
func (b body) everything(s *engine.Sampling, penalty string, context int) {
	b["top_k"], b["min_p"], b["top_p"], b[penalty] = s.TopK, s.MinP, orOne(s.TopP), orOne(s.RepeatPenalty)
	if orOne(s.RepeatPenalty) != 1 {
		put(b, "repeat_last_n", context, 0)
	}
}

func orOne(v float64) float64 {
	if v == 0 {
		return 1
	}
	return v
}

// logprobs is a flag and a number for chats, a number alone for texts. With a 0, llama-server gives none at all, and
// some servers none for texts; what is too much is left out of the answer.
func (b body) logprobs(r *engine.Request, d dialect) {
	top := r.Sampling.TopLogprobs
	switch {
	case !r.Sampling.Logprobs:
	case r.Kind == engine.Text:
		b["logprobs"] = max(1, top)
	case d == llamaServer:
		b["logprobs"], b["top_logprobs"] = true, max(1, top)
	default:
		b["logprobs"], b["top_logprobs"] = true, top
	}
}

// scope keeps one tenant's prompts out of another's time to the first token.
func (b body) scope(d dialect, scope string) {
	switch {
	case d == llamaServer:
		b["cache_prompt"] = false
	case d == vLLM && scope != "":
		b["cache_salt"] = sum("lorry:scope:" + scope)
	}
}
