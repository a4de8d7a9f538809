package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lorry/engine"
)

// repeat is a prompt after which the word is likely to come again. The commas matter: a small model can't tell equal
// neighbours apart.
func repeat(word string, times int) string {
	return strings.TrimSpace(strings.Repeat(word+", ", times))
}

const story = "Once upon a time there was a small red lorry that carried letters over the hills every day"

func testInfo(t *testing.T, s *suite) {
	info, err := s.Info(patience(t, s.opts))
	if err != nil {
		t.Fatal(err)
	}
	if info.Slots < 1 || info.Device == "" || info.Version == "" {
		t.Errorf("info is incomplete: %+v", info)
	}
	for _, m := range info.Models {
		if m.Name == "" || len(m.Base) != 64 || strings.Trim(m.Base, "0123456789abcdef") != "" {
			t.Errorf("model has no name or no digest: %+v", m)
		}
	}
}

func testChat(t *testing.T, s *suite) {
	if c := s.run(t, s.chat(story, 8)); c.Choices[0].Text == "" {
		t.Errorf("the answer is empty: %+v", c)
	}
}

func testText(t *testing.T, s *suite) {
	c := s.run(t, s.text(repeat("apple", 16), 8))
	if !strings.Contains(c.Choices[0].Text, "apple") {
		t.Errorf("got %q after many apples", c.Choices[0].Text)
	}
}

func testStream(t *testing.T, s *suite) {
	for name, r := range map[string]*engine.Request{"chat": s.chat(story, 12), "text": s.text(story, 12)} {
		t.Run(name, func(t *testing.T) {
			st := s.stream(t, r)
			if got := st.pieces[0]; got < 2 {
				t.Errorf("the answer came in %d pieces, want several", got)
			}
			if again := s.run(t, r); again.Choices[0].Text != st.done.Choices[0].Text {
				t.Errorf("streamed %q, whole %q", st.done.Choices[0].Text, again.Choices[0].Text)
			}
		})
	}
}

func testUnicode(t *testing.T, s *suite) {
	prompt := repeat("héllo 日本語 🙂🚚", 6)
	s.stream(t, s.text(prompt, 24))
}

// testGreedy asks for what the model is sure of: a prompt that is found in the cache moves numbers by rounding.
func testGreedy(t *testing.T, s *suite) {
	r := s.text(repeat("apple", 16), 12)
	a, b := s.run(t, r), s.run(t, r)
	if a.Choices[0].Text != b.Choices[0].Text {
		t.Errorf("two greedy answers differ: %q and %q", a.Choices[0].Text, b.Choices[0].Text)
	}
}

// testSeed draws with several seeds, each twice. A draw that falls between two tokens may go either way by rounding,
// but not most of them.
func testSeed(t *testing.T, s *suite) {
	const seeds = 8
	same := 0
	for seed := range uint64(seeds) {
		r := s.text(story, 6)
		r.Sampling.Temperature, r.Sampling.Seed = 1, 42+seed
		a, b := s.run(t, r).Choices[0].Text, s.run(t, r).Choices[0].Text
		if a == b {
			same++
		} else {
			t.Logf("two answers of the seed %d differ: %q and %q", seed, a, b)
		}
	}
	if same < seeds-2 {
		t.Errorf("only %d of %d seeds gave the same answer twice", same, seeds)
	}
}

func testLength(t *testing.T, s *suite) {
	c := s.run(t, s.text(repeat("apple", 16), 3))
	if got := c.Choices[0].Finish; got != engine.FinishLength {
		t.Errorf("ended with %q, want length", got)
	}
	if got := c.Usage.CompletionTokens; got != 3 {
		t.Errorf("counted %d tokens, want 3", got)
	}
}

// testStop cuts an answer that is known at a piece from its middle.
func testStop(t *testing.T, s *suite) {
	r := s.text(repeat("red lorry, yellow lorry,", 5), 12)
	whole := s.run(t, r).Choices[0].Text
	runes := []rune(whole)
	if len(runes) < 6 {
		t.Fatalf("the answer %q is too short to be cut", whole)
	}
	stop := string(runes[len(runes)/2 : len(runes)/2+3])
	want := whole[:strings.Index(whole, stop)]
	r.Sampling.Stop = []string{"never said \u2603", stop}
	got := s.stream(t, r).done.Choices[0]
	if got.Text != want || got.Finish != engine.FinishStop {
		t.Errorf("stopped at %q: got %q (%s), want %q (stop)", stop, got.Text, got.Finish, want)
	}
}

func testChoices(t *testing.T, s *suite) {
	r := s.text(story, 6)
	r.Sampling.N, r.Sampling.Temperature, r.Sampling.Seed = 3, 1, 7
	st := s.stream(t, r)
	for i, c := range st.done.Choices {
		if c.Text == "" {
			t.Errorf("choice %d is empty", i)
		}
	}
}

func testEcho(t *testing.T, s *suite) {
	r := s.text(story, 4)
	r.Echo = true
	if got := s.stream(t, r).done.Choices[0].Text; !strings.HasPrefix(got, story) || len(got) == len(story) {
		t.Errorf("got %q, want the prompt and more", got)
	}
}

func testLogprobs(t *testing.T, s *suite) {
	for _, r := range []*engine.Request{s.text(repeat("apple", 16), 4), s.chat(story, 4)} {
		for _, top := range []int{0, 1} {
			r.Sampling.Logprobs, r.Sampling.TopLogprobs = true, top
			checkLogprobs(t, s.stream(t, r).done.Choices[0].Logprobs, top)
		}
	}
}

func checkLogprobs(t *testing.T, got []engine.Logprob, top int) {
	t.Helper()
	if len(got) == 0 {
		t.Error("there are no log-probabilities")
	}
	for _, l := range got {
		if l.Logprob > 0 || len(l.Top) != top {
			t.Errorf("got %+v, want a log-probability and the %d likeliest tokens", l, top)
		}
	}
}

func testUsage(t *testing.T, s *suite) {
	short, long := s.run(t, s.chat("apple", 3)), s.run(t, s.chat(repeat("apple", 20), 3))
	if short.Usage.PromptTokens < 1 || long.Usage.PromptTokens < short.Usage.PromptTokens+10 {
		t.Errorf("counted %d tokens in 1 word and %d in 20", short.Usage.PromptTokens, long.Usage.PromptTokens)
	}
	if got := long.Usage.CompletionTokens; got < 1 || got > 3 {
		t.Errorf("counted %d tokens in an answer of at most 3", got)
	}
	two := s.text(repeat("apple", 16), 3)
	two.Sampling.N = 2
	if got := s.run(t, two).Usage.CompletionTokens; got != 6 {
		t.Errorf("counted %d tokens in two answers of 3", got)
	}
}

// words are likely to be repeated and never mistaken for each other.
var words = strings.Fields("apple river window seven music horse garden paper silver bread mountain doctor summer letter bridge coffee")

// testConcurrency runs 16 requests at once. Each must go on with its own word and no other's, and hear once that it began
// where some may have waited.
func testConcurrency(t *testing.T, s *suite) {
	ctx := patience(t, s.opts)
	var wg sync.WaitGroup
	for _, word := range words {
		wg.Go(func() {
			r := s.text(repeat(word, 16), 6)
			r.ID = "concurrent-" + word
			var begun atomic.Int32
			r.Began = func() { begun.Add(1) }
			c, err := s.Run(ctx, r, nil)
			if err != nil {
				t.Errorf("%s: %v", word, err)
				return
			}
			if n := begun.Load(); n > 1 || n == 0 && s.ahead > 0 {
				t.Errorf("%s: was told %d times that it began", word, n)
			}
			checkOwn(t, word, c.Choices[0].Text)
		})
	}
	wg.Wait()
}

func checkOwn(t *testing.T, word, text string) {
	if !strings.Contains(text, word) {
		t.Errorf("%s: got %q", word, text)
	}
	for _, other := range words {
		if other != word && strings.Contains(text, other) {
			t.Errorf("%s: got %q, which is another's answer", word, text)
		}
	}
}

// soon is how long an engine may take to end a run: a step, on a busy machine.
const soon = 10 * time.Second

// long is a request that goes on for a while.
func (s *suite) long(id string) *engine.Request {
	tokens := 400
	if s.opts.Context > 0 {
		tokens = min(tokens, s.opts.Context/2)
	}
	r := s.text(repeat("apple", min(tokens, 64)), tokens)
	r.ID, r.Sampling.IgnoreEOS = id, true
	return r
}

// testCancel ends as many runs as there are slots, from within their first piece, and wants a slot soon after.
func testCancel(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	for i := range min(s.slots, 16) {
		wg.Go(func() { s.cancelOne(t, fmt.Sprintf("cancel-%d", i)) })
	}
	wg.Wait()
	start := time.Now()
	s.run(t, s.text(repeat("apple", 16), 1))
	if took := time.Since(start); took > soon {
		t.Errorf("the next request took %v: are the slots free?", took)
	}
}

func (s *suite) cancelOne(t *testing.T, id string) {
	why := errors.New("the client hung up")
	ctx, cancel := context.WithCancelCause(patience(t, s.opts))
	var at time.Time
	_, err := s.Run(ctx, s.long(id), func(engine.Chunk) {
		if at.IsZero() {
			at = time.Now()
			cancel(why)
		}
	})
	cancel(nil)
	if !errors.Is(err, why) {
		t.Errorf("%s: got %v, want the cause", id, err)
	}
	if took := time.Since(at); took > soon {
		t.Errorf("%s: took %v to end", id, took)
	}
}

func testCancelledBefore(t *testing.T, s *suite) {
	why := errors.New("too late")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if _, err := s.Run(ctx, s.long("late"), nil); !errors.Is(err, why) {
		t.Errorf("got %v, want the cause", err)
	}
}

// testHandOver ends a run half-way and has another one go on: one that streams, and one that does not. An engine that
// can't go on from tokens saves nothing, and makes the whole answer anew.
func testHandOver(t *testing.T, s *suite) {
	r := s.text(repeat("apple", 80), 64)
	r.Sampling.IgnoreEOS = true
	want := s.run(t, r)
	for name, emit := range map[string]func(engine.Chunk){"streamed": func(engine.Chunk) {}, "whole": nil} {
		saved := s.handOver(t, r, emit)
		next := *r
		next.Resume = saved
		got := s.stream(t, &next).done
		if got.Choices[0].Text != want.Choices[0].Text || got.Usage.CompletionTokens != want.Usage.CompletionTokens || got.Usage.PromptTokens != want.Usage.PromptTokens {
			t.Errorf("%s: got %+v after %d tokens, want %+v", name, got, saved.Tokens(), want)
		}
		if got.Usage.ResumedTokens != saved.Tokens() {
			t.Errorf("%s: went on after %d tokens of %d", name, got.Usage.ResumedTokens, saved.Tokens())
		}
	}
}

// handOver ends a run when it first tells how far it has come, and returns what it tells last; nil if it never does.
func (s *suite) handOver(t *testing.T, r *engine.Request, emit func(engine.Chunk)) (last *engine.Resume) {
	ctx, cancel := context.WithCancelCause(patience(t, s.opts))
	defer cancel(nil)
	q := *r
	q.Save = func(r *engine.Resume) { last = r; cancel(engine.ErrHandOver) }
	_, err := s.Run(ctx, &q, emit)
	if last == nil {
		if err != nil {
			t.Fatal(err)
		}
		return nil
	}
	if n := last.Tokens(); !errors.Is(err, engine.ErrHandOver) || n < 32 || n >= r.Sampling.MaxTokens || last.Usage.CompletionTokens != n {
		t.Errorf("got %v, saved %+v", err, last)
	}
	return last
}

// testForeignResume wants a whole answer whatever it is to go on from.
func testForeignResume(t *testing.T, s *suite) {
	r := s.text(repeat("apple", 16), 6)
	want := s.run(t, r).Choices[0].Text
	for name, from := range map[string]*engine.Resume{
		"nothing":      {},
		"two answers":  {Choices: make([]engine.Partial, 2)},
		"no tokens":    {Choices: make([]engine.Partial, 1)},
		"odd tokens":   {Choices: []engine.Partial{{Tokens: []int32{-5, 1 << 30}}}},
		"a longer one": {Choices: []engine.Partial{{Tokens: make([]int32, 99)}}},
	} {
		r.Resume = from
		if got := s.stream(t, r).done; got.Choices[0].Text != want || got.Usage.ResumedTokens != 0 {
			t.Errorf("%s: got %+v, want %q", name, got, want)
		}
	}
}

func testNotFound(t *testing.T, s *suite) {
	r := s.text("hello", 1)
	r.Model = engine.Model{Name: "no-such-model", Base: strings.Repeat("0", 64)}
	if err := s.refuse(t, r); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func testNUL(t *testing.T, s *suite) {
	stop := s.text("hello", 1)
	stop.Sampling.Stop = []string{"a\x00b"}
	for name, r := range map[string]*engine.Request{
		"messages": s.chat("a\x00b", 1), "prompt": s.text("a\x00b", 1), "stop": stop,
	} {
		if err := s.refuse(t, r); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	s.run(t, s.text("hello hello", 1)) // it lives
}

func testNoMessages(t *testing.T, s *suite) {
	for _, raw := range []string{`[]`, ``, `{}`, `null`} {
		r := s.chat("", 1)
		r.Messages = json.RawMessage(raw)
		if err := s.refuse(t, r); !errors.Is(err, engine.ErrInvalid) {
			t.Errorf("%q: got %v, want invalid", raw, err)
		}
	}
}

func testContextLength(t *testing.T, s *suite) {
	if s.opts.Context == 0 {
		t.Skip("this engine tells of no limit to its context")
	}
	say := repeat("apple", s.opts.Context+8)
	for _, r := range []*engine.Request{s.text(say, 1), s.chat(say, 1)} {
		if err := s.refuse(t, r); !errors.Is(err, engine.ErrContextLength) {
			t.Errorf("%s: got %v, want context_length_exceeded", r.Kind, err)
		}
	}
	s.run(t, s.text("hello hello", 1))
}

func testClose(t *testing.T, s *suite) {
	s.run(t, s.text("hello hello", 1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.refuse(t, s.text("hello", 1)); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v after Close, want unavailable", err)
	}
}

// testCloseRunning closes while a run is under way. An engine that was quicker may have answered.
func testCloseRunning(t *testing.T, s *suite) {
	var once sync.Once
	closed := make(chan error, 1)
	_, err := s.Run(patience(t, s.opts), s.long("closing"), func(engine.Chunk) {
		once.Do(func() { go func() { closed <- s.Close() }() })
	})
	if err != nil && !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
}
