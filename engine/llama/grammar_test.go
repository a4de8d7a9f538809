package llama

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lorry/engine"
	"lorry/engine/gbnf"
)

func chat(text string, tokens int) *engine.Request {
	messages, _ := json.Marshal([]map[string]string{{"role": "user", "content": text}})
	return &engine.Request{ID: "t", Kind: engine.Chat, Messages: messages, Sampling: engine.Sampling{N: 1, TopP: 1, Seed: 1, MaxTokens: tokens}}
}

const anyJSON = `{"type":"json_object"}`

func TestJSONObject(t *testing.T) {
	e := open(t, config(t))
	for seed := range uint64(4) {
		r := chat("Describe a lorry as a JSON object with the keys wheels and colour.", 300)
		r.ResponseFormat = json.RawMessage(anyJSON)
		if r.Sampling.Seed = seed; seed > 0 {
			r.Sampling.Temperature = 0.7
		}
		got := answer(t, e, r).Choices[0]
		var object map[string]any
		if err := json.Unmarshal([]byte(got.Text), &object); got.Finish == engine.FinishStop && err != nil {
			t.Errorf("seed %d: %v in %q", seed, err, got.Text)
		}
		t.Logf("%s: %q", got.Finish, got.Text)
	}
}

// schemas are of all that a grammar is made for. Answers to all but the open one must come to an end.
var schemas = map[string]string{
	"object": `{"type":"object","properties":{"name":{"type":"string","minLength":2,"maxLength":20},
		"wheels":{"type":"integer","minimum":3,"maximum":18},"colour":{"enum":["red","green","blue"]},
		"tags":{"type":"array","items":{"type":"string","maxLength":8},"minItems":1,"maxItems":3},
		"built":{"type":"string","format":"date"},"load":{"anyOf":[{"type":"number"},{"type":"null"}]}},
		"required":["name","wheels","colour","tags","built"],"additionalProperties":false}`,
	"numbers": `{"type":"array","prefixItems":[{"type":"number"},{"type":"number","minimum":-2.5,"exclusiveMaximum":100},{"type":"integer","maximum":-3}]}`,
	"nested":  `{"type":"array","minItems":1,"maxItems":3,"items":{"type":"array","maxItems":3,"items":{"type":"integer","minimum":-7,"maximum":12}}}`,
	"pattern": `{"type":"object","properties":{"id":{"type":"string","pattern":"^[A-Z]{2}-\\d{3,5}$"}},"required":["id"],"additionalProperties":false}`,
	"formats": `{"type":"array","prefixItems":[{"type":"string","format":"date-time"},{"type":"string","format":"uuid"},
		{"type":"string","format":"ipv4"},{"type":"string","format":"duration"}]}`,
	"union": `{"anyOf":[{"type":"object","properties":{"kind":{"const":"lorry"},"load":{"type":["integer","null"]}},"required":["kind","load"],"additionalProperties":false},
		{"type":"array","items":{"type":"boolean"},"maxItems":2},{"enum":["none",0,null]}]}`,
	"open": `{"type":"object","properties":{"a":{"type":"boolean"}},"required":["a"],"additionalProperties":{"type":"string","maxLength":9}}`,
}

// seedsVar asks TestJSONSchema and TestRandomDraws for more seeds of each schema: hundreds, where a grammar was changed.
const seedsVar = "LORRY_TEST_SEEDS"

// TestJSONSchema draws answers at temperature 1 with several seeds: all that are finished must fit.
func TestJSONSchema(t *testing.T) {
	seeds, err := strconv.Atoi(cmp.Or(os.Getenv(seedsVar), "3"))
	if err != nil {
		t.Fatalf("%s: %v", seedsVar, err)
	}
	e := open(t, quickly(t))
	for name, schema := range schemas {
		t.Run(name, func(t *testing.T) { drawAnswers(t, e, name, schema, seeds) })
	}
}

func drawAnswers(t *testing.T, e *Engine, name, schema string, seeds int) {
	v, err := gbnf.NewValidator([]byte(schema))
	if err != nil {
		t.Fatal(err)
	}
	got := atOnce(t, e, seeds, func(i int) *engine.Request {
		r := chat("Describe a lorry as JSON.", 300)
		if name != "open" {
			r.Sampling.MaxTokens = 800 // far more than the schema lets through, but for blanks
		}
		r.ResponseFormat = []byte(`{"type":"json_schema","json_schema":{"name":"lorry","strict":true,"schema":` + schema + `}}`)
		r.Sampling.Temperature, r.Sampling.Seed = 1, uint64(i)
		return r
	})
	for i, c := range got {
		answer := c.Choices[0]
		if answer.Finish != engine.FinishStop && name == "open" {
			continue
		}
		if err := v.Validate(answer.Text); err != nil || answer.Finish != engine.FinishStop {
			t.Errorf("seed %d: %v, %s: %q", i, err, answer.Finish, answer.Text)
		}
	}
	t.Logf("%s", got[0].Choices[0].Text)
}

// TestRandomDraws draws from numbers that no model gives, so that tokens come which a model would hardly take: halves of
// characters, escapes, digits without end. What is finished must fit all the same.
func TestRandomDraws(t *testing.T) {
	runtime.LockOSThread() // as the loop is: see threadTime
	defer runtime.UnlockOSThread()
	seeds, err := strconv.Atoi(cmp.Or(os.Getenv(seedsVar), "1"))
	if err != nil {
		t.Fatalf("%s: %v", seedsVar, err)
	}
	e := open(t, config(t))
	finished := 0
	for name, schema := range schemas {
		f, err := formOfSchema([]byte(schema), "response_format", "schema")
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(seeds) {
			text, whole := drawRandomly(t, e, f, seed)
			if !whole {
				continue
			}
			finished++
			if err := f.schema.Validate(text); err != nil {
				t.Errorf("%s, seed %d: %v: %q", name, seed, err, text)
			}
		}
	}
	if finished < len(schemas)*seeds/2 {
		t.Errorf("only %d answers came to an end", finished)
	}
}

// drawRandomly is an answer of at most 800 tokens; whole says that it came to its end.
func drawRandomly(t *testing.T, e *Engine, f *form, seed uint64) (text string, whole bool) {
	t.Helper()
	gs, err := e.shelf.copies(f, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer gs[0].free()
	v := e.model.vocab
	p := newSampler(engine.Sampling{Temperature: 1, TopP: 1, N: 1, Seed: seed}, 0, nil)
	p.grammar = gs[0]
	row := make([]float32, v.size)
	var b []byte
	for i := range 800 {
		for id := range row {
			row[id] = float32(8 * uniform(seed, uint64(i*v.size+id)))
		}
		id, ok := p.next(row, i, v.eog)
		switch {
		case !ok:
			t.Errorf("no token may follow %q: %v", b, p.exhausted())
			return "", false
		case v.end[id]:
			return string(b), true
		}
		b = append(b, v.pieces[id]...)
	}
	return "", false
}

// TestHalfCharacters begins characters: only what goes on in UTF-8 may follow, whatever llama.cpp would read into it.
func TestHalfCharacters(t *testing.T) {
	e := open(t, config(t))
	token := func(piece string) int32 {
		for id, p := range e.model.vocab.pieces {
			if string(p) == piece {
				return int32(id)
			}
		}
		t.Fatalf("the vocabulary has no token %q", piece)
		return 0
	}
	for name, c := range map[string]struct{ text, good, bad string }{
		"middle":         {"", "a", "\xbd"},
		"half":           {"\xe4\xbd", "\xa0", "a"},
		"surrogate":      {"\xed", "\x9f", "\xa0"},
		"too long":       {"\xe0", "\xa0", "\x80"},
		"beyond the end": {"\xf4", "\x8f", "\x90"},
		"whole":          {"\xe4\xbd\xa0", "a", "\xa0"},
	} {
		t.Run(name, func(t *testing.T) {
			gs, err := e.shelf.copies(&form{grammar: "root ::= [^x]{1,4}", param: "grammar"}, 1)
			if err != nil {
				t.Fatal(err)
			}
			g := gs[0]
			defer g.free()
			for i := range len(c.text) {
				g.accept(token(c.text[i : i+1]))
			}
			row := make([]float32, e.model.vocab.size)
			g.prune(row, -1, 1, &scratch{})
			if id := token(c.good); !g.allows(id) || row[id] != 0 {
				t.Errorf("%q may not follow %q", c.good, c.text)
			}
			if id := token(c.bad); g.allows(id) || row[id] == 0 {
				t.Errorf("%q may follow %q", c.bad, c.text)
			}
		})
	}
}

// TestDeadlyForms are what llama.cpp dies of, hangs on or ignores: each is refused, and the engine lives.
func TestDeadlyForms(t *testing.T) {
	e := open(t, config(t))
	deep := strings.Repeat(`{"items":`, 5000) + "{}" + strings.Repeat("}", 5000)
	for name, c := range map[string]struct{ grammar, schema, param string }{
		"never read to its end": {`root ::= "a"{3,1}`, "", "grammar"},
		"deep":                  {"root ::= " + strings.Repeat("(", 20000) + `"a"` + strings.Repeat(")", 20000), "", "grammar"},
		"NUL":                   {"root ::= \"a\x00\"", "", "grammar"},
		"no root":               {`a ::= "a"`, "", "grammar"},
		"left recursion":        {`root ::= root "a" | "a"`, "", "grammar"},
		"no rules":              {" ", "", "grammar"},
		"deep schema":           {"", deep, "response_format.json_schema.schema"},
		"long repetition":       {"", `{"type":"array","items":{"type":"string","minLength":900},"minItems":90000}`, "response_format.json_schema.schema"},
		"file":                  {"", `{"$ref":"file:///etc/passwd"}`, "response_format.json_schema.schema"},
		"unknown keyword":       {"", `{"type":"string","minlength":5}`, "response_format.json_schema.schema"},
	} {
		t.Run(name, func(t *testing.T) {
			r := chat("Hello.", 10)
			if r.Grammar = c.grammar; c.schema != "" {
				r.ResponseFormat = []byte(`{"type":"json_schema","json_schema":{"name":"x","schema":` + c.schema + `}}`)
			}
			_, err := e.Run(t.Context(), r, nil)
			got, ok := errors.AsType[*engine.Error](err)
			if !ok || got.Class != engine.Invalid || got.Param != c.param {
				t.Fatalf("got %v, want an error about %s", err, c.param)
			}
			if name == "left recursion" && !strings.Contains(got.Message, "1:") {
				t.Errorf("%q does not say where", got.Message)
			}
		})
	}
	answer(t, e, ask("hello", 1))
}

// TestMisfit has an answer that its grammar takes and its schema does not.
func TestMisfit(t *testing.T) {
	e := open(t, config(t))
	r := chat("Hello.", 10)
	r.ResponseFormat = []byte(`{"type":"json_schema","json_schema":{"schema":{"oneOf":[{"const":7},{"type":"integer","minimum":7,"maximum":7}]}}}`)
	_, err := e.Run(t.Context(), r, nil)
	if got, ok := errors.AsType[*engine.Error](err); !ok || got.Class != engine.Internal || got.Code != codeSchemaMismatch {
		t.Errorf("got %v", err)
	}
}

// TestGrammars runs grammars with all that may cut or multiply an answer.
func TestGrammars(t *testing.T) {
	e := open(t, config(t))
	const words = `root ::= [a-z]{1,9} (" " [a-z]{1,9}){4} "."` // bounded, for there are models that like long ones
	for name, c := range map[string]struct {
		grammar string
		change  func(*engine.Sampling)
		want    string // a regular expression for each answer
		finish  engine.Finish
	}{
		"choice":      {`root ::= "yes" | "no"`, func(s *engine.Sampling) { s.N, s.Temperature = 8, 2 }, `^(yes|no)$`, engine.FinishStop},
		"other text":  {`root ::= "Zürich – " [A-Z]{3}`, nil, `^Zürich – [A-Z]{3}$`, engine.FinishStop},
		"two answers": {words, func(s *engine.Sampling) { s.N, s.Temperature = 2, 1 }, `^[a-z]+( [a-z]+){4}\.$`, engine.FinishStop},
		"stop":        {words, func(s *engine.Sampling) { s.Stop = []string{" "} }, `^[a-z]+$`, engine.FinishStop},
		"length":      {words, func(s *engine.Sampling) { s.MaxTokens = 3 }, `^[a-z ]+$`, engine.FinishLength},
		"penalties": {words, func(s *engine.Sampling) { s.Temperature, s.FrequencyPenalty, s.RepeatPenalty = 0.5, 0.1, 1.01 },
			`^[a-z]+( [a-z]+){4}\.$`, engine.FinishStop},
		"narrow": {words, func(s *engine.Sampling) { s.Temperature, s.TopK, s.TopP, s.MinP = 1, 5, 0.5, 0.1 },
			`^[a-z]+( [a-z]+){4}\.$`, engine.FinishStop},
	} {
		t.Run(name, func(t *testing.T) {
			r := chat("Tell me something.", 100)
			r.Grammar = c.grammar
			if c.change != nil {
				c.change(&r.Sampling)
			}
			for i, got := range answer(t, e, r).Choices {
				if !regexp.MustCompile(c.want).MatchString(got.Text) || got.Finish != c.finish {
					t.Errorf("answer %d: got %q, %s", i, got.Text, got.Finish)
				}
			}
		})
	}
	if s := e.Stats(); s.CellsInUse != 0 || s.Outstanding != 0 {
		t.Errorf("something is held: %+v", s)
	}
}

func TestDeadEnds(t *testing.T) {
	e := open(t, config(t))
	for name, c := range map[string]struct {
		change func(*engine.Request)
		param  string
	}{
		"no way on": {func(r *engine.Request) { r.Grammar = `root ::= "ab" [^\x00-\U0010FFFF]` }, "grammar"},
		"a million readings": {func(r *engine.Request) {
			r.Grammar = "root ::= a \"z\"\na ::= b b b b\nb ::= c c c c\nc ::= d d d d\nd ::= f f f f\nf ::= \"a\"* | \"b\"? | \"a\" \"b\""
			r.Sampling.LogitBias = map[int32]float64{e.model.vocab.tokenize("aaaa", false)[0]: 90}
		}, "grammar"},
		"banned": {func(r *engine.Request) {
			r.Grammar, r.Sampling.LogitBias = `root ::= [0-9]`, map[int32]float64{}
			for d := range 10 {
				r.Sampling.LogitBias[e.model.vocab.tokenize(fmt.Sprint(d), false)[0]] = -100
			}
		}, "logit_bias"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, temperature := range []float64{0, 1} {
				r := chat("Tell me something.", 20)
				r.Sampling.Temperature = temperature
				c.change(r)
				_, err := e.Run(t.Context(), r, nil)
				if got, ok := errors.AsType[*engine.Error](err); !ok || got.Class != engine.Invalid || got.Param != c.param {
					t.Errorf("got %v, want an error about %s", err, c.param)
				}
			}
		})
	}
	answer(t, e, ask("hello", 1)) // it lives
}

// TestGrammarPreempted gives answers too few cells, so that some are computed anew from the middle of their grammar.
func TestGrammarPreempted(t *testing.T) {
	small := quickly(t)
	small.Context = 512
	e := open(t, small)
	got := atOnce(t, e, 5, func(i int) *engine.Request {
		r := ask(prompts[i], 400)
		r.Grammar = `root ::= ([0-9]{3} " "){40} "end"`
		r.Sampling.Temperature = 1
		return r
	})
	form := regexp.MustCompile(`^([0-9]{3} ){40}end$`)
	for i, c := range got {
		if !form.MatchString(c.Choices[0].Text) {
			t.Errorf("request %d: got %q, %s", i, c.Choices[0].Text, c.Choices[0].Finish)
		}
	}
	if s := e.Stats(); s.Preempted == 0 {
		t.Errorf("nothing was preempted: %+v", s)
	}
}

// TestPrune wants tokens to be judged together as they are alone, and those outside of the band to stay.
func TestPrune(t *testing.T) {
	e := open(t, config(t))
	gs, err := e.shelf.copies(&form{grammar: `root ::= "Q" [a-z]+`, param: "grammar"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	g := gs[0]
	defer g.free()
	runtime.LockOSThread() // as the loop is: see threadTime
	defer runtime.UnlockOSThread()
	g.begun = threadTime()
	row := make([]float32, e.model.vocab.size)
	for i := range row {
		row[i] = float32(20 * uniform(7, uint64(i)))
	}
	pruned := slices.Clone(row)
	g.prune(pruned, 5, 15, &scratch{})
	left := 0
	for id, x := range row {
		want := x
		if x > 5 && x <= 15 && !g.glance(int32(id)) {
			want = negInf
		}
		if pruned[id] != want {
			t.Fatalf("token %d of %v became %v, want %v", id, x, pruned[id], want)
		}
		if x > 5 && x <= 15 && want == x {
			left++
		}
	}
	if left == 0 {
		t.Error("no token was left")
	}
}

// TestSecondDraw wants the chances after a refusal to be those of the tokens left, whatever was refused.
func TestSecondDraw(t *testing.T) {
	runtime.LockOSThread() // as the loop is: see threadTime
	defer runtime.UnlockOSThread()
	e := open(t, config(t))
	v := e.model.vocab
	row := slices.Repeat([]float32{negInf}, v.size)
	a, b, c := v.tokenize("1", false)[0], v.tokenize("2", false)[0], v.tokenize("x", false)[0]
	row[a], row[b], row[c] = 0, 0, 0.7
	p := newSampler(engine.Sampling{Temperature: 1, TopP: 1, N: 1}, 0, nil)
	count := map[int32]int{}
	const n = 2000
	for i := range n {
		gs, err := e.shelf.copies(&form{grammar: `root ::= [12]`, param: "grammar"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		p.grammar = gs[0]
		id, _ := p.next(row, i, v.eog)
		count[id]++
		gs[0].free()
	}
	if count[c] != 0 || count[a] < 9*n/20 || count[b] < 9*n/20 {
		t.Errorf("two equal tokens were drawn %d and %d times of %d, a forbidden one %d times", count[a], count[b], n, count[c])
	}
}

// TestGrammarCancelled ends requests at any moment: with the race detector and the leak test it shows who frees.
func TestGrammarCancelled(t *testing.T) {
	e := open(t, config(t))
	for i := range 8 {
		ctx, cancel := context.WithCancel(t.Context())
		r := chat("Tell me something.", 200)
		r.Grammar, r.Sampling.N = `root ::= [a-z ]+`, 2
		chunks := 0
		_, err := e.Run(ctx, r, func(engine.Chunk) {
			if chunks++; chunks > i {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}

func TestShelf(t *testing.T) {
	e := open(t, config(t))
	for i := range 2 * maxShelf {
		f := &form{grammar: fmt.Sprintf(`root ::= "%d"`, i), param: "grammar"}
		gs, err := e.shelf.copies(f, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range gs {
			g.free()
			g.free()
		}
	}
	if n := e.shelf.used.Len(); n != maxShelf || len(e.shelf.index) != n {
		t.Errorf("%d grammars are kept", n)
	}
	if _, err := e.shelf.copies(&form{grammar: `root ::= (`, param: "grammar"}, 1); !errors.Is(err, engine.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestFormRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*engine.Request)
		param  string
	}{
		"two forms":        {func(r *engine.Request) { r.Grammar, r.ResponseFormat = `root ::= "a"`, []byte(anyJSON) }, "grammar"},
		"no end":           {func(r *engine.Request) { r.ResponseFormat, r.Sampling.IgnoreEOS = []byte(anyJSON), true }, "ignore_eos"},
		"late end":         {func(r *engine.Request) { r.ResponseFormat, r.Sampling.MinTokens = []byte(anyJSON), 9 }, "min_tokens"},
		"unknown type":     {func(r *engine.Request) { r.ResponseFormat = []byte(`{"type":"xml"}`) }, "response_format"},
		"no object":        {func(r *engine.Request) { r.ResponseFormat = []byte(`7`) }, "response_format"},
		"unknown field":    {func(r *engine.Request) { r.ResponseFormat = []byte(`{"type":"json_object","x":1}`) }, "response_format"},
		"misplaced schema": {func(r *engine.Request) { r.ResponseFormat = []byte(`{"type":"json_object","json_schema":{}}`) }, "response_format.json_schema"},
		"no schema": {func(r *engine.Request) {
			r.ResponseFormat = []byte(`{"type":"json_schema","json_schema":{"name":"x"}}`)
		}, "response_format.json_schema.schema"},
		"empty form": {func(r *engine.Request) { r.ResponseFormat = []byte(`{"type":"json_schema"}`) }, "response_format.json_schema"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ask("hello", 4)
			c.change(r)
			_, err := formOf(r)
			if got, ok := errors.AsType[*engine.Error](err); !ok || got.Class != engine.Invalid || got.Param != c.param {
				t.Errorf("got %v, want an error about %s", err, c.param)
			}
		})
	}
}

// BenchmarkStructured compares answers of one length, alone and eight at once, with and without a form.
func BenchmarkStructured(b *testing.B) {
	const schema = `{"type":"array","minItems":40,"items":{"type":"object","required":["name","wheels"],"additionalProperties":false,
		"properties":{"name":{"type":"string","maxLength":30},"wheels":{"type":"integer","minimum":2,"maximum":20}}}}`
	forms := map[string]func(*engine.Request){
		"free": func(r *engine.Request) { r.Sampling.IgnoreEOS = true },
		"schema": func(r *engine.Request) {
			r.ResponseFormat = []byte(`{"type":"json_schema","json_schema":{"schema":` + schema + `}}`)
		},
		"json":   func(r *engine.Request) { r.ResponseFormat = []byte(anyJSON) },
		"digits": func(r *engine.Request) { r.Grammar = `root ::= ([0-9]{1,3} " "){99}` }, // refuses often
	}
	for name, form := range forms {
		for _, at := range []struct {
			n           int
			temperature float64
		}{{1, 0}, {1, 1}, {8, 1}} {
			b.Run(fmt.Sprintf("%s/n=%d/t=%v", name, at.n, at.temperature), func(b *testing.B) {
				e := open(b, config(b))
				tokens := 0
				for b.Loop() {
					r := chat("List lorries as JSON.", 64)
					r.Sampling.Temperature, r.Sampling.N = at.temperature, at.n
					form(r)
					c, err := e.Run(b.Context(), r, nil)
					if err != nil {
						b.Fatal(err)
					}
					tokens += c.Usage.CompletionTokens
				}
				b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
			})
		}
	}
}
