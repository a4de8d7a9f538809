package llama

import (
	"slices"
	"strings"

	"github.com/ardanlabs/jinja"
)

// writeCalls makes the calls of earlier answers, and what came of them, readable for the template: arguments as the
// object that Hermes' templates want, or all of it as text where the template knows no calls and would leave them out.
func (t *template) writeCalls(messages jinja.Value) error {
	for i, m := range messages.AsList().Items {
		d := m.AsDict()
		if role, _ := d.Get("role"); !t.tools && role.IsString() && (role.AsString() == "tool" || role.AsString() == "function") {
			result, _ := d.Get("content")
			d.Set("role", jinja.NewString("user"))
			d.Set("content", jinja.NewString("<tool_response>\n"+result.AsString()+"\n</tool_response>"))
		}
		calls, ok := d.Get("tool_calls")
		if !ok || calls.IsNone() {
			continue
		}
		if !calls.IsList() {
			return badMessages("messages[%d].tool_calls must be an array", i)
		}
		for j, c := range calls.AsList().Items {
			if err := t.writeCall(d, c); err != "" {
				return badMessages("messages[%d].tool_calls[%d] %s", i, j, err)
			}
		}
	}
	return nil
}

// writeCall returns what is wrong with a call, if anything.
func (t *template) writeCall(message *jinja.Dict, v jinja.Value) string {
	if !v.IsDict() {
		return "must be an object"
	}
	f, _ := v.AsDict().Get("function")
	if !f.IsDict() {
		return "must have a function"
	}
	name, _ := f.AsDict().Get("name")
	arguments, _ := f.AsDict().Get("arguments")
	if !name.IsString() || !arguments.IsString() {
		return "must have a function with a name and arguments, both strings"
	}
	object, err := decodeOrdered([]byte(arguments.AsString()))
	if err != nil || !object.IsDict() {
		return "has arguments that are no JSON object"
	}
	if t.tools {
		f.AsDict().Set("arguments", object)
		return ""
	}
	content, _ := message.Get("content")
	text := callOpen + "\n{\"name\": " + quoted(name.AsString()) + ", \"arguments\": " + arguments.AsString() + "}\n" + callClose
	message.Set("content", jinja.NewString(strings.TrimLeft(content.AsString()+"\n"+text, "\n")))
	return ""
}

// tellTools puts the tools into the system message, or before all messages, in the words that Hermes' templates use.
func tellTools(messages, tools jinja.Value) jinja.Value {
	var b strings.Builder
	b.WriteString("# Tools\n\nYou may call one or more functions to assist with the user query.\n\n" +
		"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n")
	for _, tool := range tools.AsList().Items {
		pythonJSON{}.write(&b, tool, 0)
		b.WriteByte('\n')
	}
	b.WriteString("</tools>\n\nFor each function call, return a json object with function name and arguments within " +
		callOpen + callClose + " XML tags:\n" + callOpen +
		"\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n" + callClose)
	first := messages.AsList().Items[0].AsDict()
	if role, _ := first.Get("role"); role.AsString() == "system" || role.AsString() == "developer" {
		content, _ := first.Get("content")
		first.Set("content", jinja.NewString(content.AsString()+"\n\n"+b.String()))
		return messages
	}
	system := jinja.NewDict()
	system.AsDict().Set("role", jinja.NewString("system"))
	system.AsDict().Set("content", jinja.NewString(b.String()))
	return jinja.NewList(slices.Insert(slices.Clone(messages.AsList().Items), 0, system))
}
