package llama

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"lorry/engine"
)

// TestColdPrefixes has more beginnings in turn than idle cells hold: once one was missed they are kept in host memory,
// and hardly anything is computed twice.
func TestColdPrefixes(t *testing.T) {
	const groups, turns = 20, 5
	for name, c := range map[string]struct {
		bytes int64
		most  float64 // of the last turn's prompt tokens are computed
	}{
		"kept":     {1 << 20, 0.1},
		"no room":  {100, 1},
		"switched": {-1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, Config{Slots: 2, Rows: 63, IdleCells: 150, ColdBytes: c.bytes}, 2000, nil)
			var submitted, computed int
			for turn := range turns {
				submitted, computed = 0, 0
				for g := range int32(groups) {
					u := s.ask(t.Context(), "a", 5, 1, prompt(g, 200, int32(turn), g))
					s.finish()
					s.wants(u, 5)
					submitted += u.usage.PromptTokens
					computed += u.usage.PromptTokens - u.usage.CachedTokens
				}
			}
			got := float64(computed) / float64(submitted)
			if got > c.most || c.most == 1 && got < 0.9 {
				t.Errorf("%d of %d tokens were computed in the last turn: %+v", computed, submitted, s.read())
			}
			if n := s.read().ColdBytes; n > int(max(0, c.bytes)) || c.most < 1 && n == 0 {
				t.Errorf("%d bytes are kept", n)
			}
		})
	}
}

// TestColdBound forgets what was not used for the longest time.
func TestColdBound(t *testing.T) {
	c := newCold(100)
	a, b := scope{tenant: "a"}, scope{tenant: "b"}
	tokens := func(kind int32) []int32 { return prompt(kind, 40) }
	c.put(a, tokens(1), 0, make([]byte, 40))
	c.put(b, tokens(2), 0, make([]byte, 40))
	if f, to := c.find(a, tokens(1), 0); f == nil || to != 40 {
		t.Fatalf("not found: %v", to)
	}
	c.put(a, tokens(1)[:30], 0, make([]byte, 5)) // the longer one has it
	c.put(a, tokens(3), 0, make([]byte, 40))
	c.put(a, tokens(4), 0, make([]byte, 101)) // never fits
	for name, x := range map[string]struct {
		s    scope
		kind int32
		from int
		want bool
	}{
		"used":                {a, 1, 0, true},
		"oldest":              {b, 2, 0, false},
		"of another tenant":   {b, 1, 0, false},
		"newest":              {a, 3, 0, true},
		"too large":           {a, 4, 0, false},
		"hardly longer":       {a, 1, 30, false},
		"in the middle of it": {a, 1, 20, true},
	} {
		if f, _ := c.find(x.s, tokens(x.kind), x.from); (f != nil) != x.want {
			t.Errorf("%s: found is %v", name, f != nil)
		}
	}
	if c.bytes != 80 {
		t.Errorf("%d bytes", c.bytes)
	}
}

// TestColdNeverAcrossTenants asks the same of another tenant while the first one's beginning is in host memory.
func TestColdNeverAcrossTenants(t *testing.T) {
	s := newStand(t, Config{Slots: 2, Rows: 63, IdleCells: 100, ColdBytes: 1 << 20}, 2000, nil)
	cached := func(tenant string, kind int32) int {
		u := s.ask(t.Context(), tenant, 5, 1, prompt(kind, 200))
		s.finish()
		s.wants(u, 5)
		return u.usage.CachedTokens
	}
	for range 4 {
		for kind := range int32(4) {
			cached("a", kind)
		}
	}
	if n := cached("a", 0); n < 190 {
		t.Errorf("its owner found %d tokens: %+v", n, s.read())
	}
	if n := cached("b", 1); n != 0 {
		t.Errorf("another tenant found %d tokens", n)
	}
}

// TestPreemptedComeBack has sequences that lost their cells go on from host memory: what they had is not computed again.
func TestPreemptedComeBack(t *testing.T) {
	s := newStand(t, Config{Slots: 4, Rows: 63, IdleCells: 50, ColdBytes: 1 << 20}, 500, nil)
	var runs []*run
	for i := range int32(4) {
		runs = append(runs, s.ask(t.Context(), "a", 150, 1, prompt(i*13, 60)))
	}
	s.finish()
	for _, u := range runs {
		s.wants(u, 150)
	}
	again := s.stats.Rows - 4*(60+149)
	if s.stats.Preempted == 0 || again > worthwhile*s.stats.Preempted {
		t.Errorf("%d tokens were computed again after %d preemptions: %+v", again, s.stats.Preempted, s.read())
	}
}

// TestThawOnRealModel goes on from cells that came back, beside others, as from those that were computed. Rounding may
// differ: the cells lie elsewhere.
func TestThawOnRealModel(t *testing.T) {
	c := quickly(t)
	c.Slots, c.Context, c.IdleCells = 2, 2048, 100
	e := open(t, c)
	next := func(kind int) (*engine.Completion, int) {
		before := e.Stats().Thawed
		r := ask(fmt.Sprintf("Account %d. ", kind)+strings.Repeat(fmt.Sprintf("Lorry %d brought %d crates of apples to town. ", kind, 3*kind+1), 8), 4)
		r.Sampling.Logprobs, r.Sampling.TopLogprobs, r.Sampling.IgnoreEOS = true, 20, true
		return answer(t, e, r), e.Stats().Thawed - before
	}
	const kinds = 4
	first := make([]*engine.Completion, kinds)
	thawed := 0
	for turn := range 4 {
		for kind := range kinds {
			got, n := next(kind)
			if thawed += n; turn == 0 {
				first[kind] = got
				continue
			}
			near(t, first[kind].Choices[0].Logprobs[0], got.Choices[0].Logprobs[0])
		}
	}
	if thawed < kinds*50 {
		t.Errorf("%d tokens came back from host memory: %+v", thawed, e.Stats())
	}
}

// near wants two distributions to be the same but for rounding, by the likeliest tokens of the one.
func near(t *testing.T, a, b engine.Logprob) {
	t.Helper()
	const rounding = 0.7
	other := map[string]float64{}
	for _, x := range b.Top {
		other[x.Token] = x.Logprob
	}
	for _, x := range a.Top[:3] {
		if y, ok := other[x.Token]; !ok || math.Abs(x.Logprob-y) > rounding {
			t.Errorf("token %q: %v before, %v now", x.Token, x.Logprob, y)
		}
	}
}

// TestSharedCellsGoCold wants idle cells that have been shared to leave for host memory where they fit, whence they come
// back, and to stay where they don't.
func TestSharedCellsGoCold(t *testing.T) {
	for name, c := range map[string]struct {
		bytes      int64
		idle, most int
	}{
		"room":    {1 << 20, 0, 100},
		"no room": {50, 300, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, Config{Slots: 2, Rows: 64, IdleCells: 1000, ColdBytes: c.bytes, cool: 100}, 4000, nil)
			cached := 0
			for i := range int32(6) {
				u := s.ask(t.Context(), "a", 5, 2, prompt(1, 300, i))
				s.finish()
				s.wants(u, 5)
				cached += u.usage.CachedTokens
				if got := s.read().CellsIdle; i > 1 && (got < c.idle || got > c.most) {
					t.Errorf("%d cells are idle, want %d to %d", got, c.idle, c.most)
				}
			}
			if cached < 4*300 || (s.read().Thawed > 0) != (c.idle == 0) {
				t.Errorf("%d tokens were found, %d of them thawed", cached, s.read().Thawed)
			}
		})
	}
}
