package llama

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"lorry/engine"
)

// differ compares answers, but for what they cost.
func differ(a, b *engine.Completion) string {
	return cmp.Diff(a, b, cmpopts.IgnoreFields(engine.Usage{}, "EngineSeconds", "FirstTokenSeconds", "ResumedTokens", "CachedTokens"))
}

// savedAt is what a Save would have held after so many tokens of each answer.
func savedAt(u *run, tokens int) *engine.Resume {
	r := u.resume()
	for i := range r.Choices {
		c := &r.Choices[i]
		c.Tokens = c.Tokens[:min(tokens, len(c.Tokens))]
		c.Logprobs = c.Logprobs[:min(tokens, len(c.Logprobs))]
	}
	return r
}

// bytewise is a vocabulary of which each token is one byte, or two of them.
func bytewise() *vocab {
	v := &vocab{size: 100, end: map[int32]bool{99: true}, eog: []int32{99}}
	text := strings.Repeat("é日🙂ab", 40)
	for i := range 100 {
		n := 1 + i%2
		v.pieces, text = append(v.pieces, []byte(text[:n])), text[n:]
	}
	return v
}

func TestLoopResumes(t *testing.T) {
	for name, c := range map[string]struct {
		vocab    *vocab
		sampling engine.Sampling
	}{
		"greedy":            {numbers(), engine.Sampling{}},
		"drawn":             {numbers(), engine.Sampling{Temperature: 1, TopP: 0.9, Seed: 5}},
		"penalties":         {numbers(), engine.Sampling{Temperature: 1, Seed: 5, FrequencyPenalty: 0.5, RepeatPenalty: 1.2}},
		"several":           {numbers(), engine.Sampling{Temperature: 1, Seed: 8, N: 4}},
		"stop string":       {numbers(), engine.Sampling{Stop: []string{"20 21 22"}}},
		"stop that is none": {numbers(), engine.Sampling{Stop: []string{"20 21 23"}}},
		"stops, several":    {numbers(), engine.Sampling{Temperature: 0.7, Seed: 3, N: 5, Stop: []string{"4", "6 "}}},
		"log-probabilities": {numbers(), engine.Sampling{Logprobs: true, TopLogprobs: 3, Stop: []string{"20 21 22"}}},
		"characters":        {bytewise(), engine.Sampling{}},
		"characters, drawn": {bytewise(), engine.Sampling{Temperature: 1, Seed: 11, N: 3, Logprobs: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c.sampling.N, c.sampling.MaxTokens = max(1, c.sampling.N), 30
			w := startLoop(t, newMachine(t, 2000, nil), 4, 2000, 16)
			w.vocab = c.vocab
			whole, want := w.answer(t, c.sampling, nil)
			for n := range 30 {
				before := w.read()
				from := savedAt(whole, n)
				_, got := w.answer(t, c.sampling, from)
				if d := differ(want, got); d != "" {
					t.Fatalf("after %d tokens (-whole +resumed):\n%s", n, d)
				}
				s := w.read()
				if drawn := s.Drawn - before.Drawn; drawn != want.Usage.CompletionTokens-from.Tokens() || got.Usage.ResumedTokens != from.Tokens() {
					t.Errorf("after %d tokens: drew %d of %d, %d were there", n, drawn, want.Usage.CompletionTokens, got.Usage.ResumedTokens)
				}
			}
		})
	}
}

// answer runs a request from where an earlier run stood, streamed: the pieces must make the answer.
func (w *world) answer(t *testing.T, s engine.Sampling, from *engine.Resume) (*run, *engine.Completion) {
	t.Helper()
	u := newRun(t.Context(), &engine.Request{ID: "r", Sampling: s}, []int32{7, 8, 9}, 1000, true)
	if from != nil && !u.replay(overWire(t, from), w.vocab) {
		t.Fatalf("%+v is no beginning", from)
	}
	if u.open == 0 {
		u.outbox.end(nil)
	} else if err := w.submit(u); err != nil {
		t.Fatal(err)
	}
	texts, logs := make([]string, s.N), make([]int, s.N)
	c, err := u.wait(func(c engine.Chunk) { texts[c.Index] += c.Text; logs[c.Index] += len(c.Logprobs) })
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range c.Choices {
		if texts[i] != x.Text || logs[i] != len(x.Logprobs) {
			t.Errorf("answer %d: streamed %q and %d log-probabilities, the whole is %q and %d", i, texts[i], logs[i], x.Text, len(x.Logprobs))
		}
	}
	return u, c
}

// overWire is what another process reads.
func overWire(t *testing.T, r *engine.Resume) *engine.Resume {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	out := new(engine.Resume)
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLoopHandsOver ends a run half-way: no token that was drawn is missing from the last Save.
func TestLoopHandsOver(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	first := make(chan struct{})
	w := startLoop(t, newMachine(t, 2000, func(call int, _ []row) int32 {
		switch call {
		case 60:
			<-first
		case 100:
			cancel(engine.ErrHandOver)
		}
		return 0
	}), 4, 2000, 16)
	var saves []int
	var last *engine.Resume
	u := counting(ctx, "long", 900, 2, 1, 2, 3)
	u.request.Save = func(r *engine.Resume) {
		if saves, last = append(saves, r.Tokens()), r; len(saves) == 1 {
			close(first)
		}
	}
	if err := w.submit(u); err != nil {
		t.Fatal(err)
	}
	if _, err := u.wait(nil); !errors.Is(err, engine.ErrHandOver) {
		t.Fatalf("got %v", err)
	}
	s := w.read()
	if last.Tokens() != s.Drawn || last.Usage.CompletionTokens != s.Drawn || len(saves) < 2 || saves[0] >= 120 || s.Outstanding != 0 {
		t.Errorf("saved %v tokens of %d drawn", saves, s.Drawn)
	}
	next := counting(t.Context(), "long", 900, 2, 1, 2, 3)
	if !next.replay(last, w.vocab) {
		t.Fatal("it can't go on")
	}
	if err := w.submit(next); err != nil {
		t.Fatal(err)
	}
	c, err := next.wait(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range c.Choices {
		if x.Text != after(3, 900) {
			t.Errorf("answer %d is %q", i, x.Text)
		}
	}
	if n := w.read(); n.Drawn != 1800 || n.Resumed != s.Drawn {
		t.Errorf("drew %d tokens and resumed %d, want 1800 and %d", n.Drawn, n.Resumed, s.Drawn)
	}
}

// A Resume that can't be this answer's beginning is left out.
func TestResumesNothingForeign(t *testing.T) {
	v := numbers()
	for name, r := range map[string]*engine.Resume{
		"answers":           {Choices: make([]engine.Partial, 2)},
		"no answers":        {},
		"tokens":            {Choices: []engine.Partial{{Tokens: []int32{1, 100}}}},
		"negative":          {Choices: []engine.Partial{{Tokens: []int32{-1}}}},
		"too long":          {Choices: []engine.Partial{{Tokens: make([]int32, 31)}}},
		"log-probabilities": {Choices: []engine.Partial{{Tokens: []int32{1, 2}, Logprobs: make([]engine.Logprob, 1)}}},
	} {
		u := newRun(t.Context(), &engine.Request{Sampling: engine.Sampling{N: 1, MaxTokens: 30, Logprobs: true}}, []int32{7}, 1000, true)
		for i := range r.Choices {
			if c := &r.Choices[i]; len(c.Tokens) == 31 {
				c.Logprobs = make([]engine.Logprob, 31)
			}
		}
		if u.replay(r, v) {
			t.Errorf("%s: it goes on", name)
		}
	}
}

// TestResumes hands over real answers after each of some tokens. What they are to be is so clear, or so narrowly held by
// a grammar, that rounding does not matter.
func TestResumes(t *testing.T) {
	e := open(t, config(t))
	apples := strings.TrimSpace(strings.Repeat("apple, ", 24))
	request := map[string]func() *engine.Request{
		"text": func() *engine.Request { return ask(apples, 60) },
		"echo": func() *engine.Request { r := ask(apples, 40); r.Echo = true; return r },
		"seed": func() *engine.Request {
			r := ask(apples, 40)
			r.Sampling.Temperature, r.Sampling.Seed, r.Sampling.TopK = 0.2, 5, 4
			return r
		},
		"log-probabilities": func() *engine.Request { r := ask(apples, 40); r.Sampling.Logprobs = true; return r },
		"stop": func() *engine.Request {
			r := ask(apples, 60)
			r.Sampling.Stop = []string{"ple, apple, app\u2603"}
			return r
		},
		"grammar": func() *engine.Request {
			r := ask("The numbers:", 200)
			r.Grammar = `root ::= "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and the end 🙂🚚日本語."`
			return r
		},
		"forced call": func() *engine.Request {
			return &engine.Request{ID: "t", Kind: engine.Chat, Messages: json.RawMessage(`[{"role":"user","content":"What is the weather?"}]`),
				Tools:      json.RawMessage(`[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"town":{"const":"Reykjavík"},"days":{"const":[1,2,3,4,5,6,7,8,9]}},"required":["town","days"],"additionalProperties":false}}}]`),
				ToolChoice: json.RawMessage(`"required"`), Sampling: engine.Sampling{N: 1, TopP: 1, MaxTokens: 200}}
		},
	}
	for name, make := range request {
		t.Run(name, func(t *testing.T) {
			saved := map[int]*engine.Resume{}
			want := e.resumable(t, make(), saved)
			if len(saved) == 0 {
				t.Fatalf("nothing was saved of %d tokens", want.Usage.CompletionTokens)
			}
			for n, from := range saved {
				r := make()
				r.Resume = from
				before := e.Stats()
				got := e.resumable(t, r, nil)
				if got.Choices[0].Text != want.Choices[0].Text || got.Choices[0].Finish != want.Choices[0].Finish ||
					string(got.Choices[0].ToolCalls) != string(want.Choices[0].ToolCalls) || len(got.Choices[0].Logprobs) != len(want.Choices[0].Logprobs) {
					t.Errorf("after %d tokens: got %+v\nwant %+v", n, got.Choices[0], want.Choices[0])
				}
				if s := e.Stats(); s.Drawn-before.Drawn+n != got.Usage.CompletionTokens || got.Usage.ResumedTokens != n {
					t.Errorf("after %d tokens: drew %d of %d", n, s.Drawn-before.Drawn, got.Usage.CompletionTokens)
				}
			}
		})
	}
}

// resumable runs a request with pieces, which must make the answer, and keeps what it saves.
func (e *Engine) resumable(t *testing.T, r *engine.Request, saved map[int]*engine.Resume) *engine.Completion {
	t.Helper()
	r.Save = func(r *engine.Resume) {
		if saved != nil {
			saved[r.Tokens()] = overWire(t, r)
		}
	}
	var text strings.Builder
	c, err := e.Run(t.Context(), r, func(c engine.Chunk) { text.WriteString(c.Text) })
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != c.Choices[0].Text {
		t.Errorf("streamed %q, the whole is %q", text.String(), c.Choices[0].Text)
	}
	return c
}

// A beginning that the grammar forbids is left out, whatever llama.cpp would do with it.
func TestResumeAgainstGrammar(t *testing.T) {
	e := open(t, config(t))
	r := ask("Yes or no?", 20)
	r.Grammar = `root ::= "yes" | "no"`
	r.Resume = &engine.Resume{Choices: []engine.Partial{{Tokens: []int32{100, 200, 300}}}}
	c := answer(t, e, r)
	if got := c.Choices[0].Text; got != "yes" && got != "no" || c.Usage.ResumedTokens != 0 {
		t.Errorf("got %q after %d tokens", got, c.Usage.ResumedTokens)
	}
}

// FuzzResume takes any beginning of an answer: what is not refused is gone on from.
func FuzzResume(f *testing.F) {
	f.Add([]byte(`{"choices":[{"tokens":[1,2,3]}]}`), "2 3", uint8(1))
	f.Add([]byte(`{"choices":[{"tokens":[99]},{"logprobs":[{"token":"x"}]}],"usage":{"completion_tokens":-1}}`), "", uint8(2))
	f.Fuzz(func(t *testing.T, raw []byte, stop string, n uint8) {
		r := new(engine.Resume)
		if json.Unmarshal(raw, r) != nil {
			return
		}
		s := engine.Sampling{N: 1 + int(n%4), MaxTokens: 10, FrequencyPenalty: 1}
		if stop != "" {
			s.Stop = []string{stop}
		}
		u := newRun(t.Context(), &engine.Request{Sampling: s}, []int32{7}, 1000, true)
		if !u.replay(r, bytewise()) {
			return
		}
		if u.usage.CompletionTokens != r.Tokens() || u.open != len(u.unfinished()) {
			t.Errorf("counted %+v, %d open", u.usage, u.open)
		}
		if u.resume().Tokens() != r.Tokens() {
			t.Errorf("%d tokens are there of %d", u.resume().Tokens(), r.Tokens())
		}
	})
}
