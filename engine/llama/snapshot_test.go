package llama

import (
	"context"
	"errors"
	"slices"
	"testing"

	"lorry/engine"
)

// A snapshot that is asked for within a step shows what that step did, to everybody who asked.
func TestSnapshotBetweenSteps(t *testing.T) {
	asked := []inquiry{make(inquiry, 1), make(inquiry, 1)}
	var w *world
	m := newMachine(t, 500, func(call int, rows []row) int32 {
		if call == 6 {
			w.mu.Lock()
			w.asks = append(w.asks, asked...)
			w.mu.Unlock()
		}
		return 0
	})
	m.hold = true
	w = startLoop(t, m, 3, 500, 8)
	w.together(t, 40, 40, 40, 40)
	s, other := <-asked[0], <-asked[1]
	if s.At != other.At {
		t.Error("two who asked in one step got two snapshots")
	}
	if s.Totals.Steps != 6 || s.Slots != 3 || len(s.Running) != 3 || s.Waiting != 1 {
		t.Errorf("got %+v", s)
	}
	if s.Last.AnswerRows != 3 || s.Last.PromptRows != 0 || s.Totals.PromptRows != 9 {
		t.Errorf("rows: %+v of %+v", s.Last, s.Totals)
	}
	for _, x := range s.Running {
		if x.Rows != 1 || x.Prompt != 3 || x.Most != 40 || x.Drawn < 1 || x.Computed != x.Prompt+x.Drawn-1 || x.Seconds < 0 {
			t.Errorf("sequence %+v", x)
		}
	}
	if c := s.Cells; c.All != 500 || c.Busy+c.Idle+c.Free != c.All || c.Busy == 0 {
		t.Errorf("cells %+v", c)
	}
	if sum := 0; s.Last.Parts.Sum() <= 0 || s.Totals.Parts.Sum() < s.Last.Parts.Sum() {
		for _, n := range s.Totals.Times {
			sum += n
		}
		t.Errorf("times %+v of %d steps: %+v", s.Totals.Times, sum, s.Totals.Parts)
	}
}

func TestSnapshotAtRest(t *testing.T) {
	w := startLoop(t, newMachine(t, 500, nil), 3, 500, 8)
	s, err := w.inspect(t.Context())
	if err != nil || s.Totals.Steps != 0 || s.Cells.Free != 500 {
		t.Errorf("before anything ran: %+v, %v", s, err)
	}
	if _, err := w.count(t.Context(), "a", 5, 1, 1, 2, 3); err != nil {
		t.Fatal(err)
	}
	s, err = w.inspect(t.Context())
	if err != nil || s.Totals.Drawn != 5 || len(s.Running)+s.Waiting != 0 || slices.Max(s.Totals.Times) == 0 {
		t.Errorf("after an answer: %+v, %v", s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.inspect(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	w.close()
	if _, err := w.inspect(t.Context()); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("of a closed engine: %v", err)
	}
}

func TestStepTimesAreCounted(t *testing.T) {
	var c engine.Totals
	for _, seconds := range []float64{0.0005, 0.001, 0.03, 9} {
		c.Count(engine.Step{AnswerRows: 1, Parts: engine.Parts{Compute: seconds}})
	}
	if want := []int{2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1}; !slices.Equal(c.Times, want) || c.Steps != 4 {
		t.Errorf("got %v of %d", c.Times, c.Steps)
	}
}
