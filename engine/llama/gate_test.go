package llama

import (
	"runtime"
	"strings"
	"testing"

	"lorry/engine"
)

// wish has an answer drawn from rows in which the next token of a text, and then the end, is by far the likeliest. It
// says what was drawn up to the first token that was another, which is but.
func wish(t *testing.T, e *Engine, r *engine.Request, text string, change func(*prepared)) (drawn, but string) {
	t.Helper()
	runtime.LockOSThread() // as the loop is: see threadTime
	defer runtime.UnlockOSThread()
	p, err := e.prepare(r)
	if err != nil {
		t.Fatal(err)
	}
	change(&p)
	u, err := e.fresh(t.Context(), r, p, false)
	if err != nil {
		t.Fatal(err)
	}
	defer u.free()
	v, s := e.model.vocab, u.seqs[0].sampler
	ids := append(v.tokenize(text, false), v.eos)
	row := make([]float32, v.size)
	for i, want := range ids {
		row[want] = 10
		id, ok := s.next(row, i, v.eog)
		row[want] = 0
		if !ok {
			t.Fatal(s.exhausted())
		}
		if id != want {
			return drawn, string(v.pieces[id])
		}
		drawn += string(v.pieces[id])
	}
	return drawn, ""
}

const strictWeather = `[{"type":"function","function":{"name":"get_weather","strict":true,"parameters":{"type":"object","properties":
	{"city":{"enum":["Paris","Rome"]}},"required":["city"],"additionalProperties":false}}},{"type":"function","function":{"name":"stop_all"}}]`

const rome = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>"

// TestStrictCalls: the model is free to call or not, and to say what it likes between calls; a call keeps to its schema.
func TestStrictCalls(t *testing.T) {
	e := open(t, config(t))
	for name, c := range map[string]struct {
		text, refused string // refused is where another token had to be drawn; empty: nowhere
		mind          *mind
	}{
		"no call":                {"Hello {}, it rains.", "", nil},
		"a call":                 {rome, "", nil},
		"words, a call, words":   {"Let me see. " + rome + " It rains, {\"city\": 7}.", "", nil},
		"two calls":              {rome + "\n" + rome, "", nil},
		"another's parameters":   {`<tool_call>{"name": "stop_all", "arguments": {"x": [1]}}</tool_call>`, "", nil},
		"a city that is none":    {strings.Replace(rome, "Rome", "Berlin", 1), "Berlin", nil},
		"in the second call":     {rome + " and " + strings.Replace(rome, "Rome", "Berlin", 1), "Berlin", nil},
		"an unknown function":    {strings.Replace(rome, "get_weather", "get_lost", 1), "lost", nil},
		"a thought of a call":    {"I could <tool_call> Berlin.</think>" + rome, "", &mind{think, true}},
		"behind a thought":       {"Hm.</think>" + strings.Replace(rome, "Rome", "Berlin", 1), "Berlin", &mind{think, true}},
		"a thought may be there": {"Berlin" + rome, "", &mind{think, false}},
	} {
		t.Run(name, func(t *testing.T) {
			r := chat("How is the weather in Rome?", 200)
			r.Tools = []byte(strictWeather)
			drawn, but := wish(t, e, r, c.text, func(p *prepared) { p.mind = c.mind })
			if c.refused == "" && (drawn != c.text || but != "") {
				t.Errorf("drew %q, then %q", drawn, but)
			}
			if at := strings.LastIndex(c.text, c.refused); c.refused != "" && (but == "" || len(drawn) < at-6 || len(drawn) > at+len(c.refused)) {
				t.Errorf("drew %q, then %q", drawn, but)
			}
		})
	}
}

// TestThoughtIsFree: the form holds behind the thought, and not before.
func TestThoughtIsFree(t *testing.T) {
	e := open(t, config(t))
	for name, c := range map[string]struct {
		text, drawn string
		mind        *mind
	}{
		"a thought":          {"no {json here</think>{\"a\": 1}", "no {json here</think>{\"a\": 1}", &mind{think, true}},
		"no answer":          {"no json", "no json", &mind{think, true}},              // the end is refused
		"a bad answer":       {"hm</think>no json", "hm</think>", &mind{think, true}}, // the first token of it is refused
		"it does not think":  {"{\"a\": 1}", "{\"a\": 1}", &mind{think, false}},       // so the form holds from the start
		"nor answers well":   {"no json", "", &mind{think, false}},
		"it can't think":     {"no json", "", nil},
		"a tag in one token": {"no {json\n{\"a\": 1}", "no {json\n{\"a\": 1}", &mind{thought{"no", "\n"}, false}},
	} {
		t.Run(name, func(t *testing.T) {
			r := chat("Answer in JSON.", 200)
			r.ResponseFormat = []byte(anyJSON)
			drawn, but := wish(t, e, r, c.text, func(p *prepared) { p.mind = c.mind })
			if drawn != c.drawn || but == "" && drawn != c.text {
				t.Errorf("drew %q, then %q", drawn, but)
			}
		})
	}
}

// TestOneCall: an answer with two calls ends behind the first where parallel_tool_calls is false.
func TestOneCall(t *testing.T) {
	e := open(t, config(t))
	v := e.model.vocab
	for one, want := range map[bool]int{false: 2, true: 1} {
		r := chat("How is the weather in Rome?", 200)
		r.Tools, r.OneToolCall = []byte(weather), one
		p, err := e.prepare(r)
		if err != nil {
			t.Fatal(err)
		}
		u, err := e.fresh(t.Context(), r, p, false)
		if err != nil {
			t.Fatal(err)
		}
		defer u.free()
		for _, id := range append(v.tokenize(rome+"\n"+rome, false), v.eos) {
			if u.seqs[0].finish == "" {
				u.seqs[0].accept(v, id, nil)
			}
		}
		c := u.completion()
		if err := p.take(u, c, v); err != nil {
			t.Fatal(err)
		}
		if got := readCalls(t, c.Choices[0]); len(got) != want || c.Choices[0].Finish != engine.FinishToolCalls {
			t.Errorf("one call: %v: got %+v", one, c.Choices[0])
		}
	}
}
