// Package echo is an engine that answers at once with what it was told. All but the model is real with it: it streams,
// counts, stops, waits for a slot and ends with its caller as the others do, and it passes their suite.
//
// It serves client development (no weights, no waiting), benchmarks of everything around the model, and fault tests:
// its journal holds one line for each run, so that a job which ran twice is seen.
package echo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"lorry/engine"
)

// Name is the model that an echo engine serves unless it is told otherwise.
const Name = "echo"

// Base is the digest that stands for the model: the SHA-256 of "lorry:echo".
var Base = digest("lorry:echo")

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Config shapes an echo engine. The zero value is ready to use.
type Config struct {
	// Delay slows the answer, for each word of it. 0: at once.
	Delay time.Duration
	// Journal names a file that gets one line, the request's ID, for each run, synced to the disk before the answer
	// begins. It is appended to, and may be shared by processes. Empty: none.
	Journal string
	// Slots is how many requests are answered at the same moment; more wait. 0: 64.
	Slots int
	// Name is the model's name. Empty: "echo".
	Name string
	// Context is how many words a prompt and its answer may have together. 0: no limit.
	Context int
}

// Engine answers with the last user message (Chat) or the prompt (Text). A word, with the space before it, counts as a
// token. Sampling draws nothing here: temperature, penalties and seed change no answer; tools and response formats are
// not read.
type Engine struct {
	cfg     Config
	journal *journal
	slots   chan struct{}

	mu     sync.Mutex
	closed context.Context // ends with Close, for the runs under way
	close  context.CancelFunc
	runs   sync.WaitGroup
}

var _ engine.Engine = (*Engine)(nil)

// New makes an echo engine. It fails when the journal can't be opened.
func New(cfg Config) (*Engine, error) {
	cfg.Slots = cmp.Or(cfg.Slots, 64)
	cfg.Name = cmp.Or(cfg.Name, Name)
	j, err := openJournal(cfg.Journal)
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, journal: j, slots: make(chan struct{}, cfg.Slots)}
	e.closed, e.close = context.WithCancel(context.Background())
	return e, nil
}

// Model is what this engine serves.
func (e *Engine) Model() engine.Model { return engine.Model{Name: e.cfg.Name, Base: Base} }

// Info says that one model is served.
func (e *Engine) Info(context.Context) (engine.Info, error) {
	return engine.Info{
		Models:  []engine.ModelInfo{{Model: e.Model(), Context: e.cfg.Context}},
		Slots:   e.cfg.Slots,
		Device:  "none (echo)",
		Version: "echo 1",
	}, nil
}

// Run answers one request.
func (e *Engine) Run(ctx context.Context, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	if r.Sampling.BestOf > r.Sampling.N {
		return engine.Best(ctx, r, e.Run)
	}
	if err := e.enter(); err != nil {
		return nil, err
	}
	defer e.runs.Done()
	a, err := e.plan(r)
	if err != nil {
		return nil, err
	}
	if err := e.wait(ctx); err != nil {
		return nil, err
	}
	defer func() { <-e.slots }()
	if err := e.journal.add(r.ID); err != nil {
		return nil, engine.Errorf(engine.Internal, "", "", "%v", err)
	}
	switch r.Kind {
	case engine.Embed:
		return embed(r), e.over(ctx)
	case engine.Count:
		return &engine.Completion{Choices: []engine.Choice{{Finish: engine.FinishStop}}, Usage: engine.Usage{PromptTokens: a.prompt}}, e.over(ctx)
	}
	return e.speak(ctx, a, r, emit)
}

// enter counts a run in, so that Close can wait for it.
func (e *Engine) enter() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed.Err() != nil {
		return errClosed()
	}
	e.runs.Add(1)
	return nil
}

// wait takes a slot.
func (e *Engine) wait(ctx context.Context) error {
	if err := e.over(ctx); err != nil {
		return err
	}
	select {
	case e.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
	case <-e.closed.Done():
	}
	return e.over(ctx)
}

// pause lasts for one word.
func (e *Engine) pause(ctx context.Context) error {
	if e.cfg.Delay > 0 {
		timer := time.NewTimer(e.cfg.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-e.closed.Done():
		}
	}
	return e.over(ctx)
}

// over says why a run must end now, if it must.
func (e *Engine) over(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case e.closed.Err() != nil:
		return errClosed()
	}
	return nil
}

// Close ends the runs under way and closes the journal.
func (e *Engine) Close() error {
	e.mu.Lock()
	again := e.closed.Err() != nil
	e.close()
	e.mu.Unlock()
	e.runs.Wait()
	if again {
		return nil
	}
	return e.journal.close()
}

func errClosed() error {
	return engine.Errorf(engine.Unavailable, "", "", "the echo engine is closed")
}

// plan reads a request and decides the whole answer. Nothing is spoken yet.
func (e *Engine) plan(r *engine.Request) (*answer, error) {
	if err := e.check(r); err != nil {
		return nil, err
	}
	prompt, said, err := read(r)
	if err != nil {
		return nil, err
	}
	a := newAnswer(r, prompt, said)
	limit := e.cfg.Context
	if limit == 0 {
		return a, nil
	}
	if prompt >= limit {
		return nil, engine.Errorf(engine.Invalid, engine.CodeContextLength, "messages",
			"This model's maximum context length is %d words. However, your prompt has %d.", limit, prompt)
	}
	a.cut(limit - prompt)
	return a, nil
}

func (e *Engine) check(r *engine.Request) error {
	if m := r.Model; cmp.Or(m.Base, Base) != Base || (m.Base == "" && m.Name != e.cfg.Name) {
		return engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "the model %q is not served here", m.Name)
	}
	if err := r.Check(); err != nil {
		return err
	}
	if r.Kind == engine.Tokenize || r.Kind == engine.Detokenize {
		return engine.Errorf(engine.Invalid, engine.CodeUnsupported, "model", "echo has no tokenizer: ask a model that has weights")
	}
	if r.Suffix != "" {
		return engine.Errorf(engine.Invalid, engine.CodeUnsupported, "suffix", "echo fills no gaps: leave the suffix out")
	}
	if len(r.Tokens) > 0 {
		return engine.Errorf(engine.Invalid, engine.CodeUnsupported, "prompt", "echo has no tokenizer: send the prompt as text")
	}
	if r.Kind == engine.Embed {
		return engine.CheckVectors(len(r.Inputs), cmp.Or(r.Dimensions, vectorLength))
	}
	return nil
}

// speak gives the answer word by word, choice by choice in turn, as a batch would. It goes on where an earlier run of
// the same answer stood.
func (e *Engine) speak(ctx context.Context, a *answer, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	start := time.Now()
	if emit == nil {
		emit = func(engine.Chunk) {}
	}
	first, from := 0.0, a.resume(r.Resume)
	if from > 0 {
		a.emit(emit, 0, from)
	}
	saved := from
	for i := from; i < max(1, len(a.words)); i++ {
		if err := e.pause(ctx); err != nil {
			if r.Save != nil && errors.Is(err, engine.ErrHandOver) {
				r.Save(a.state(i))
			}
			return nil, err
		}
		if first == 0 {
			first = time.Since(start).Seconds()
		}
		a.emit(emit, i, i+1)
		if r.Save != nil && engine.SaveDue(a.n*(i+1), a.n*saved) {
			saved = i + 1
			r.Save(a.state(saved))
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c := a.completion()
	c.Usage.ResumedTokens = a.n * from
	c.Usage.EngineSeconds, c.Usage.FirstTokenSeconds = time.Since(start).Seconds(), first
	return c, nil
}

// read is the prompt's length in words, and the text to be said again.
func read(r *engine.Request) (int, string, error) {
	switch r.Kind {
	case engine.Text:
		return count(r.Prompt), r.Prompt, nil
	case engine.Embed:
		return countInputs(r.Inputs), "", nil
	}
	messages, err := parse(r.Messages)
	if err != nil {
		return 0, "", err
	}
	words, said, user := 0, "", false
	for _, m := range messages {
		words += count(string(m.Content))
		if m.Role == "user" || !user {
			said, user = string(m.Content), user || m.Role == "user"
		}
	}
	return words, said, nil
}

// count is how many words a text has: split's, without them.
func count(text string) (n int) {
	inside := false
	for i := range len(text) {
		blank := blank(text[i])
		if blank && inside {
			n++
		}
		inside = !blank
	}
	if inside || n == 0 && text != "" {
		n++
	}
	return n
}

// split cuts text into words, each with the space before it; space at the end belongs to the last word. It may stop behind
// most words.
func split(text string, most int) []string {
	var words []string
	last, start, inside := 0, 0, false
	for i := range len(text) {
		blank := blank(text[i])
		if blank && inside {
			if words = append(words, text[start:i]); len(words) == most {
				return words
			}
			last, start = start, i
		}
		inside = !blank
	}
	switch {
	case inside || len(words) == 0 && text != "":
		words = append(words, text[start:])
	case len(words) > 0:
		words[len(words)-1] = text[last:]
	}
	return words
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func errMessages(format string, args ...any) error {
	return engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "messages", "%s", fmt.Sprintf(format, args...))
}
