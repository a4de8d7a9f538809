package llama

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"strconv"
	"strings"

	"github.com/ardanlabs/jinja"

	"lorry/engine"
)

// template is a model's own chat template, compiled once, here or in a process of its own. It may be used from many
// goroutines.
type template struct {
	process  *renderer // nil: it runs here
	compiled *jinja.Template
	bos, eos string
	tools    bool // it writes tools and calls itself
	channels bool // and the model answers on channels, else between Hermes' tags
	thought  *thought
	effort   effort
}

// openTemplate has a command run it; none has it run in this process, which then must trust it.
func openTemplate(command []string, source string, v *vocab) (*template, error) {
	if len(command) == 0 {
		return newTemplate(source, v.text(v.bos), v.text(v.eos))
	}
	hello := greeting{Source: source, BOS: v.text(v.bos), EOS: v.text(v.eos), Limit: renderLimit}
	for _, c := range v.control {
		hello.Control = append(hello.Control, []byte(c))
	}
	r, err := newRenderer(command, hello)
	if err != nil {
		return nil, err
	}
	return &template{process: r, tools: r.tools, channels: hasChannels(source), thought: thoughtOf(source)}, nil
}

// prompt is the prompt for a conversation that the model is to answer. What the client wrote is veiled. effort is how
// much the model is to think.
func (t *template) prompt(messages, tools json.RawMessage, h *veil, effort string) (string, error) {
	if t.process != nil {
		return t.process.render(messages, tools, h, effort)
	}
	return t.render(messages, tools, h.mask, effort)
}

func (t *template) close() {
	if t != nil && t.process != nil {
		t.process.close()
	}
}

func newTemplate(source, bos, eos string) (*template, error) {
	t, err := jinja.Compile(ownTojson(source))
	if err != nil {
		return nil, fmt.Errorf("compile its chat template: %w", err)
	}
	out := &template{compiled: t, bos: bos, eos: eos, channels: hasChannels(source), thought: thoughtOf(source), effort: effortOf(source)}
	out.tools = (strings.Contains(source, callOpen) || out.channels) && out.probe()
	return out, nil
}

// probe says whether a tool appears in what is rendered.
func (t *template) probe() bool {
	const tool = `[{"type":"function","function":{"name":"lorry_probe","description":"","parameters":{"type":"object","properties":{}}}}]`
	same := func(s string) string { return s }
	tools, err := decodeOrdered([]byte(tool))
	if err != nil {
		return false
	}
	list, err := readMessages([]byte(`[{"role":"user","content":"hi"}]`), same)
	if err != nil {
		return false
	}
	text, err := t.write(list, &tools, nil)
	return err == nil && strings.Contains(text, "lorry_probe")
}

// render is the prompt for a conversation that the model is to answer. mask is applied to every text that the client
// wrote. A template that refuses the conversation makes the request invalid.
func (t *template) render(messages, tools json.RawMessage, mask func(string) string, effort string) (string, error) {
	more, err := t.effort.set(effort)
	if err != nil {
		return "", err
	}
	list, err := readMessages(messages, mask)
	if err != nil {
		return "", err
	}
	if err := t.writeCalls(list); err != nil {
		return "", err
	}
	if t.channels {
		keepThoughts(list)
	}
	if tools == nil {
		return t.write(list, nil, more)
	}
	v, err := decodeOrdered(tools)
	if err != nil || !v.IsList() {
		return "", invalid("tools", "tools are no valid JSON array: %v", err)
	}
	v = maskValue(v, mask)
	if t.tools {
		return t.write(list, &v, more)
	}
	return t.write(tellTools(list, v), nil, more)
}

func (t *template) write(messages jinja.Value, tools *jinja.Value, more variables) (string, error) {
	values := map[string]jinja.Value{
		"messages":              messages,
		"bos_token":             jinja.NewString(t.bos),
		"eos_token":             jinja.NewString(t.eos),
		"add_generation_prompt": jinja.NewBool(true),
		tojson:                  jinja.NewCallable(tojson, tojsonFilter),
	}
	maps.Copy(values, more)
	if tools != nil {
		values["tools"] = *tools
	}
	out, err := t.compiled.RenderValues(values)
	if err != nil {
		return "", badMessages("the model's chat template refuses the messages: %v", err)
	}
	return out, nil
}

func badMessages(format string, args ...any) error {
	return engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "messages", format, args...)
}

// readMessages decodes the client's array in the client's order of keys, and makes sure of what templates take for
// granted: where Python's Jinja raises, ours would print something.
func readMessages(raw json.RawMessage, mask func(string) string) (jinja.Value, error) {
	v, err := decodeOrdered(raw)
	if err != nil {
		return v, badMessages("messages are no valid JSON: %v", err)
	}
	if !v.IsList() || v.AsList().Len() == 0 {
		return v, badMessages("messages must be an array of at least one message")
	}
	for i, m := range v.AsList().Items {
		if err := checkMessage(i, m); err != nil {
			return v, err
		}
	}
	return maskValue(v, mask), nil
}

// roleForm keeps a role from being a way to write control tokens.
var roleForm = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

func checkMessage(i int, m jinja.Value) error {
	if !m.IsDict() {
		return badMessages("messages[%d] must be an object", i)
	}
	d := m.AsDict()
	role, _ := d.Get("role")
	if !role.IsString() || !roleForm.MatchString(role.AsString()) {
		return badMessages("messages[%d].role must be a word such as \"user\"", i)
	}
	content, _ := d.Get("content")
	flat, err := flatten(i, content)
	if err != nil {
		return err
	}
	d.Set("content", flat)
	return nil
}

// flatten makes one string of a content: none is empty, parts are joined.
func flatten(i int, content jinja.Value) (jinja.Value, error) {
	switch {
	case content.IsString():
		return content, nil
	case content.IsNone(), content.IsUndefined():
		return jinja.NewString(""), nil
	case !content.IsList():
		return content, badMessages("messages[%d].content must be a string or an array of text parts", i)
	}
	var b strings.Builder
	for j, part := range content.AsList().Items {
		s, ok := textPart(part)
		if !ok {
			return content, badMessages("messages[%d].content[%d] is no text: this model reads text only", i, j)
		}
		b.WriteString(s)
	}
	return jinja.NewString(b.String()), nil
}

func textPart(part jinja.Value) (string, bool) {
	if !part.IsDict() {
		return "", false
	}
	kind, _ := part.AsDict().Get("type")
	s, _ := part.AsDict().Get("text")
	if !kind.IsString() || kind.AsString() != "text" || !s.IsString() {
		return "", false
	}
	return s.AsString(), true
}

// maskValue applies mask to every string and key within v.
func maskValue(v jinja.Value, mask func(string) string) jinja.Value {
	switch {
	case v.IsString():
		return jinja.NewString(mask(v.AsString()))
	case v.IsList():
		for i, item := range v.AsList().Items {
			v.AsList().Items[i] = maskValue(item, mask)
		}
	case v.IsDict():
		masked := jinja.NewDict()
		for _, k := range v.AsDict().OrderedKeys() {
			item, _ := v.AsDict().Get(k)
			masked.AsDict().Set(mask(k), maskValue(item, mask))
		}
		return masked
	}
	return v
}

// decodeOrdered reads one JSON value. Objects keep their order and whole numbers stay whole, as Python has it.
func decodeOrdered(raw []byte) (jinja.Value, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := ordered(d, 0)
	if err != nil {
		return v, err
	}
	if _, err := d.Token(); err != io.EOF {
		return v, fmt.Errorf("more than one value")
	}
	return v, nil
}

// maxDepth bounds what a client can make our stack hold.
const maxDepth = 64

func ordered(d *json.Decoder, depth int) (jinja.Value, error) {
	if depth > maxDepth {
		return jinja.None(), fmt.Errorf("nested deeper than %d", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return jinja.None(), err
	}
	switch x := t.(type) {
	case json.Delim:
		if x == '{' {
			return orderedDict(d, depth)
		}
		return orderedList(d, depth)
	case string:
		return jinja.NewString(x), nil
	case bool:
		return jinja.NewBool(x), nil
	case json.Number:
		return number(x)
	}
	return jinja.None(), nil
}

func orderedDict(d *json.Decoder, depth int) (jinja.Value, error) {
	v := jinja.NewDict()
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return v, err
		}
		item, err := ordered(d, depth+1)
		if err != nil {
			return v, err
		}
		v.AsDict().Set(k.(string), item)
	}
	_, err := d.Token()
	return v, err
}

func orderedList(d *json.Decoder, depth int) (jinja.Value, error) {
	var items []jinja.Value
	for d.More() {
		item, err := ordered(d, depth+1)
		if err != nil {
			return jinja.None(), err
		}
		items = append(items, item)
	}
	_, err := d.Token()
	return jinja.NewList(items), err
}

func number(n json.Number) (jinja.Value, error) {
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return jinja.NewInt(i), nil
	}
	f, err := n.Float64()
	return jinja.NewFloat(f), err
}
