package echo_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/engine/echo"
	"lorry/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg echo.Config) *echo.Engine {
	t.Helper()
	e, err := echo.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestSuite(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) engine.Engine { return open(t, echo.Config{Context: 512, Slots: 8}) }, enginetest.Options{})
}

func chat(messages string, s engine.Sampling) *engine.Request {
	s.N = max(1, s.N)
	return &engine.Request{ID: "r", Kind: engine.Chat, Model: engine.Model{Name: "echo", Base: echo.Base},
		Messages: json.RawMessage(messages), Sampling: s}
}

func TestAnswer(t *testing.T) {
	const said = `[{"role":"system","content":"be brief"},{"role":"user","content":"one  two\nthree four "}]`
	for name, c := range map[string]struct {
		messages string
		sampling engine.Sampling
		text     string
		finish   engine.Finish
		usage    engine.Usage
	}{
		"all":             {said, engine.Sampling{}, "one  two\nthree four ", "stop", engine.Usage{PromptTokens: 6, CompletionTokens: 4}},
		"cut":             {said, engine.Sampling{MaxTokens: 2}, "one  two", "length", engine.Usage{PromptTokens: 6, CompletionTokens: 2}},
		"just enough":     {said, engine.Sampling{MaxTokens: 4}, "one  two\nthree four ", "stop", engine.Usage{PromptTokens: 6, CompletionTokens: 4}},
		"stop":            {said, engine.Sampling{Stop: []string{"four", "o\nt"}}, "one  tw", "stop", engine.Usage{PromptTokens: 6, CompletionTokens: 2}},
		"stop at once":    {said, engine.Sampling{Stop: []string{"one"}}, "", "stop", engine.Usage{PromptTokens: 6}},
		"stop beyond cut": {said, engine.Sampling{MaxTokens: 2, Stop: []string{"three"}}, "one  two", "length", engine.Usage{PromptTokens: 6, CompletionTokens: 2}},
		"two answers":     {said, engine.Sampling{N: 2}, "one  two\nthree four ", "stop", engine.Usage{PromptTokens: 6, CompletionTokens: 8}},
		"parts":           {`[{"role":"user","content":[{"type":"text","text":"a "},{"type":"text","text":"b"}]}]`, engine.Sampling{}, "a b", "stop", engine.Usage{PromptTokens: 2, CompletionTokens: 2}},
		"null content":    {`[{"role":"assistant","content":null}]`, engine.Sampling{}, "", "stop", engine.Usage{}},
		"last user message": {`[{"role":"user","content":"a"},{"role":"user","content":"b"},{"role":"assistant","content":"c"}]`,
			engine.Sampling{}, "b", "stop", engine.Usage{PromptTokens: 3, CompletionTokens: 1}},
		"no user message": {`[{"role":"system","content":"a"},{"role":"assistant","content":"c"}]`, engine.Sampling{}, "c", "stop", engine.Usage{PromptTokens: 2, CompletionTokens: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := open(t, echo.Config{}).Run(t.Context(), chat(c.messages, c.sampling), nil)
			if err != nil {
				t.Fatal(err)
			}
			got.Usage.EngineSeconds, got.Usage.FirstTokenSeconds = 0, 0
			first := got.Choices[0]
			if first.Text != c.text || first.Finish != c.finish || got.Usage != c.usage {
				t.Errorf("got %q (%s) %+v", first.Text, first.Finish, got.Usage)
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	for name, r := range map[string]*engine.Request{
		"an image":         chat(`[{"role":"user","content":[{"type":"image_url"}]}]`, engine.Sampling{}),
		"a number":         chat(`[{"role":"user","content":7}]`, engine.Sampling{}),
		"no object":        chat(`["hello"]`, engine.Sampling{}),
		"tokens as prompt": {Kind: engine.Text, Tokens: []int32{1}, Model: engine.Model{Name: "echo"}, Sampling: engine.Sampling{N: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(t, echo.Config{}).Run(t.Context(), r, nil); !errors.Is(err, engine.ErrInvalid) {
				t.Errorf("got %v, want invalid", err)
			}
		})
	}
}

// TestJournal: two engines, as two processes would, share the file; each run has its line before its answer.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	var wg sync.WaitGroup
	for _, id := range []string{"job_a", "job_b\nforged"} {
		e := open(t, echo.Config{Journal: path})
		for range 10 {
			r := chat(`[{"role":"user","content":"x"}]`, engine.Sampling{})
			r.ID = id
			wg.Go(func() {
				if _, err := e.Run(t.Context(), r, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := string(raw)
	if strings.Count(got, "job_a\n") != 10 || strings.Count(got, "job_b forged\n") != 10 || strings.Count(got, "\n") != 20 {
		t.Errorf("the journal holds:\n%s", got)
	}
}

func TestJournalThatCannotBeOpened(t *testing.T) {
	if _, err := echo.New(echo.Config{Journal: filepath.Join(t.TempDir(), "no", "folder")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestDelay: three words take three delays, and a second request waits for the only slot, but no longer than its caller.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, echo.Config{Delay: time.Second, Slots: 1})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		r := chat(`[{"role":"user","content":"one two three"}]`, engine.Sampling{})
		wg.Go(func() {
			c, err := e.Run(t.Context(), r, nil)
			if err != nil || c.Usage.FirstTokenSeconds != 1 {
				t.Errorf("got %+v, %v", c, err)
			}
		})
		synctest.Wait()
		if _, err := e.Run(ctx, r, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 2*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		wg.Wait()
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
