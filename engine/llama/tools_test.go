package llama

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lorry/engine"
)

const weather = `[{"type":"function","function":{"name":"get_weather","description":"Weather <now> & here","parameters":{"type":"object",
	"properties":{"city":{"$ref":"#/$defs/city"},"days":{"type":"integer","minimum":1,"maximum":9}},"required":["city","days"],
	"additionalProperties":false,"$defs":{"city":{"enum":["Paris","Rome"]}}}}},
	{"type":"function","function":{"name":"stop_all"}}]`

// TestForcedCalls asks a model whose template knows no tools.
func TestForcedCalls(t *testing.T) {
	e := open(t, config(t))
	for name, c := range map[string]struct {
		choice, call, arguments string
		finish                  engine.Finish
	}{
		"required": {`"required"`, `^(get_weather|stop_all)$`, `^\{.*\}$`, engine.FinishToolCalls},
		"named":    {`{"type":"function","function":{"name":"get_weather"}}`, `^get_weather$`, `^\{"city":"(Paris|Rome)","days":[1-9]\}$`, engine.FinishStop},
	} {
		t.Run(name, func(t *testing.T) {
			r := chat("How is the weather in Rome?", 200)
			r.Tools, r.ToolChoice = []byte(weather), []byte(c.choice)
			r.Sampling.N, r.Sampling.Temperature = 3, 1
			var chunks []engine.Chunk
			got, err := e.Run(t.Context(), r, func(c engine.Chunk) { chunks = append(chunks, c) })
			if err != nil {
				t.Fatal(err)
			}
			for i, choice := range got.Choices {
				if choice.Finish == engine.FinishLength {
					continue // stop_all takes any object
				}
				calls := readCalls(t, choice)
				if choice.Finish != c.finish || len(calls) != 1 || !regexp.MustCompile(c.call).MatchString(calls[0].Function.Name) ||
					!regexp.MustCompile(c.arguments).MatchString(calls[0].Function.Arguments) {
					t.Errorf("answer %d: got %+v", i, choice)
				}
			}
			for _, c := range chunks {
				if want := got.Choices[c.Index].Finish; c.Text != "" && want != engine.FinishLength || c.Finish != "" && c.Finish != want {
					t.Errorf("a call was shown as text, or ended otherwise in the stream: %+v", c)
				}
			}
		})
	}
}

type wireCall struct {
	ID, Type string
	Function struct{ Name, Arguments string }
}

func readCalls(t *testing.T, c engine.Choice) (calls []wireCall) {
	t.Helper()
	if err := json.Unmarshal(c.ToolCalls, &calls); err != nil {
		t.Fatalf("%v in %+v", err, c)
	}
	for _, x := range calls {
		if !strings.HasPrefix(x.ID, "call_") || x.Type != "function" {
			t.Errorf("got %+v", x)
		}
	}
	if c.Text != "" {
		t.Errorf("got %+v", c)
	}
	return calls
}

func TestAutoCalls(t *testing.T) {
	e := open(t, config(t))
	r := chat("What is 2+2?", 40)
	r.Tools = []byte(weather)
	if c := answer(t, e, r).Choices[0]; c.Text == "" && c.ToolCalls == nil {
		t.Errorf("got %+v", c)
	}
	r.Tools = nil
	plain, err := e.prepare(r)
	if err != nil {
		t.Fatal(err)
	}
	r.Tools, r.ToolChoice = []byte(weather), []byte(`"none"`)
	if got, err := e.prepare(r); err != nil || !slices.Equal(got.prompt, plain.prompt) {
		t.Errorf("without tools the prompt is %v, with none of them to be called %v, %v", plain.prompt, got.prompt, err)
	}
}

func TestToolRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*engine.Request)
		param  string
	}{
		"call of nothing":  {func(r *engine.Request) { r.Tools, r.ToolChoice = nil, []byte(`"required"`) }, "tool_choice"},
		"unknown choice":   {func(r *engine.Request) { r.ToolChoice = []byte(`"maybe"`) }, "tool_choice"},
		"unknown function": {func(r *engine.Request) { r.ToolChoice = []byte(`{"type":"function","function":{"name":"x"}}`) }, "tool_choice"},
		"text":             {func(r *engine.Request) { r.Kind = engine.Text }, "tools"},
		"with a form":      {func(r *engine.Request) { r.ResponseFormat = []byte(anyJSON) }, "tools"},
		"with a grammar":   {func(r *engine.Request) { r.Grammar = "x" }, "tools"},
		"with logprobs":    {func(r *engine.Request) { r.Sampling.Logprobs = true }, "logprobs"},
		"no array":         {func(r *engine.Request) { r.Tools = []byte(`{"a":1}`) }, "tools"},
		"custom":           {func(r *engine.Request) { r.Tools = []byte(`[{"type":"custom"}]`) }, "tools"},
		"bad name":         {func(r *engine.Request) { r.Tools = []byte(`[{"type":"function","function":{"name":"a b"}}]`) }, "tools"},
		"bad parameters": {func(r *engine.Request) {
			r.Tools, r.ToolChoice = []byte(`[{"type":"function","function":{"name":"a","parameters":{"typ":1}}}]`), []byte(`"required"`)
		}, "tools"},
		"endless": {func(r *engine.Request) { r.ToolChoice, r.Sampling.IgnoreEOS = []byte(`"required"`), true }, "ignore_eos"},
		"the same one twice": {func(r *engine.Request) {
			r.Tools = []byte(`[{"type":"function","function":{"name":"a"}},{"type":"function","function":{"name":"a"}}]`)
		}, "tools"},
	} {
		t.Run(name, func(t *testing.T) {
			r := chat("hello", 4)
			r.Tools = []byte(weather)
			c.change(r)
			_, err := toolsOf(r)
			if got, ok := errors.AsType[*engine.Error](err); !ok || got.Class != engine.Invalid || got.Param != c.param {
				t.Errorf("got %v, want an error about %s", err, c.param)
			}
		})
	}
}

func TestCallReader(t *testing.T) {
	ts := &tools{names: map[string]bool{"f": true}}
	const one = `<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>`
	for name, c := range map[string]struct {
		answer, text string
		calls        int
	}{
		"no call":           {"a < b\n ", "a < b\n ", 0},
		"one":               {"\n" + one + "\n", "", 1},
		"after text":        {"I look.\n" + one, "I look.", 1},
		"two":               {one + "\n" + one, "", 2},
		"text between":      {one + "\n and \n" + one, "and", 2},
		"a tag in a string": {`<tool_call>{"name": "f", "arguments": {"</tool_call> ": "\"</tool_call>"}}</tool_call>` + one, "", 2},
		"a string's end":    {`<tool_call>{"name": "f</tool_call> x`, `<tool_call>{"name": "f</tool_call> x`, 0},
		"half an object":    {`<tool_call>{"name": "f"</tool_call>` + one, `<tool_call>{"name": "f"</tool_call>`, 1},
		"not finished":      {"x " + one[:30], "x " + one[:30], 0},
		"unknown":           {" <tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>", " <tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>", 0},
		"no JSON":           {"<tool_call>f()</tool_call> x", "<tool_call>f()</tool_call> x", 0},
		"no arguments":      {`<tool_call>{"name":"f"}</tool_call>`, `<tool_call>{"name":"f"}</tool_call>`, 0},
		"half a tag":        {"a <tool_c", "a <tool_c", 0},
		"nearly a call":     {"a <tool_calx", "a <tool_calx", 0},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				r := &callReader{tools: ts}
				var shown strings.Builder
				for rest := c.answer; rest != ""; {
					n := rapid.IntRange(1, len(rest)).Draw(rt, "n")
					shown.WriteString(r.push(rest[:n], false))
					rest = rest[n:]
				}
				shown.WriteString(r.push("", true))
				if shown.String() != c.text || len(r.calls) != c.calls {
					rt.Errorf("got %q and %d calls", shown.String(), len(r.calls))
				}
			})
		})
	}
}

// FuzzCallReader: however an answer comes in pieces, its text and calls are the same.
func FuzzCallReader(f *testing.F) {
	f.Add("a <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> b", 5)
	f.Add("<tool_call><tool_call></tool_call>\n", 1)
	f.Add("<tool_call>{\"</tool_call>\":1}</tool_call>", 3)
	f.Fuzz(func(t *testing.T, s string, n int) {
		ts := &tools{names: map[string]bool{"f": true}}
		whole, parts := &callReader{tools: ts}, &callReader{tools: ts}
		want, got := whole.push(s, true), ""
		for rest := s; rest != ""; {
			k := max(1, min(n, len(rest)))
			got += parts.push(rest[:k], false)
			rest = rest[k:]
		}
		got += parts.push("", true)
		if got != want || len(parts.calls) != len(whole.calls) {
			t.Errorf("%q in pieces of %d: %q and %d calls, at once %q and %d", s, n, got, len(parts.calls), want, len(whole.calls))
		}
	})
}

const history = `[{"role":"user","content":"Weather?"},
	{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"b\": 1, \"a\": \"<\"}"}}]},
	{"role":"tool","tool_call_id":"call_1","content":"sunny"}]`

// TestToolsInTemplates compares a template that knows tools, in Hermes' manner, with one that does not.
func TestToolsInTemplates(t *testing.T) {
	const knows = `{% for t in tools %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}{{ m.role }}:{{ m.content }}` +
		`{% for c in m.tool_calls or [] %}<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %};{% endfor %}`
	const ignorant = `{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}`
	same := func(s string) string { return s }
	for name, c := range map[string]struct {
		source string
		tools  bool
		want   []string
	}{
		"knows": {knows, true, []string{"[get_weather][stop_all]user:Weather?", `<tool_call>{"name": "f", "arguments": {"b": 1, "a": "<"}}</tool_call>;tool:sunny;`}},
		"does not": {ignorant, false, []string{"system:# Tools\n", `{"type": "function", "function": {"name": "get_weather", "description": "Weather <now> & here", "parameters": {"type": "object", `,
			"assistant:<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": \"<\"}}\n</tool_call>;user:<tool_response>\nsunny\n</tool_response>;"}},
	} {
		t.Run(name, func(t *testing.T) {
			x, err := newTemplate(c.source, "", "")
			if err != nil {
				t.Fatal(err)
			}
			if x.tools != c.tools {
				t.Errorf("it knows tools: %v", x.tools)
			}
			got, err := x.render([]byte(history), []byte(weather), same, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q lacks %q", got, want)
				}
			}
		})
	}
	x, err := newTemplate(ignorant, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`"x"`, `[1]`, `[{}]`, `[{"function":{"name":"f"}}]`, `[{"function":{"name":"f","arguments":"[]"}}]`} {
		if _, err := x.render([]byte(`[{"role":"assistant","content":"","tool_calls":`+bad+`}]`), nil, same, ""); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}
