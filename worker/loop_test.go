package worker

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"lorry/engine"
	"lorry/queue"
)

// glass is an engine whose loop can be seen.
type glass struct {
	*scripted
	loop engine.Snapshot
}

func (g *glass) Snapshot(context.Context) (engine.Snapshot, error) { return g.loop, nil }

func seen() engine.Snapshot {
	s := engine.Snapshot{Slots: 2, Waiting: 3, Running: []engine.Sequence{{ID: "job_1", Drawn: 7}}, Cells: engine.Cells{All: 10, Busy: 3, Idle: 1, Free: 6}}
	s.Totals.Count(engine.Step{PromptRows: 5, AnswerRows: 2, Parts: engine.Parts{Plan: 0.125, Compute: 0.25}})
	return s
}

// Whoever asks a worker sees its engine's loop; of an engine without one, why.
func TestPeek(t *testing.T) {
	r := newRoad(t, 0)
	r.start(&glass{newScripted(nil), seen()}, func(c *Config) { c.Name = "w1" })
	r.start(newScripted(nil), func(c *Config) { c.Name = "w2" })
	eventually(t, "the worker answers", func() bool {
		s, err := queue.PeekAt(t.Context(), r.q.Conn(), "w1")
		return err == nil && len(s.Running) == 1 && s.Running[0].ID == "job_1" && s.Waiting == 3 && s.Totals.Steps == 1
	})
	eventually(t, "the other says why not", func() bool {
		_, err := queue.PeekAt(t.Context(), r.q.Conn(), "w2")
		return errors.Is(err, queue.ErrNoLoop) && strings.Contains(err.Error(), "no loop of ours")
	})
	if _, err := queue.PeekAt(t.Context(), r.q.Conn(), "nobody"); err == nil {
		t.Error("nobody answered")
	}
}

func TestLoopMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	for _, name := range []string{"w1", "w2"} { // two workers of one process
		c := &loopCollector{worker: name}
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
		c.take(seen())
	}
	want := `
# HELP lorry_engine_rows_total Tokens computed, by kind: prompt, answer.
# TYPE lorry_engine_rows_total counter
lorry_engine_rows_total{kind="answer",worker="w1"} 2
lorry_engine_rows_total{kind="answer",worker="w2"} 2
lorry_engine_rows_total{kind="prompt",worker="w1"} 5
lorry_engine_rows_total{kind="prompt",worker="w2"} 5
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "lorry_engine_rows_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "lorry_engine_step_seconds", "lorry_engine_cells", "lorry_engine_step_part_seconds_total"); err != nil || n != 2*(1+3+4) {
		t.Errorf("%d metrics, %v", n, err)
	}
}
