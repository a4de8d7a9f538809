package llama

import (
	"context"
	"slices"
	"time"

	"lorry/engine"
)

var _ engine.Introspector = (*Engine)(nil)

// Snapshot is the loop between two steps. See [engine.Introspector].
func (e *Engine) Snapshot(ctx context.Context) (engine.Snapshot, error) { return e.loop.inspect(ctx) }

// gauge measures steps and remembers the last one. The loop's goroutine alone uses it.
type gauge struct {
	mark   time.Time
	step   engine.Step // under way
	rows   map[*sequence]int
	last   engine.Step
	had    map[*sequence]int // rows of the last step
	totals engine.Totals
}

// begin starts a step.
func (g *gauge) begin() {
	g.mark, g.step = time.Now(), engine.Step{}
	if g.rows == nil {
		g.rows = map[*sequence]int{}
	}
	clear(g.rows)
}

// lap puts the time since the last lap down to a part of the step.
func (g *gauge) lap(part *float64) {
	now := time.Now()
	*part += now.Sub(g.mark).Seconds()
	g.mark = now
}

// computed notes what a native call held. A sequence that had one token left to compute was drawing.
func (g *gauge) computed(rows []row) {
	for _, part := range split(rows) {
		s := part[0].seq
		g.rows[s] += len(part)
		if len(part) == 1 && s.drawn > 0 {
			g.step.AnswerRows++
		} else {
			g.step.PromptRows += len(part)
		}
		g.step.Adapter = s.run.request.Model.Adapter
	}
}

// end counts the step, unless there was nothing to compute in it.
func (g *gauge) end() {
	g.lap(&g.step.Parts.Settle)
	if g.step.PromptRows+g.step.AnswerRows > 0 {
		g.last = g.step
		g.had, g.rows = g.rows, g.had
		g.totals.Count(g.step)
	}
}

// inquiry is someone who wants a snapshot.
type inquiry chan engine.Snapshot

// inspect has the loop take a snapshot before its next step.
func (l *loop) inspect(ctx context.Context) (engine.Snapshot, error) {
	a := make(inquiry, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return engine.Snapshot{}, errClosed()
	}
	l.asks = append(l.asks, a)
	l.signal()
	l.mu.Unlock()
	select {
	case s := <-a:
		return s, nil
	case <-l.stopped:
		return engine.Snapshot{}, errClosed()
	case <-ctx.Done():
		return engine.Snapshot{}, context.Cause(ctx)
	}
}

// answer gives everybody who asked the same snapshot. The lock is held.
func (l *loop) answer() {
	if len(l.asks) == 0 {
		return
	}
	s := l.look()
	for _, a := range l.asks {
		a <- s
	}
	l.asks = nil
}

func (l *loop) look() engine.Snapshot {
	s := engine.Snapshot{
		At: time.Now(), Slots: l.slots, Waiting: len(l.waiting), Last: l.gauge.last, Totals: l.gauge.totals,
		Cells: engine.Cells{All: l.cells, Idle: l.snapshot.CellsIdle, Busy: l.snapshot.CellsInUse, Free: l.cells - l.snapshot.CellsIdle - l.snapshot.CellsInUse},
	}
	x := l.snapshot
	s.Adapters = engine.AdapterUse{Loaded: x.Adapters, Bytes: x.AdapterBytes, Loads: x.AdapterLoads, Evicted: x.Evicted,
		Changes: x.Changes, Turns: x.Turns, TurnSeconds: x.TurnTime.Seconds()}
	if x.Changes > 0 {
		s.Adapters.ChangeSeconds = x.ChangeCost.Seconds()
	}
	s.Totals.Times = slices.Clone(s.Totals.Times)
	s.Totals.Failed, s.Totals.Drawn, s.Totals.Shared = l.stats.Failed, l.stats.Drawn, l.stats.Shared
	s.Totals.Preempted, s.Totals.Parked, s.Totals.Mismatched = l.stats.Preempted, l.stats.Parked, l.stats.Mismatched
	for _, x := range l.running {
		s.Running = append(s.Running, l.gauge.describe(x))
	}
	return s
}

func (g *gauge) describe(s *sequence) engine.Sequence {
	r := s.run.request
	return engine.Sequence{
		ID: r.ID, Scope: r.Scope, Adapter: r.Model.Adapter, Slot: s.slot, Prompt: len(s.run.prompt), Shared: s.run.usage.CachedTokens,
		Computed: s.done, Drawn: s.drawn, Most: s.run.most, Rows: g.had[s], Seconds: time.Since(s.run.begun).Seconds(),
	}
}
