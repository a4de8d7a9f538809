package enginetest

import (
	"math"
	"testing"

	"lorry/engine"
)

func (s *suite) vectors(t *testing.T, texts ...string) []engine.Vector {
	t.Helper()
	r := &engine.Request{ID: "embed", Kind: engine.Embed, Model: s.model.Model, Scope: "enginetest"}
	for _, text := range texts {
		r.Inputs = append(r.Inputs, engine.Input{Text: text})
	}
	c := s.run(t, r)
	if len(c.Embeddings) != len(texts) {
		t.Fatalf("got %d vectors for %d texts", len(c.Embeddings), len(texts))
	}
	if c.Usage.PromptTokens < len(texts) || c.Usage.CompletionTokens != 0 {
		t.Errorf("counted %+v for %d texts", c.Usage, len(texts))
	}
	return c.Embeddings
}

// testEmbeddings wants vectors of one length, each of size 1; a text's alone is its own in a batch, as nearly as
// rounding allows.
func testEmbeddings(t *testing.T, s *suite) {
	all := s.vectors(t, story, "apple", story)
	for i, v := range all {
		if len(v) != len(all[0]) || math.Abs(dot(v, v)-1) > 1e-4 {
			t.Errorf("vector %d has %d numbers and the size %v", i, len(v), math.Sqrt(dot(v, v)))
		}
	}
	const same = 0.998
	if dot(all[0], all[2]) < same || dot(all[0], s.vectors(t, story)[0]) < same {
		t.Error("one text has several vectors")
	}
	if dot(all[0], all[1]) > same {
		t.Error("two texts have one vector")
	}
}

func dot(a, b engine.Vector) (sum float64) {
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

// testTokens wants a text back from its tokens, or a refusal by name where an engine can't know them.
func testTokens(t *testing.T, s *suite) {
	const say = "A small red lorry, 日本 🚚"
	r := &engine.Request{ID: "tokens", Kind: engine.Tokenize, Model: s.model.Model, Prompt: say}
	c, err := s.Run(patience(t, s.opts), r, nil)
	if err != nil && engine.AsError(err).Code == engine.CodeUnsupported {
		t.Logf("no tokens here: %v", err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Tokens) < 4 {
		t.Fatalf("got the tokens %v", c.Tokens)
	}
	r = &engine.Request{ID: "text", Kind: engine.Detokenize, Model: s.model.Model, Tokens: c.Tokens}
	if got := s.run(t, r).Choices[0].Text; got != say {
		t.Errorf("%q came back as %q", say, got)
	}
}

// testCount wants a prompt's count to be what a run of it counts, or a refusal by name where an engine can't know it.
func testCount(t *testing.T, s *suite) {
	r := s.chat("What is a lorry, and what is it good for?", 2)
	ran := s.run(t, r)
	r.Kind = engine.Count
	c, err := s.Run(patience(t, s.opts), r, nil)
	switch {
	case err != nil && engine.AsError(err).Code == engine.CodeUnsupported:
		t.Logf("no counts here: %v", err)
	case err != nil:
		t.Fatal(err)
	case c.Usage.PromptTokens != ran.Usage.PromptTokens || c.Usage.CompletionTokens != 0:
		t.Errorf("counted %+v, a run counts %+v", c.Usage, ran.Usage)
	}
}
