// Package enginetest is the suite that every engine passes, with a real model or without one, alone or behind a pipe.
//
// It asks nothing of a model but that a word repeated many times is likely to be repeated once more, which the
// smallest language models do, and echo too.
package enginetest

import (
	"cmp"
	"context"
	"encoding/json"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lorry/engine"
)

// Options says what is asked of an engine. The zero value asks everything but a context's limit.
type Options struct {
	// Model is the name of the model to run. Empty: the first one that Info tells of.
	Model string
	// Context is the longest prompt and answer together, in tokens; the suite sends a prompt of more words than that.
	// 0: the one that Info tells of, and where it tells none, the case is skipped.
	Context int
	// Patience is how long one request may take before a case fails. 0: 60 s.
	Patience time.Duration
	// Cannot says which cases this engine does not pass, by name, and why; the reason is printed.
	Cannot map[string]string
}

// suite is one engine under test.
type suite struct {
	engine.Engine
	opts  Options
	model engine.ModelInfo
	slots int
	ahead int
}

// cases that share one engine, in order. Cases of its end have engines of their own.
var cases = []struct {
	name string
	run  func(*testing.T, *suite)
}{
	{"info", testInfo},
	{"chat", testChat},
	{"text", testText},
	{"stream", testStream},
	{"unicode", testUnicode},
	{"greedy", testGreedy},
	{"seed", testSeed},
	{"length", testLength},
	{"stop", testStop},
	{"choices", testChoices},
	{"echo", testEcho},
	{"logprobs", testLogprobs},
	{"usage", testUsage},
	{"concurrency", testConcurrency},
	{"cancel", testCancel},
	{"cancelled before", testCancelledBefore},
	{"hand over", testHandOver},
	{"foreign resume", testForeignResume},
	{"not found", testNotFound},
	{"nul", testNUL},
	{"no messages", testNoMessages},
	{"context length", testContextLength},
	{"embeddings", testEmbeddings},
	{"tokens", testTokens},
	{"count", testCount},
}

// Run runs the suite. open makes an engine of the same kind each time; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) engine.Engine, o Options) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Run("shared", func(t *testing.T) {
		s := start(t, open, o)
		for _, c := range cases {
			s.test(t, c.name, c.run)
		}
	})
	closing := &suite{opts: o}
	closing.test(t, "close", func(t *testing.T, _ *suite) { testClose(t, start(t, open, o)) })
	closing.test(t, "close while running", func(t *testing.T, _ *suite) { testCloseRunning(t, start(t, open, o)) })
	closing.test(t, "leaks", func(t *testing.T, _ *suite) { goleak.VerifyNone(t, before) })
}

func start(t *testing.T, open func(t *testing.T) engine.Engine, o Options) *suite {
	t.Helper()
	e := open(t)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	s := &suite{Engine: e, opts: o}
	info, err := e.Info(patience(t, o))
	if err != nil {
		t.Fatalf("info: %v", err)
	}
	s.slots, s.ahead = info.Slots, info.Ahead
	s.pick(t, info)
	return s
}

func (s *suite) pick(t *testing.T, info engine.Info) {
	t.Helper()
	for _, m := range info.Models {
		if m.Name == cmp.Or(s.opts.Model, m.Name) {
			s.model = m
			s.opts.Context = cmp.Or(s.opts.Context, m.Context)
			return
		}
	}
	t.Fatalf("model %q is not among those served: %+v", s.opts.Model, info.Models)
}

func (s *suite) test(t *testing.T, name string, run func(*testing.T, *suite)) {
	t.Run(name, func(t *testing.T) {
		if why := s.opts.Cannot[name]; why != "" {
			t.Skipf("this engine does not do %q: %s", name, why)
		}
		run(t, s)
	})
}

func patience(t *testing.T, o Options) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(o.Patience, time.Minute))
	t.Cleanup(cancel)
	return ctx
}

// text is a greedy request to go on with a prompt.
func (s *suite) text(prompt string, tokens int) *engine.Request {
	return &engine.Request{
		ID: "text", Kind: engine.Text, Model: s.model.Model, Scope: "enginetest", Prompt: prompt,
		Sampling: engine.Sampling{TopP: 1, Seed: 1, MaxTokens: tokens, N: 1},
	}
}

// chat is a greedy request to answer one user message.
func (s *suite) chat(say string, tokens int) *engine.Request {
	r := s.text("", tokens)
	r.ID, r.Kind = "chat", engine.Chat
	r.Messages, _ = json.Marshal([]map[string]string{{"role": "user", "content": say}})
	return r
}

// run runs a request that must succeed, and checks the answer's form.
func (s *suite) run(t *testing.T, r *engine.Request) *engine.Completion {
	t.Helper()
	c, err := s.Run(patience(t, s.opts), r, nil)
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	checkForm(t, r, c)
	return c
}

// refuse runs a request that must fail, and returns its error.
func (s *suite) refuse(t *testing.T, r *engine.Request) error {
	t.Helper()
	c, err := s.Run(patience(t, s.opts), r, func(c engine.Chunk) { t.Errorf("a refused request streamed %+v", c) })
	if err == nil {
		t.Fatalf("got the answer %+v, want an error", c)
	}
	return err
}

func checkForm(t *testing.T, r *engine.Request, c *engine.Completion) {
	t.Helper()
	if r.Kind == engine.Embed {
		return
	}
	if len(c.Choices) != max(1, r.Sampling.N) {
		t.Fatalf("got %d choices, want %d", len(c.Choices), r.Sampling.N)
	}
	for i, choice := range c.Choices {
		switch choice.Finish {
		case engine.FinishStop, engine.FinishLength, engine.FinishToolCalls:
		default:
			t.Errorf("choice %d ended with %q", i, choice.Finish)
		}
	}
}
