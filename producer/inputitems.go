package producer

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"lorry/result"
)

// inputItem is a thing that was said in a conversation of the Responses API: a message, a call, a call's outcome, or the
// sealed summary of what was said before.
type inputItem struct {
	ID      string      `json:"id,omitempty"`
	Type    string      `json:"type"`
	Status  string      `json:"status,omitempty"`
	Role    string      `json:"role,omitempty"`
	Content []inputPart `json:"content,omitempty"`
	CallID  string      `json:"call_id,omitempty"`
	Name    string      `json:"name,omitempty"`
	// Arguments are a call's, Output is an outcome's: text, or parts of it.
	Arguments *string         `json:"arguments,omitempty"`
	Output    json.RawMessage `json:"output,omitempty"`
	// Sealed is a compaction's summary as clients hold it, summary the same once opened.
	Sealed  string `json:"encrypted_content,omitempty"`
	summary string
}

// inputPart is a part of a message's text.
type inputPart struct {
	Type string `json:"type"` // "input_text", or "output_text" of the assistant
	Text string `json:"text"`
	// Annotations is there, and empty, where the type is output_text.
	Annotations *[]any `json:"annotations,omitempty"`
}

// Types of items.
const (
	itemMessage    = "message"
	itemCall       = "function_call"
	itemOutcome    = "function_call_output"
	itemThought    = "reasoning"
	itemCompaction = "compaction"
)

// readItems reads a string, which a user says, or a list of items. What the model thought is passed over: the SDKs hand
// it back with the rest of an output, and no model is told its earlier thoughts.
func readItems(o *object, v vault) (out []inputItem) {
	if kind(o.fields["input"]) == "string" {
		var text string
		o.text("input", &text, math.MaxInt)
		return []inputItem{said("user", text)}
	}
	if !o.has("input") && o.err == nil {
		o.missing("input")
	}
	vs, _ := o.list("input", 1, maxMessages)
	for i, raw := range vs {
		if kind(raw) != "object" {
			o.wrong(at("input", i), "an object", raw)
			return nil
		}
		m := &object{at: at("input", i) + ".", fields: map[string]json.RawMessage{}}
		m.fill(raw)
		item := readItem(m, v)
		if o.close(m); o.err != nil {
			return nil
		}
		if item.Type != itemThought {
			out = append(out, item)
		}
	}
	return out
}

// said is a message of one text.
func said(role, text string) inputItem {
	return inputItem{Type: itemMessage, Status: "completed", Role: role, Content: []inputPart{part(role, text)}}
}

func part(role, text string) inputPart {
	if role != "assistant" {
		return inputPart{Type: "input_text", Text: text}
	}
	return inputPart{Type: "output_text", Text: text, Annotations: &[]any{}}
}

func readItem(m *object, v vault) (it inputItem) {
	it.Type, it.Status = itemMessage, "completed"
	if m.has("type") || !m.has("role") {
		readItemType(m, &it.Type)
	}
	m.text("id", &it.ID, maxName)
	m.accept("status", "phase")
	switch it.Type {
	case itemMessage:
		readSaid(m, &it)
	case itemCall:
		m.accept("namespace")
		needs(m, "call_id", &it.CallID)
		needs(m, "name", &it.Name)
		it.Arguments = new(string)
		needs(m, "arguments", it.Arguments)
	case itemOutcome:
		needs(m, "call_id", &it.CallID)
		it.Output = readOutcome(m)
	case itemThought:
		m.accept("summary", "content", "encrypted_content")
	case itemCompaction:
		it.Status = ""
		readCompaction(m, &it, v)
	}
	return it
}

func readItemType(m *object, what *string) {
	if !m.text("type", what, maxName) && m.err == nil {
		m.missing("type")
	}
	if !slices.Contains([]string{itemMessage, itemCall, itemOutcome, itemThought, itemCompaction}, *what) {
		m.fail(refuse(codeUnsupported, m.at+"type", "Unsupported value: '%stype' is '%s'. Supported values are: 'message', 'function_call', 'function_call_output', 'reasoning', 'compaction'.", m.at, clip(*what)))
	}
}

// needs reads a string that must be there.
func needs(m *object, name string, dst *string) {
	if !m.text(name, dst, math.MaxInt) && m.err == nil {
		m.missing(name)
	}
}

func readSaid(m *object, it *inputItem) {
	if !m.oneOf("role", &it.Role, "user", "assistant", "system", "developer") && m.err == nil {
		m.missing("role")
	}
	if !m.has("content") && m.err == nil {
		m.missing("content")
	}
	for _, text := range readTexts(m, "content", "input_text", "output_text", "refusal") {
		it.Content = append(it.Content, part(it.Role, text))
	}
}

// readOutcome keeps what a function answered: text or parts of it.
func readOutcome(m *object) json.RawMessage {
	raw := compact(m.fields["output"])
	if !m.has("output") && m.err == nil {
		m.missing("output")
	}
	readTexts(m, "output", "input_text")
	return raw
}

// readTexts reads a string, or a list of parts of the types. Other parts (images, files) are refused by name.
func readTexts(m *object, name string, types ...string) (out []string) {
	if kind(m.fields[name]) == "string" {
		var text string
		m.text(name, &text, math.MaxInt)
		return []string{text}
	}
	vs, _ := m.list(name, 1, maxMessages)
	for i, v := range vs {
		if kind(v) != "object" {
			m.wrong(at(name, i), "an object", v)
			return nil
		}
		p := &object{at: at(m.at+name, i) + ".", fields: map[string]json.RawMessage{}}
		p.fill(v)
		out = append(out, readPart(p, types))
		m.close(p)
	}
	return out
}

func readPart(p *object, types []string) (text string) {
	var what string
	if !p.text("type", &what, maxName) && p.err == nil {
		p.missing("type")
	}
	if p.err == nil && !slices.Contains(types, what) {
		p.fail(refuse(codeUnsupported, p.at+"type", "Unsupported content: parts of type '%s' are not supported, only '%s'.", clip(what), strings.Join(types, "', '")))
	}
	field := "text"
	if what == "refusal" {
		field = what
	}
	needs(p, field, &text)
	p.accept("annotations", "logprobs")
	return text
}

// chatMessage is a message as models' templates know it, its keys in the order that they are printed in.
type chatMessage struct {
	Role      string     `json:"role"`
	Content   any        `json:"content"` // a string, parts, or null
	ToolCalls []chatCall `json:"tool_calls,omitempty"`
	CallID    string     `json:"tool_call_id,omitempty"`
}

type chatCall struct {
	ID       string `json:"id"`
	Type     string `json:"type"` // "function"
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

// messagesOf is a conversation as a chat: calls are the assistant's, in one message with what it said before them.
func messagesOf(instructions *string, items []inputItem) json.RawMessage {
	var out []chatMessage
	if instructions != nil {
		out = append(out, chatMessage{Role: "system", Content: *instructions})
	}
	for _, it := range items {
		switch it.Type {
		case itemCall:
			out = withCall(out, it)
		case itemOutcome:
			out = append(out, chatMessage{Role: "tool", Content: outcomeText(it.Output), CallID: it.CallID})
		case itemCompaction:
			out = append(out, chatMessage{Role: "assistant", Content: summaryLead + it.summary})
		default:
			out = append(out, chatMessage{Role: it.Role, Content: chatContent(it)})
		}
	}
	return must(json.Marshal(out))
}

func withCall(out []chatMessage, it inputItem) []chatMessage {
	if n := len(out); n == 0 || out[n-1].Role != "assistant" {
		out = append(out, chatMessage{Role: "assistant"})
	}
	c := chatCall{ID: it.CallID, Type: "function"}
	c.Function.Name, c.Function.Arguments = it.Name, *it.Arguments
	m := &out[len(out)-1]
	m.ToolCalls = append(m.ToolCalls, c)
	return out
}

// chatContent is a message's text: as one string where it is one part, which every template takes.
func chatContent(it inputItem) any {
	if len(it.Content) == 1 {
		return it.Content[0].Text
	}
	parts := make([]map[string]string, len(it.Content))
	for i, p := range it.Content {
		parts[i] = map[string]string{"type": "text", "text": p.Text}
	}
	return parts
}

// outcomeText is text that was given as such or in parts.
func outcomeText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var parts []inputPart
	_ = json.Unmarshal(raw, &parts) // readOutcome has checked it
	for _, p := range parts {
		text += p.Text
	}
	return text
}

// outputItems are an answer's text and calls as the next request's input.
func outputItems(v *result.Verdict) (out []inputItem) {
	if m := result.ResponseMessage(v); m != nil {
		it := said("assistant", m.Content[0].Text)
		it.ID, it.Status = m.ID, m.Status
		out = append(out, it)
	}
	for _, c := range result.ResponseCalls(v) {
		out = append(out, inputItem{ID: c.ID, Type: itemCall, Status: c.Status, CallID: c.CallID, Name: c.Name, Arguments: &c.Arguments})
	}
	return out
}

// named gives items IDs where they came without, by their place.
func named(items []inputItem, response string) []inputItem {
	out := slices.Clone(items)
	for i := range out {
		if out[i].ID == "" {
			prefix := map[string]string{itemMessage: "msg_", itemCall: "fc_", itemOutcome: "fco_", itemCompaction: "cmp_"}[out[i].Type]
			out[i].ID = prefix + strings.TrimPrefix(response, "resp_") + "_in" + strconv.Itoa(i)
		}
	}
	return out
}
