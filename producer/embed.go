package producer

import (
	"encoding/json"
	"math"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// maxInputs of one request are OpenAI's.
const maxInputs = 2048

// readEmbeddings reads the body of POST /v1/embeddings.
func readEmbeddings(body []byte, l limits) (*order, error) {
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	d := &order{endpoint: queue.Embeddings, request: engine.Request{Kind: engine.Embed}}
	readModel(o, d)
	readInput(o, &d.request)
	encoding := "float"
	o.oneOf("encoding_format", &encoding, "float", result.Base64)
	if encoding == result.Base64 {
		d.encoding = result.Base64
	}
	o.integer("dimensions", &d.request.Dimensions, 1, 1<<16)
	d.metadata = readMetadata(o)
	readLorry(o, d, l)
	o.accept(bookkeeping...)
	return d, o.done()
}

// readInput reads a text, tokens, or an array of either.
func readInput(o *object, r *engine.Request) {
	v, ok := o.take("input")
	if !ok {
		o.missing("input")
		return
	}
	if kind(v) == "string" {
		r.Inputs = []engine.Input{readOneInput(o, "input", v)}
		return
	}
	var vs []json.RawMessage
	if kind(v) != "array" || json.Unmarshal(v, &vs) != nil {
		o.wrong("input", "a string, an array of strings, an array of token IDs, or an array of these", v)
		return
	}
	if len(vs) > 0 && kind(vs[0]) == "integer" {
		r.Inputs = []engine.Input{readOneInput(o, "input", v)}
		return
	}
	if !o.length("input", len(vs), 1, maxInputs) {
		return
	}
	for i, v := range vs {
		r.Inputs = append(r.Inputs, readOneInput(o, at("input", i), v))
	}
}

func readOneInput(o *object, name string, v json.RawMessage) (in engine.Input) {
	switch kind(v) {
	case "string":
		if o.fail(unquote(v, &in.Text)); in.Text == "" {
			o.fail(refuse(codeValue, name, "Invalid '%s': input cannot be an empty string.", name))
		}
	case "array":
		in.Tokens = readTokens(o, name, v)
	default:
		o.wrong(name, "a string or an array of token IDs", v)
	}
	return in
}

// readTokenize reads the body of POST /lorry/v1/tokenize: {"model", "content"}.
func readTokenize(body []byte, l limits) (*order, error) {
	return readSpelling(body, queue.Tokenize, engine.Tokenize, func(o *object, r *engine.Request) {
		if !o.text("content", &r.Prompt, math.MaxInt) && o.err == nil {
			o.missing("content")
		}
	})
}

// readDetokenize reads the body of POST /lorry/v1/detokenize: {"model", "tokens"}.
func readDetokenize(body []byte, l limits) (*order, error) {
	return readSpelling(body, queue.Detokenize, engine.Detokenize, func(o *object, r *engine.Request) {
		v, ok := o.take("tokens")
		if !ok {
			o.missing("tokens")
			return
		}
		if string(compact(v)) != "[]" { // no tokens are no text
			r.Tokens = readTokens(o, "tokens", v)
		}
	})
}

func readSpelling(body []byte, e queue.Endpoint, k engine.Kind, rest func(*object, *engine.Request)) (*order, error) {
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	d := &order{endpoint: e, request: engine.Request{Kind: k}}
	readModel(o, d)
	rest(o, &d.request)
	return d, o.done()
}
