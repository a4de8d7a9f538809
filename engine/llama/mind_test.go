package llama

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"lorry/engine"
)

var think = thought{"<think>", "</think>"}

// TestThoughts cuts each answer at every pair of places: thought and answer are the same however they come.
func TestThoughts(t *testing.T) {
	for name, c := range map[string]struct {
		begun                 bool
		text, thought, answer string
		read                  string // up to the thought's end
	}{
		"no thought":       {false, " hi <think>x</think>", "", " hi <think>x</think>", ""},
		"a thought":        {false, "<think>\nhm 1 < 2\n</think>\n\nhi ", "hm 1 < 2", "hi ", "<think>\nhm 1 < 2\n</think>"},
		"behind blanks":    {false, "\n <think>a</think>b", "a", "b", "\n <think>a</think>"},
		"opened before":    {true, "hm\n\nhm</think>hi", "hm\n\nhm", "hi", "hm\n\nhm</think>"},
		"never closed":     {true, "hm </thi", "hm </thi", "", "hm </thi"},
		"an empty one":     {false, "<think>\n\n</think>\n\nhi", "", "hi", "<think>\n\n</think>"},
		"half a tag":       {false, "<thin", "", "<thin", ""},
		"blanks alone":     {false, " \n", "", " \n", ""},
		"nothing":          {true, "", "", "", ""},
		"two of them":      {true, "a</think>b</think>c", "a", "b</think>c", "a</think>"},
		"nearly closed":    {true, "a</think</think>b", "a</think", "b", "a</think</think>"},
		"blanks in answer": {true, "a</think>  b  c ", "a", "b  c ", "a</think>"},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range len(c.text) + 1 {
				for j := i; j <= len(c.text); j++ {
					r := (&mind{think, c.begun}).reader()
					var thought, answer string
					for n, part := range []string{c.text[:i], c.text[i:j], c.text[j:]} {
						a, b := r.push(part, n == 2)
						if a != "" && answer != "" {
							t.Errorf("thought %q comes behind the answer %q", a, answer)
						}
						thought, answer = thought+a, answer+b
					}
					if thought != c.thought || answer != c.answer || c.text[:r.read] != c.read {
						t.Fatalf("cut at %d and %d: %q, %q, read %q", i, j, thought, answer, c.text[:r.read])
					}
				}
			}
		})
	}
}

func FuzzThoughts(f *testing.F) {
	f.Add("<think> a </think> b", uint8(3), true)
	f.Fuzz(func(t *testing.T, s string, step uint8, begun bool) {
		whole, pieces := (&mind{think, begun}).reader(), (&mind{think, begun}).reader()
		a, b := whole.push(s, true)
		var x, y string
		for n := int(step%7) + 1; s != ""; {
			n = min(n, len(s))
			p, q := pieces.push(s[:n], false)
			x, y, s = x+p, y+q, s[n:]
		}
		p, q := pieces.push("", true)
		if x+p != a || y+q != b {
			t.Fatalf("whole %q, %q; in pieces %q, %q", a, b, x+p, y+q)
		}
	})
}

// thinker has a model think up to the end of its first sentence: what small models do by themselves.
func thinker(t *testing.T) *Engine {
	e := open(t, config(t))
	x, err := newTemplate(e.model.source+"{{ '<think>' }}", "", "")
	if err != nil {
		t.Fatal(err)
	}
	x.thought = &thought{"<think>", "."}
	e.model.template = x
	return e
}

// TestThinksThenKeepsToForm: the thought is free, and the schema holds from its end on.
func TestThinksThenKeepsToForm(t *testing.T) {
	e := thinker(t)
	r := chat("Tell me about lorries.", 160)
	r.Sampling.N, r.Sampling.Temperature = 4, 0.8
	r.ResponseFormat = []byte(`{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{"wheels":{"type":"integer","minimum":2,"maximum":20}},"required":["wheels"],"additionalProperties":false}}}`)
	streamed := make([]engine.Choice, 4)
	c, err := e.Run(t.Context(), r, func(c engine.Chunk) {
		x := &streamed[c.Index]
		if c.Reasoning != "" && x.Text != "" {
			t.Errorf("answer %d thinks behind its text", c.Index)
		}
		x.Text, x.Reasoning, x.Finish = x.Text+c.Text, x.Reasoning+c.Reasoning, c.Finish
	})
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for i, x := range c.Choices {
		if y := streamed[i]; x.Text != y.Text || x.Reasoning != y.Reasoning || x.Finish != y.Finish {
			t.Errorf("streamed %+v, whole %+v", y, x)
		}
		if x.Finish != engine.FinishStop {
			continue // it thought for too long
		}
		whole++
		var v struct{ Wheels int }
		if err := json.Unmarshal([]byte(x.Text), &v); err != nil || v.Wheels < 2 || strings.Contains(x.Reasoning, ".") {
			t.Errorf("got %+v, %v", x, err)
		}
	}
	if u := c.Usage; whole == 0 || u.ReasoningTokens < 4 || u.ReasoningTokens >= u.CompletionTokens {
		t.Errorf("%d answers are whole: %+v", whole, c)
	}
}

func TestEffort(t *testing.T) {
	for name, c := range map[string]struct {
		source, level string
		want          string // what the template writes; "!" is a refusal
	}{
		"none asked":         {"{{ enable_thinking is defined }}", "", "False"},
		"a switch":           {"{% if enable_thinking %}on{% else %}off{% endif %}", "low", "on"},
		"a switch, off":      {"{% if enable_thinking %}on{% else %}off{% endif %}", "none", "off"},
		"another's switch":   {"{% if thinking is defined and thinking %}on{% else %}off{% endif %}", "high", "on"},
		"a level":            {"{{ reasoning_effort }}", "low", "low"},
		"it can't be told":   {"<think></think>", "low", "!"},
		"it can't be silent": {"<think></think>", "none", "!"},
		"it does not think":  {"hi", "none", "hi"},
		"nor can it":         {"thinking of you", "low", "!"},
	} {
		t.Run(name, func(t *testing.T) {
			x, err := newTemplate(c.source, "", "")
			if err != nil {
				t.Fatal(err)
			}
			same := func(s string) string { return s }
			got, err := x.render([]byte(`[{"role":"user","content":"hi"}]`), nil, same, c.level)
			if refused := errors.Is(err, engine.ErrInvalid); refused != (c.want == "!") {
				t.Fatal(err)
			} else if refused {
				return
			}
			if got != c.want || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
