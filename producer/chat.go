package producer

import (
	"encoding/json"
	"slices"

	"lorry/engine"
	"lorry/queue"
)

// readChat reads the body of POST /v1/chat/completions.
func readChat(body []byte, l limits) (*order, error) {
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	d := &order{endpoint: queue.Chat, request: engine.Request{Kind: engine.Chat}}
	o.flag("store", &d.store)
	d.user = o.fields["user"]
	readCommon(o, d, l)
	readCompletionTokens(o, &d.request.Sampling)
	readChatLogprobs(o, &d.request.Sampling)
	readTools(o, &d.request)
	readFormat(o, &d.request)
	readMessages(o, &d.request)
	o.oneOf("reasoning_effort", &d.request.ReasoningEffort, efforts...)
	for _, n := range []string{"functions", "function_call", "audio", "prediction", "moderation", "web_search_options"} {
		o.unsupported(n)
	}
	o.unsupported("modalities", `["text"]`)
	o.unsupported("verbosity", `"medium"`)
	o.accept("prompt_cache_options") // prompts that begin alike share their beginning whatever it says
	return d, o.done()
}

// efforts are OpenAI's words for how much a model is to think.
var efforts = []string{"none", "minimal", "low", "medium", "high", "xhigh", "max"}

// readCompletionTokens reads max_tokens' newer name.
func readCompletionTokens(o *object, s *engine.Sampling) {
	n := 0
	if !o.integer("max_completion_tokens", &n, 1, maxTokens) {
		return
	}
	if s.MaxTokens != 0 && s.MaxTokens != n {
		o.fail(refuse(codeCombination, "max_tokens", "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."))
	}
	s.MaxTokens = n
}

func readChatLogprobs(o *object, s *engine.Sampling) {
	o.flag("logprobs", &s.Logprobs)
	if o.integer("top_logprobs", &s.TopLogprobs, 0, maxTop) && !s.Logprobs {
		o.fail(refuse(codeValue, "top_logprobs", "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."))
	}
}

// readTools passes tools on; what an engine makes of them it says itself.
func readTools(o *object, r *engine.Request) {
	if vs, ok := o.list("tools", 1, maxTools); ok {
		for _, v := range vs {
			if kind(v) != "object" {
				o.wrong("tools", "an array of objects", v)
			}
		}
		r.Tools = rejoin(vs)
	}
	if v, ok := o.take("tool_choice"); ok {
		if k := kind(v); k != "string" && k != "object" {
			o.wrong("tool_choice", "a string or an object", v)
		}
		r.ToolChoice = compact(v)
	}
	parallel := true
	if o.flag("parallel_tool_calls", &parallel); r.Tools != nil {
		r.OneToolCall = !parallel
	}
}

func readFormat(o *object, r *engine.Request) {
	v, ok := o.take("response_format")
	if !ok {
		return
	}
	if kind(v) != "object" {
		o.wrong("response_format", "an object", v)
		return
	}
	var f map[string]json.RawMessage
	_ = json.Unmarshal(v, &f)
	var name string
	if json.Unmarshal(f["type"], &name) != nil || !slices.Contains([]string{"text", "json_object", "json_schema"}, name) {
		o.fail(refuse(codeValue, "response_format.type", "Invalid value for 'response_format.type'. Supported values are: 'text', 'json_object', 'json_schema'."))
	}
	if name != "text" && r.Grammar != "" {
		o.fail(refuse(codeCombination, "grammar", "'grammar' and 'response_format' both say what the answer looks like: give one."))
	}
	if name != "text" { // text is the default: the same request with or without it
		r.ResponseFormat = compact(v)
	}
}

// readMessages checks the messages' shape and keeps their text, since templates print keys in the client's order.
func readMessages(o *object, r *engine.Request) {
	if !o.has("messages") {
		o.missing("messages")
		return
	}
	vs, ok := o.list("messages", 1, maxMessages)
	if !ok {
		return
	}
	for i, v := range vs {
		if e := checkMessage(i, v); e != nil {
			o.fail(e)
			return
		}
	}
	r.Messages = rejoin(vs)
}

var roles = []string{"system", "developer", "user", "assistant", "tool", "function"}

func checkMessage(i int, v json.RawMessage) *apiError {
	if kind(v) != "object" {
		return refuse(codeType, at("messages", i), "Invalid type for '%s': expected an object, but got %s instead.", at("messages", i), article(kind(v)))
	}
	m := &object{at: at("messages", i) + ".", fields: map[string]json.RawMessage{}}
	m.fill(v)
	var role string
	if !m.oneOf("role", &role, roles...) && m.err == nil {
		m.missing("role")
	}
	called := role == "assistant" && (m.has("tool_calls") || m.has("function_call"))
	c, ok := m.take("content")
	if !ok && !called && m.err == nil {
		m.missing("content")
	}
	if ok {
		checkContent(m, c)
	}
	return m.err
}

// checkContent takes a string or text parts. Other parts (images, sound) are refused by name.
func checkContent(m *object, c json.RawMessage) {
	switch kind(c) {
	case "string":
		return
	case "array":
	default:
		m.wrong("content", "one of a string or array of objects", c)
		return
	}
	var parts []struct {
		Type *string
		Text *string
	}
	if json.Unmarshal(c, &parts) != nil || len(parts) == 0 {
		m.wrong("content", "one of a string or array of objects", c)
		return
	}
	for i, p := range parts {
		name := at(m.at+"content", i)
		switch {
		case p.Type == nil:
			m.fail(refuse(codeMissing, name+".type", "Missing required parameter: '%s.type'.", name))
		case *p.Type != "text":
			m.fail(refuse(codeUnsupported, name+".type", "Unsupported content: parts of type '%s' are not supported, only 'text'.", clip(*p.Type)))
		case p.Text == nil:
			m.fail(refuse(codeMissing, name+".text", "Missing required parameter: '%s.text'.", name))
		}
	}
}

// rejoin is the array of the values, compact.
func rejoin(vs []json.RawMessage) json.RawMessage {
	out := []byte{'['}
	for i, v := range vs {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, compact(v)...)
	}
	return append(out, ']')
}
