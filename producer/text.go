package producer

import (
	"encoding/json"
	"math"
	"strconv"

	"lorry/engine"
	"lorry/queue"
)

// readCompletions reads the body of POST /v1/completions.
func readCompletions(body []byte, l limits) (*order, error) {
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	d := &order{endpoint: queue.Completions, request: engine.Request{Kind: engine.Text}}
	readCommon(o, d, l)
	s := &d.request.Sampling
	if s.MaxTokens == 0 {
		s.MaxTokens = defaultTokens
	}
	if o.integer("logprobs", &s.TopLogprobs, 0, maxTextTop) {
		s.Logprobs = true
	}
	o.flag("echo", &d.request.Echo)
	o.text("suffix", &d.request.Suffix, math.MaxInt)
	readBestOf(o, d, l)
	readPrompt(o, &d.request)
	return d, o.done()
}

// readBestOf reads of how many answers the best n are wanted.
func readBestOf(o *object, d *order, l limits) {
	s, best := &d.request.Sampling, 0
	if !o.integer("best_of", &best, s.N, l.maxN) || best == s.N {
		return
	}
	if s.BestOf = best; d.stream {
		o.fail(refuse(codeCombination, "best_of", "'best_of' greater than 'n' needs all answers before it shows one: it can't be streamed."))
	}
}

// readPrompt reads a string, a list of one, or token IDs. Several prompts in one request are several requests, which
// Lorry wants as such: each is a job of its own.
func readPrompt(o *object, r *engine.Request) {
	v, ok := o.take("prompt")
	if !ok {
		o.missing("prompt")
		return
	}
	if kind(v) == "string" {
		o.err = first(o.err, unquote(v, &r.Prompt))
		return
	}
	var vs []json.RawMessage
	if kind(v) != "array" || json.Unmarshal(v, &vs) != nil || len(vs) == 0 {
		o.wrong("prompt", "a string, an array with one string, or an array of token IDs", v)
		return
	}
	switch k := kind(vs[0]); {
	case k == "integer":
		r.Tokens = readTokens(o, "prompt", v)
	case len(vs) > 1:
		o.fail(refuse(codeUnsupported, "prompt", "Unsupported value: 'prompt' holds %d prompts. Send one request for each: they are batched by the workers.", len(vs)))
	case k == "string":
		o.err = first(o.err, unquote(vs[0], &r.Prompt))
	case k == "array":
		r.Tokens = readTokens(o, "prompt", vs[0])
	default:
		o.wrong("prompt", "a string, an array with one string, or an array of token IDs", vs[0])
	}
}

func readTokens(o *object, name string, v json.RawMessage) []int32 {
	var ids []int32
	if json.Unmarshal(v, &ids) != nil || len(ids) == 0 {
		o.fail(refuse(codeType, name, "Invalid '%s': expected an array of token IDs (integers from 0 to %d).", name, math.MaxInt32))
		return nil
	}
	for _, id := range ids {
		if id < 0 {
			o.fail(refuse(codeValue, name, "Invalid '%s': a token's ID can't be negative, but got %d.", name, id))
		}
	}
	return ids
}

func unquote(v json.RawMessage, dst *string) *apiError {
	if readString(v, dst) != nil {
		return refuse(codeJSON, "", "We could not parse the JSON body of your request.")
	}
	return nil
}

func first(errs ...*apiError) *apiError {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// at is an element's name, as "messages[3]".
func at(name string, i int) string { return name + "[" + strconv.Itoa(i) + "]" }
