package llama

import (
	"os"
	"strings"
	"testing"

	"lorry/engine"
)

// lookups are tools of which look may be called.
func lookups() *tools {
	return &tools{names: map[string]bool{"look": true}, finish: engine.FinishToolCalls}
}

const (
	thinks = "<|channel|>analysis<|message|>I'm\nthinking"
	next   = "<|end|><|start|>assistant"
	says   = "<|channel|>final<|message|>Hello, world!\nWhat's up?"
	looks  = "<|message|>{\"at\": 1}"
)

// TestChannels has llama.cpp's own cases for gpt-oss, and what may go wrong. Each answer is cut at every pair of places:
// thought, text and calls are the same however they come.
func TestChannels(t *testing.T) {
	const thought, text, called = "I'm\nthinking", "Hello, world!\nWhat's up?", `look{"at":1}`
	for name, c := range map[string]struct{ answer, thought, text, calls string }{
		"final":                  {says, "", text, ""},
		"commentary":             {strings.Replace(says, "final", "commentary", 1), "", text, ""},
		"a thought, then final":  {thinks + next + says, thought, text, ""},
		"a thought alone":        {thinks, thought, "", ""},
		"called in the role":     {" to=functions.look<|channel|>analysis" + looks, "", "", called},
		"called in the channel":  {"<|channel|>analysis to=functions.look" + looks, "", "", called},
		"of a type":              {" to=functions.look<|channel|>commentary <|constrain|>json" + looks, "", "", called},
		"a type without a mark":  {thinks + next + " to=functions.look<|channel|>commentary json" + looks, thought, "", called},
		"a thought, then a call": {thinks + next + "<|channel|>commentary to=functions.look <|constrain|>json" + looks, thought, "", called},
		"a remark before a call": {"<|channel|>commentary<|message|>I look." + next + "<|channel|>commentary to=functions.look" + looks, "", "I look.", called},
		"two calls":              {"<|channel|>commentary to=functions.look" + looks + next + " to=functions.look<|channel|>commentary" + looks, "", "", called + called},
		"thoughts between":       {thinks + next + "<|channel|>commentary<|message|>So." + next + thinks + next + says, thought + thought, "So." + text, ""},
		"a stray channel":        {"<|channel|>commentary to=assistant" + thinks + next + "<|channel|>commentary" + says, thought, text, ""},
		"a tool of its own":      {thinks + next + "<|channel|>commentary to=python <|constrain|>code<|message|>print(1)", thought, "", ""},
		"a function of nobody":   {thinks + next + " to=functions.find<|channel|>commentary" + looks, thought, "", ""},
		"a call cut short":       {"<|channel|>commentary to=functions.look<|message|>{\"at\"", "", "{\"at\"", ""},
		"a call of no object":    {"<|channel|>commentary to=functions.look<|message|>[1]" + next + says, "", "[1]" + text, ""},
		"a header cut short":     {thinks + next + "<|chan", thought, "", ""},
		"an end cut short":       {says + "<|en", "", text + "<|en", ""},
		"a form alone":           {`{"a": "<|"}`, "", `{"a": "<|"}`, ""},
		"nothing":                {"", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range len(c.answer) + 1 {
				for j := i; j <= len(c.answer); j++ {
					thought, text, calls := readChannels(c.answer[:i], c.answer[i:j], c.answer[j:])
					if thought != c.thought || text != c.text || calls != c.calls {
						t.Fatalf("cut at %d and %d: thought %q, text %q, calls %q", i, j, thought, text, calls)
					}
				}
			}
		})
	}
}

func readChannels(parts ...string) (thought, text, calls string) {
	r := &channelReader{tools: lookups()}
	for i, part := range parts {
		a, b := r.push(part, i == len(parts)-1)
		thought, text = thought+a, text+b
	}
	for _, c := range r.calls() {
		calls += c.name + c.arguments
	}
	return thought, text, calls
}

func FuzzChannels(f *testing.F) {
	f.Add(thinks+next+" to=functions.look<|channel|>commentary json"+looks, uint8(3))
	f.Add("<|start|><|message|><|end|> to=<|channel|>", uint8(1))
	f.Fuzz(func(t *testing.T, s string, step uint8) {
		a, b, c := readChannels(s)
		var parts []string
		for rest := s; rest != ""; {
			n := min(int(step%9)+1, len(rest))
			parts, rest = append(parts, rest[:n]), rest[n:]
		}
		x, y, z := readChannels(append(parts, "")...)
		if x != a || y != b || z != c {
			t.Fatalf("whole %q, %q, %q; in pieces %q, %q, %q", a, b, c, x, y, z)
		}
	})
}

// onChannels is an engine whose template asks for channels. The demo's model spells their tags in several tokens.
func onChannels(t *testing.T) *Engine {
	e := open(t, config(t))
	e.model.template.channels = true
	return e
}

// TestChannelAnswers: what is streamed of an answer is what it is as a whole, and thoughts are counted.
func TestChannelAnswers(t *testing.T) {
	e := onChannels(t)
	v := e.model.vocab
	p := &prepared{channels: true, tools: lookups()}
	const answer = thinks + next + "<|channel|>commentary to=functions.look" + looks
	ids := v.tokenize(answer, false)
	r := chat("Look.", 0)
	u := newRun(t.Context(), r, []int32{1}, 2048, false)
	var got engine.Choice
	emit := p.emitter(1, func(c engine.Chunk) {
		got.Text, got.Reasoning, got.Finish = got.Text+c.Text, got.Reasoning+c.Reasoning, c.Finish
	})
	for _, id := range ids {
		u.seqs[0].tokens = append(u.seqs[0].tokens, id)
		emit(engine.Chunk{Text: string(v.pieces[id])})
	}
	emit(engine.Chunk{Finish: engine.FinishStop})
	c := &engine.Completion{Choices: []engine.Choice{{Text: answer, Finish: engine.FinishStop}}}
	if err := p.take(u, c, v); err != nil {
		t.Fatal(err)
	}
	x := c.Choices[0]
	if x.Text != "" || x.Reasoning != "I'm\nthinking" || x.Finish != engine.FinishToolCalls || readCalls(t, x)[0].Function.Arguments != `{"at":1}` {
		t.Errorf("got %+v", x)
	}
	if got.Text != x.Text || got.Reasoning != x.Reasoning || got.Finish != x.Finish {
		t.Errorf("streamed %+v", got)
	}
	if n := len(v.tokenize(thinks, false)); c.Usage.ReasoningTokens != n {
		t.Errorf("counted %d tokens of thought, want %d", c.Usage.ReasoningTokens, n)
	}
}

// TestChannelForms: the model thinks as it likes, and its last message keeps to what was asked for.
func TestChannelForms(t *testing.T) {
	e := onChannels(t)
	const thought = "<|channel|>analysis<|message|>{ 1 < 2, <|end, <<|end|><|start|>assistant"
	const rome = "<|message|>{\"city\": \"Rome\"}"
	form := func(r *engine.Request) { r.ResponseFormat = []byte(anyJSON) }
	grammar := func(r *engine.Request) { r.Grammar = `root ::= "yes" | "no" root` }
	strict := func(r *engine.Request) { r.Tools = []byte(strictWeather) }
	forced := func(r *engine.Request) { strict(r); r.ToolChoice = []byte(`"required"`) }
	for name, c := range map[string]struct {
		ask         func(*engine.Request)
		text, drawn string // drawn is as far as the grammar lets it; empty: all
	}{
		"a form":                   {form, "<|channel|>final<|message|>{\"a\": 1}", ""},
		"a form behind a thought":  {form, thought + "<|channel|>final <|constrain|>json<|message|>{\"a\": 1}", ""},
		"no form":                  {form, thought + "<|channel|>final<|message|>no", thought + "<|channel|>final<|message|>"},
		"a form without a header":  {form, "{\"a\": 1}", "-"},
		"a client's own":           {grammar, thought + "<|channel|>final<|message|>nonoyes", ""},
		"a call":                   {forced, " to=functions.get_weather<|channel|>commentary json" + rome, ""},
		"a call behind a thought":  {forced, thought + "<|channel|>commentary to=functions.get_weather <|constrain|>json" + rome, ""},
		"a call with bad words":    {forced, "<|channel|>commentary to=functions.get_weather<|message|>{\"city\": \"Berlin", "<|channel|>commentary to=functions.get_weather<|message|>{\"city\": \""},
		"a call behind a remark":   {forced, "<|channel|>commentary<|message|>I look." + next + " to=functions.stop_all<|channel|>commentary<|message|>{}", ""},
		"words instead of a call":  {forced, "<|channel|>final", "<|channel|>"},
		"a strict call":            {strict, thought + "<|channel|>commentary to=functions.get_weather" + rome, ""},
		"words are free":           {strict, thought + "<|channel|>final<|message|>Berlin, {\n", ""},
		"a strict call, bad words": {strict, "<|channel|>commentary to=functions.get_weather<|message|>{\"city\": \"Berlin", "<|channel|>commentary to=functions.get_weather<|message|>{\"city\": \""},
	} {
		t.Run(name, func(t *testing.T) {
			r := chat("How is the weather in Rome?", 200)
			c.ask(r)
			drawn, but := wish(t, e, r, c.text, func(*prepared) {})
			switch {
			case c.drawn == "" && (drawn != c.text || but != ""):
				t.Errorf("drew %q, then %q", drawn, but)
			case c.drawn == "-" && drawn != "":
				t.Errorf("drew %q", drawn)
			case c.drawn != "" && c.drawn != "-" && (but == "" || !strings.HasPrefix(c.drawn, drawn) || len(drawn) < len(c.drawn)-8):
				t.Errorf("drew %q, then %q", drawn, but)
			}
		})
	}
}

// TestChannelPrompts: the template writes tools, calls and thoughts itself.
func TestChannelPrompts(t *testing.T) {
	source, err := os.ReadFile("testdata/templates/openai-gpt-oss-120b.jinja")
	if err != nil {
		t.Fatal(err)
	}
	x, err := newTemplate(string(source), "", "")
	if err != nil || !x.channels || !x.tools {
		t.Fatalf("%+v, %v", x, err)
	}
	same := func(s string) string { return s }
	past := strings.Replace(history, `"content":null`, `"content":"I look.","reasoning_content":"Hm."`, 1)
	got, err := x.render([]byte(past), []byte(weather), same, "low")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Reasoning: low\n", "namespace functions {", "type get_weather = ", "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>",
		`<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"b": 1, "a": "<"}<|call|>`, `<|start|>functions.f to=assistant<|channel|>commentary<|message|>"sunny"<|end|>`} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if !strings.HasSuffix(got, "<|start|>assistant") {
		t.Errorf("the prompt ends with %q", got[len(got)-40:])
	}
}
