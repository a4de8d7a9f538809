package producer

import (
	"math"

	"lorry/engine"
	"lorry/queue"
)

// generateTokens is TGI's default for max_new_tokens.
const generateTokens = 100

// readGenerate reads the body of POST /generate: {"text": …}, or TGI's {"inputs": …, "parameters": {…}}. Both continue
// the text as it stands, greedily unless told otherwise.
func readGenerate(body []byte, l limits) (*order, error) {
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	d := &order{endpoint: queue.Generate, request: engine.Request{Kind: engine.Text}}
	d.request.Sampling = engine.Sampling{TopP: 1, N: 1, MaxTokens: generateTokens}
	readInputs(o, &d.request)
	if p := o.object("parameters"); p != nil {
		readParameters(p, d)
		o.close(p)
	}
	o.text("model", &d.model, maxName)
	d.metadata = readMetadata(o)
	readLorry(o, d, l)
	return d, o.done()
}

func readInputs(o *object, r *engine.Request) {
	text, inputs := o.has("text"), o.has("inputs")
	switch {
	case text && inputs:
		o.fail(refuse(codeCombination, "text", "'text' and 'inputs' are two names of one parameter: give one."))
	case !text && !inputs:
		o.missing("text")
	}
	o.text("text", &r.Prompt, math.MaxInt)
	o.text("inputs", &r.Prompt, math.MaxInt)
}

// readParameters reads TGI's. As there, naming any knob of sampling turns it on, whatever do_sample says.
func readParameters(o *object, d *order) {
	s := &d.request.Sampling
	sample := false
	o.flag("do_sample", &sample)
	if hot := 1.0; o.number("temperature", &hot, 0, 2) && hot != 1 || sample {
		s.Temperature, sample = hot, hot > 0
	}
	sample = readCut(o, s) || sample
	if sample && s.Temperature == 0 {
		s.Temperature = 1
	}
	readRepeat(o, s)
	o.number("frequency_penalty", &s.FrequencyPenalty, -2, 2)
	o.integer("max_new_tokens", &s.MaxTokens, 1, maxTokens)
	o.flag("return_full_text", &d.request.Echo)
	d.seeded = readSeed(o, "seed", s)
	readStop(o, "stop", s)
	readRefused(o)
}

// readCut reads top_k and top_p and says whether any was there.
func readCut(o *object, s *engine.Sampling) bool {
	k := o.integer("top_k", &s.TopK, 0, math.MaxInt32)
	p := o.number("top_p", &s.TopP, generateTiny, 1)
	return k && s.TopK > 0 || p && s.TopP < 1
}

// readRefused reads the rest of TGI's parameters: what does nothing may pass, what would do something is refused.
func readRefused(o *object) {
	o.accept("details") // they are always there
	o.unsupported("best_of", "1")
	o.unsupported("typical_p", "1", "1.0")
	o.unsupported("truncate")
	o.unsupported("watermark", "false")
	o.unsupported("decoder_input_details", "false")
	o.unsupported("top_n_tokens", "0")
	o.unsupported("grammar")
	o.unsupported("adapter_id")
}
