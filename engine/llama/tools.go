package llama

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"lorry/engine"
	"lorry/engine/gbnf"
)

// Calls stand in an answer as Hermes models and Qwen write them: a JSON object with name and arguments between two tags.
// A template that writes tools so does it itself; other models are told in a system message.
const (
	callOpen  = "<tool_call>"
	callClose = "</tool_call>"
)

// tools is what a request lets the model call.
type tools struct {
	raw   json.RawMessage // the client's array
	names map[string]bool
	// must is set where the answer has to be a call, and then of what form.
	must *gbnf.Validator
	form *form
	// strict calls keep to their functions' parameters, wherever in the answer they stand.
	strict bool
	list   []function    // that form lets the model call
	finish engine.Finish // of an answer with a call
}

// toolsOf reads tools and tool_choice; nil is none.
func toolsOf(r *engine.Request) (*tools, error) {
	choice, name, err := toolChoice(r.ToolChoice)
	switch {
	case err != nil:
		return nil, err
	case blank(r.Tools) && choice == "required":
		return nil, invalid("tool_choice", "tool_choice asks for a call, but there are no tools")
	case blank(r.Tools) || choice == "none":
		return nil, nil
	case r.Kind != engine.Chat:
		return nil, unsupported("tools", "tools outside of a conversation")
	case r.Grammar != "" || !blank(r.ResponseFormat) && word(r.ResponseFormat, "type") != "text":
		return nil, unsupported("tools", "tools together with grammar or response_format")
	case r.Sampling.Logprobs:
		return nil, unsupported("logprobs", "logprobs together with tools")
	}
	list, err := readTools(r.Tools)
	if err != nil {
		return nil, err
	}
	t := &tools{raw: r.Tools, names: map[string]bool{}, finish: r.CallFinish()}
	for _, f := range list {
		t.names[f.Name] = true
	}
	switch {
	case choice == "required":
		return t, t.force(list, name, r.Sampling)
	case slices.ContainsFunc(list, func(f function) bool { return f.Strict }):
		t.strict = true
		return t, t.bind(list)
	}
	return t, nil
}

// toolChoice is none, auto or required, and with required maybe the one function that is to be called.
func toolChoice(raw json.RawMessage) (choice, name string, err error) {
	if blank(raw) {
		return "auto", "", nil
	}
	switch s := word(raw, ""); s {
	case "none", "auto", "required":
		return s, "", nil
	}
	var named struct {
		Type     string
		Function struct{ Name string }
	}
	if json.Unmarshal(raw, &named) != nil || named.Type != "function" || named.Function.Name == "" {
		return "", "", unsupported("tool_choice", `values of tool_choice other than "none", "auto", "required" and one function's name`)
	}
	return "required", named.Function.Name, nil
}

// function is one that may be called.
type function struct {
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
	// Strict calls keep to Parameters though the model chose freely to make them.
	Strict bool `json:"strict"`
}

var functionName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,64}$`)

func readTools(raw json.RawMessage) ([]function, error) {
	var list []struct {
		Type     string
		Function function
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, invalid("tools", "tools must be an array of {\"type\":\"function\",\"function\":{…}}")
	}
	var functions []function
	seen := map[string]bool{}
	for i, t := range list {
		f := t.Function
		switch {
		case t.Type != "function":
			return nil, unsupported("tools", fmt.Sprintf("tools[%d] of type %q: only functions", i, t.Type))
		case !functionName.MatchString(f.Name):
			return nil, invalid("tools", "tools[%d].function.name must be 1 to 64 letters, digits, dots, dashes or underscores", i)
		case seen[f.Name]:
			return nil, invalid("tools", "tools[%d].function.name %q is there twice", i, f.Name)
		}
		seen[f.Name] = true
		functions = append(functions, f)
	}
	return functions, nil
}

// force has the answer be one call, of one function if it is named.
func (t *tools) force(list []function, name string, s engine.Sampling) error {
	if name != "" && !t.names[name] {
		return invalid("tool_choice", "tool_choice names the function %q, which is not among the tools", name)
	}
	if name != "" {
		list = slices.DeleteFunc(list, func(f function) bool { return f.Name != name })
	}
	if err := t.shape(list, `"`+callOpen+`\n" the-call "\n`+callClose+`"`); err != nil {
		return err
	}
	return t.form.check(s)
}

// bind holds each call to its function's parameters, behind the tag that opens it. Functions that are not strict, and
// whose parameters no grammar can hold, take any object.
func (t *tools) bind(list []function) error {
	for i, f := range list {
		if _, err := gbnf.FromSchema(json.RawMessage(f.callSchema(0))); err != nil && !f.Strict {
			list[i].Parameters = nil
		}
	}
	return t.shape(list, `[ \n]? the-call [ \n]? "`+callClose+`"`)
}

// shape makes the form of a call of one of the functions, which stands in a grammar's root as the-call.
func (t *tools) shape(list []function, root string) error {
	var branches []string
	for i, f := range list {
		branches = append(branches, f.callSchema(i))
	}
	f, err := formOfSchema(json.RawMessage(`{"anyOf":[`+strings.Join(branches, ",")+`]}`), "tool_choice", "tools")
	if err != nil {
		return err
	}
	t.must, f.schema, t.list = f.schema, nil, list // what stands between the tags
	f.grammar = "root ::= " + root + "\n" + rootRule.ReplaceAllString(f.grammar, "the-call ::=")
	t.form = f
	return nil
}

var (
	rootRule = regexp.MustCompile(`(?m)^root ::=`)
	localRef = regexp.MustCompile(`("\$ref"\s*:\s*"#)`)
)

// callSchema is the schema of a call, branch i of all calls. References within the parameters are to the parameters.
func (f function) callSchema(i int) string {
	parameters := `{"type":"object"}`
	if !blank(f.Parameters) && string(bytes.TrimSpace(f.Parameters)) != "{}" {
		parameters = localRef.ReplaceAllString(string(f.Parameters), fmt.Sprintf("${1}/anyOf/%d/properties/arguments", i))
	}
	return fmt.Sprintf(`{"type":"object","properties":{"name":{"const":%q},"arguments":%s},"required":["name","arguments"],"additionalProperties":false}`,
		f.Name, parameters)
}

// validate holds calls against what was asked for: a grammar does not hold all of it.
func (t *tools) validate(calls []call) error {
	for _, c := range calls {
		if t.must == nil {
			break
		}
		if err := t.must.Validate(c.text); err != nil {
			return engine.Errorf(engine.Internal, codeSchemaMismatch, "", "a call breaks its function's parameters: %s", reason(err))
		}
	}
	return nil
}

// call is one that was read: a function, its arguments' JSON, and the text of both.
type call struct{ name, arguments, text string }

// callReader separates calls from text while it comes. What may still become a call is held back, and so is white space,
// which counts as text only between text. What looks like a call and is none stays text.
type callReader struct {
	tools  *tools
	held   string
	gap    string // white space before the tag that was opened
	inside bool
	after  bool // a call was the last thing
	calls  []call
}

// push adds a piece and says what of all so far is text. final releases what is held back.
func (r *callReader) push(s string, final bool) string {
	r.held += s
	var out strings.Builder
	for r.next(&out) {
	}
	if final {
		if r.inside {
			out.WriteString(r.gap + callOpen)
		}
		out.WriteString(r.held)
		r.held = ""
	}
	return out.String()
}

// next goes over one tag, or says false when there is none.
func (r *callReader) next(out *strings.Builder) bool {
	if r.inside {
		body, rest, ok := cutCall(r.held)
		if ok {
			r.inside, r.held = false, rest
			r.read(body, out)
		}
		return ok
	}
	if r.after {
		r.held = strings.TrimLeft(r.held, " \t\r\n")
	}
	before, rest, ok := strings.Cut(r.held, callOpen)
	if ok {
		whole := before
		before = strings.TrimRight(before, " \t\r\n")
		r.gap, r.held, r.inside = whole[len(before):], rest, true
	} else {
		before = r.held[:len(r.held)-mayBeCall(r.held)]
		r.held = r.held[len(before):]
	}
	out.WriteString(before)
	r.after = r.after && before == ""
	return ok
}

// cutCall cuts s around the tag that closes a call. One in a string of the call's JSON closes nothing.
func cutCall(s string) (body, rest string, ok bool) {
	for at := 0; ; {
		i := strings.Index(s[at:], callClose)
		if i < 0 {
			return s, "", false
		}
		body, rest, at = s[:at+i], s[at+i+len(callClose):], at+i+len(callClose)
		var v json.RawMessage
		if json.NewDecoder(strings.NewReader(s[:at])).Decode(&v) != io.ErrUnexpectedEOF {
			return body, rest, true
		}
	}
}

// mayBeCall is the length of the end of s that may turn out to stand before a call, or to begin one.
func mayBeCall(s string) int {
	tag := partial(s, callOpen)
	return len(s) - len(strings.TrimRight(s[:len(s)-tag], " \t\r\n"))
}

// read notes a call of a function that is there; anything else is text.
func (r *callReader) read(body string, out *strings.Builder) {
	var said struct {
		Name      string
		Arguments json.RawMessage
	}
	text := strings.TrimSpace(body)
	err := json.Unmarshal([]byte(text), &said)
	c, ok := newCall(said.Name, said.Arguments)
	if err != nil || !ok || !r.tools.names[said.Name] {
		out.WriteString(r.gap + callOpen + body + callClose)
		return
	}
	c.text = text
	r.calls, r.after = append(r.calls, c), true
}

// newCall is a call with its text as a JSON object; false is one whose arguments are none.
func newCall(name string, arguments json.RawMessage) (call, bool) {
	var b bytes.Buffer
	if json.Compact(&b, arguments) != nil || !bytes.HasPrefix(b.Bytes(), []byte("{")) {
		return call{}, false
	}
	return call{name, b.String(), `{"name":` + quoted(name) + `,"arguments":` + b.String() + `}`}, true
}

// ended is why an answer ended, seen with its calls.
func (t *tools) ended(f engine.Finish, calls []call) engine.Finish {
	if f == engine.FinishStop && len(calls) > 0 {
		return t.finish
	}
	return f
}

// callsJSON is OpenAI's array of calls. An ID is made of all that the call came from, so the same answer has the same IDs
// and no two calls of a conversation share one.
func callsJSON(u *run, choice int, calls []call) json.RawMessage {
	type named struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	}
	type entry struct {
		ID       string `json:"id"`
		Type     string `json:"type"`
		Function named  `json:"function"`
	}
	if len(calls) == 0 {
		return nil
	}
	var out []entry
	for i, c := range calls {
		out = append(out, entry{callID(u, choice, i, c), "function", named{c.name, c.arguments}})
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic("llama: " + err.Error()) // strings: a bug
	}
	return b
}

func callID(u *run, choice, i int, c call) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %d %s\n", u.request.Sampling.Seed, choice, i, c.text)
	_ = binary.Write(h, binary.LittleEndian, u.prompt) // a hash takes anything
	return "call_" + hex.EncodeToString(h.Sum(nil)[:12])
}
