package llama

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lorry/engine"
)

// precise is a request of two answers, drawn and with what decides each bit of them: the log-probabilities.
func precise() *engine.Request {
	r := ask(strings.Repeat("The lorry drove on over the hills and past the river. ", 5)+"Then", 12)
	r.Deterministic = true
	r.Sampling.N, r.Sampling.Temperature, r.Sampling.Seed, r.Sampling.IgnoreEOS = 2, 0.9, 3, true
	r.Sampling.Logprobs, r.Sampling.TopLogprobs = true, 5
	return r
}

// TestDeterministic wants the same bits alone, in a crowd that begins alike, after others, and after a restart.
func TestDeterministic(t *testing.T) {
	first := open(t, quickly(t))
	want := answer(t, first, precise()).Choices
	same := func(when string, e *Engine) {
		t.Helper()
		if d := cmp.Diff(want, answer(t, e, precise()).Choices); d != "" {
			t.Errorf("%s (-alone +then):\n%s", when, d)
		}
	}
	same("again", first)

	leave := crowd(t, first, 7)
	same("in a crowd", first)
	if s := first.Stats(); s.Running < 6 {
		t.Errorf("the crowd had left: %+v", s)
	}
	leave()
	first.Close()
	same("after a restart", open(t, quickly(t)))
}

// crowd has n long answers made, of prompts that begin like the precise one, and returns when all of them have begun to
// draw. One is deterministic, and ends soon. leave ends them.
func crowd(t *testing.T, e *Engine, n int) (leave func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var begun, all sync.WaitGroup
	for i := range n {
		r := ask(precise().Prompt+prompts[i], 400)
		r.ID, r.Sampling.IgnoreEOS = fmt.Sprint("crowd", i), true
		if i == n-1 {
			r.Deterministic, r.Sampling.MaxTokens = true, 10
		}
		begun.Add(1)
		first := sync.OnceFunc(begun.Done)
		all.Go(func() {
			defer first()
			if _, err := e.Run(ctx, r, func(engine.Chunk) { first() }); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", r.ID, err)
			}
		})
	}
	begun.Wait()
	return func() { cancel(); all.Wait() }
}

// TestDeterministicRefusals: what can't be promised is refused by name.
func TestDeterministicRefusals(t *testing.T) {
	e := &Engine{}
	r := precise()
	r.Model.Adapter = "ab"
	if _, err := e.loopFor(r); !errors.Is(err, engine.ErrInvalid) || engine.AsError(err).Param != "lorry.deterministic" {
		t.Errorf("got %v", err)
	}
	e.exact.shut = true
	if _, err := e.loopFor(precise()); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("closed: got %v", err)
	}
}

// TestWatch: the observer hears of all loops' calls together.
func TestWatch(t *testing.T) {
	var heard []string
	w := watch{observe: func(ids []string) { heard = append(heard, strings.Join(ids, "+")) }}
	one, two := w.loop(), w.loop()
	one([]string{"a", "b"})
	two([]string{"c"})
	one(nil)
	two(nil)
	if got := strings.Join(heard, ","); got != "a+b,a+b+c,c," {
		t.Errorf("heard %q", got)
	}
}
