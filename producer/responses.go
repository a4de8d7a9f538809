package producer

import (
	"encoding/json"
	"math"
	"slices"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// responseWish is what a request for a response says beside what is to run.
type responseWish struct {
	echo  result.ResponseEcho
	items []inputItem // the request's own; a conversation's earlier ones are put before them
	// told responses are stored already, and are only told (again), from behind an event's number on.
	told  bool
	after int
	// compact asks for a shorter conversation instead of an answer.
	compact bool
	// warm asks for no answer: only that the conversation can be gone on with.
	warm bool
}

// readResponses reads the body of POST /v1/responses. Its messages are made once the conversation is known that it goes
// on with.
func readResponses(body []byte, l limits) (*order, error) {
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	return readResponse(o, l)
}

func readResponse(o *object, l limits) (*order, error) {
	d := &order{endpoint: queue.Responses, request: engine.Request{Kind: engine.Chat, Sampling: defaults()}, response: &responseWish{echo: result.NewResponseEcho(), after: -1}}
	if !o.text("model", &d.model, maxName) && o.err == nil {
		o.missing("model")
	}
	readEcho(o, d)
	readResponseSampling(o, d)
	readStream(o, d)
	d.metadata = readMetadata(o)
	readTier(o, d)
	readLorry(o, d, l)
	readFunctions(o, &d.request)
	readTextFormat(o, &d.request)
	readInclude(o, d)
	d.response.items = readItems(o, l.vault)
	d.response.finish(d)
	// OpenAI's bookkeeping: without effect on the answer.
	o.accept("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")
	readUncommon(o)
	return d, o.done()
}

// readResponseLine reads a batch's line, which stands alone: it goes on with no conversation, and is kept in the output
// file only.
func readResponseLine(body []byte, l limits) (*order, error) {
	d, err := readResponses(body, l)
	if err != nil {
		return nil, err
	}
	for name, given := range map[string]bool{"background": d.response.echo.Background, "previous_response_id": d.response.echo.PreviousResponseID != nil} {
		if given {
			return nil, refuse(codeUnsupported, name, "Unsupported parameter: '%s' is not for a batch's lines.", name)
		}
	}
	d.converse(nil)
	return d, nil
}

// finish fills in what the echo takes from what was read.
func (w *responseWish) finish(d *order) {
	if d.metadata != nil {
		w.echo.Metadata = d.metadata
	}
	if d.lane == queue.Flex {
		w.echo.ServiceTier = "flex"
	}
}

// readEcho keeps what the answer repeats, and leaves in o what is yet to be understood.
func readEcho(o *object, d *order) {
	e := &d.response.echo
	e.Store = true
	o.flag("store", &e.Store)
	if o.flag("background", &e.Background) && e.Background && !e.Store {
		o.fail(refuse(codeCombination, "background", "'background' needs 'store': without it nobody could read the response."))
	}
	readThread(o, e)
	e.ParallelToolCalls = string(compact(o.fields["parallel_tool_calls"])) != "false"
	for name, dst := range map[string]*json.RawMessage{"tools": &e.Tools, "tool_choice": &e.ToolChoice, "text": &e.Text} {
		if o.has(name) {
			*dst = compact(o.fields[name])
		}
	}
	for name, dst := range map[string]**string{"user": &e.User, "safety_identifier": &e.SafetyIdentifier, "prompt_cache_key": &e.PromptCacheKey} {
		var s string
		if o.text(name, &s, maxName) {
			*dst = &s
		}
	}
}

// readThread reads what stands before the input.
func readThread(o *object, e *result.ResponseEcho) {
	var instructions, previous string
	if o.text("instructions", &instructions, math.MaxInt) {
		e.Instructions = &instructions
	}
	if o.text("previous_response_id", &previous, maxName) {
		e.PreviousResponseID = &previous
	}
}

// readInputTokens reads the body of POST /v1/responses/input_tokens: what of a request for a response makes its prompt.
func readInputTokens(body []byte, l limits) (*order, error) {
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	d := &order{endpoint: queue.InputTokens, request: engine.Request{Kind: engine.Count}, response: &responseWish{echo: result.NewResponseEcho()}}
	o.text("model", &d.model, maxName)
	readThread(o, &d.response.echo)
	readFunctions(o, &d.request)
	readTextFormat(o, &d.request)
	d.response.items = readItems(o, l.vault)
	readLorry(o, d, l)
	readUncommon(o)
	o.unsupported("personality")
	return d, o.done()
}

// readUncommon refuses what of the Responses API is not for the models here.
func readUncommon(o *object) {
	for _, n := range []string{"conversation", "prompt", "max_tool_calls", "context_management", "moderation", "background_options", "access_programs", "image"} {
		o.unsupported(n)
	}
	o.unsupported("reasoning", "{}", `{"effort":null}`, `{"effort":null,"summary":null}`)
	o.unsupported("truncation", `"disabled"`)
}

func readResponseSampling(o *object, d *order) {
	s, e := &d.request.Sampling, &d.response.echo
	o.number("temperature", &s.Temperature, 0, 2)
	if o.number("top_p", &s.TopP, 0, 1) && s.TopP == 0 {
		s.TopP = generateTiny // as for chats
	}
	if o.integer("max_output_tokens", &s.MaxTokens, 1, maxTokens) {
		e.MaxOutputTokens = &s.MaxTokens
	}
	e.Temperature, e.TopP = &s.Temperature, &s.TopP
}

// readFunctions reads tools of type function, whose fields stand flat here, as chats' are read.
func readFunctions(o *object, r *engine.Request) {
	vs, ok := o.list("tools", 0, maxTools)
	if ok && len(vs) > 0 {
		nested := make([]json.RawMessage, len(vs))
		for i, v := range vs {
			nested[i] = nestedFunction(o, at("tools", i), v)
		}
		o.put("tools", rejoin(nested))
	}
	if o.has("tool_choice") && kind(o.fields["tool_choice"]) == "object" {
		in := o.object("tool_choice")
		var name string
		function(in, &name)
		o.close(in)
		o.put("tool_choice", must(json.Marshal(map[string]any{"type": "function", "function": map[string]string{"name": name}})))
	}
	if o.err == nil {
		readTools(o, r)
	}
}

// function reads what a tool and the choice of one have in common.
func function(in *object, name *string) {
	var what string
	if in.text("type", &what, maxName) && what != "function" {
		in.fail(refuse(codeUnsupported, in.at+"type", "Unsupported value: '%stype' is '%s', and only 'function' is supported.", in.at, clip(what)))
	}
	if !in.text("name", name, maxName) && in.err == nil {
		in.missing("name")
	}
}

func nestedFunction(o *object, name string, v json.RawMessage) json.RawMessage {
	if kind(v) != "object" {
		o.wrong(name, "an object", v)
		return v
	}
	in := &object{at: name + ".", fields: map[string]json.RawMessage{}}
	in.fill(v)
	f := map[string]json.RawMessage{}
	for _, n := range []string{"description", "parameters", "strict"} {
		if x, ok := in.take(n); ok {
			f[n] = x
		}
	}
	var called string
	function(in, &called)
	f["name"] = must(json.Marshal(called))
	o.close(in)
	return must(json.Marshal(map[string]any{"type": "function", "function": f}))
}

// readTextFormat reads what the text is to look like. A schema's name and switches stand flat here.
func readTextFormat(o *object, r *engine.Request) {
	in := o.object("text")
	if in == nil {
		return
	}
	defer o.close(in)
	in.unsupported("verbosity", `"medium"`)
	f := in.object("format")
	if f == nil {
		return
	}
	defer in.close(f)
	var what string
	f.oneOf("type", &what, "text", "json_object", "json_schema")
	switch what {
	case "json_object":
		r.ResponseFormat = json.RawMessage(`{"type":"json_object"}`)
	case "json_schema":
		schema := map[string]json.RawMessage{}
		for _, n := range []string{"name", "description", "schema", "strict"} {
			if v, ok := f.take(n); ok {
				schema[n] = compact(v)
			}
		}
		if schema["schema"] == nil {
			f.missing("schema")
		}
		r.ResponseFormat = must(json.Marshal(map[string]any{"type": "json_schema", "json_schema": schema}))
	}
}

// readInclude reads the one thing that can be included, and how much of it.
func readInclude(o *object, d *order) {
	const logprobs = "message.output_text.logprobs"
	s := &d.request.Sampling
	if vs, ok := o.list("include", 0, maxTools); ok {
		for _, name := range readStrings(o, "include", vs, maxName) {
			if name != logprobs {
				o.fail(refuse(codeUnsupported, "include", "Unsupported value: 'include' holds '%s', and only '%s' is supported.", clip(name), logprobs))
			}
			s.Logprobs = true
		}
	}
	if o.integer("top_logprobs", &s.TopLogprobs, 0, maxTop) && s.TopLogprobs > 0 {
		s.Logprobs = true
	}
	d.response.echo.TopLogprobs = s.TopLogprobs
}

// converse makes the messages of what came before, and of the request's own items.
func (d *order) converse(before []inputItem) {
	w := d.response
	w.items = append(slices.Clone(before), w.items...)
	if w.compact {
		wishSummary(&d.request, w.echo.Instructions, w.items)
		return
	}
	d.request.Messages = messagesOf(w.echo.Instructions, w.items)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("producer: " + err.Error()) // our own types: a bug
	}
	return v
}
