package llama

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lorry/engine"
)

// stand steps a loop by hand and checks its book against the machine's cells after each step.
type stand struct {
	*loop
	t *testing.T
	m *machine
}

func newStand(t *testing.T, c Config, cells int, fail func(int, []row) int32) *stand {
	m := newMachine(t, cells, fail)
	return &stand{newLoop(c, m, numbers(), cells, true), t, m}
}

// tenant's request for n numbers after the prompt's.
func (s *stand) ask(ctx context.Context, tenant string, n, answers int, prompt []int32) *run {
	r := &engine.Request{ID: tenant, Scope: tenant, Sampling: engine.Sampling{N: answers, MaxTokens: n}}
	u := newRun(ctx, r, prompt, s.cells, false)
	if err := s.submit(u); err != nil {
		s.t.Fatal(err)
	}
	return u
}

func (s *stand) once() {
	s.mu.Lock()
	s.takeInbox()
	s.mu.Unlock()
	s.step()
	s.check()
}

// finish steps until nothing is left to do.
func (s *stand) finish() {
	for steps := 0; steps == 0 || len(s.running)+len(s.waiting) > 0; steps++ {
		if s.once(); steps > 20000 || s.t.Failed() {
			s.t.Fatalf("no end after %d steps: %+v", steps, s.stats)
		}
	}
}

// check wants every cell to be free, reserved or in the tree, and the tree to hold what the machine does.
func (s *stand) check() {
	s.t.Helper()
	spare := 0
	for _, q := range s.running {
		spare += q.spare
		if !slices.Equal(q.holder.tokens(), q.tokens[:q.done]) {
			s.t.Errorf("slot %d's book is not its sequence", q.slot)
		}
	}
	c := s.cache
	if c.free < 0 || c.free+spare+c.tree.cells != s.cells {
		s.t.Errorf("%d cells are free, %d reserved, %d held, of %d", c.free, spare, c.tree.cells, s.cells)
	}
	if used := s.m.used(); used != c.tree.cells {
		s.t.Errorf("%d cells are held by the book, %d in truth", c.tree.cells, used)
	}
	if c.tree.idle > c.bound || len(s.running)+len(c.slots) != s.slots {
		s.t.Errorf("%d cells are idle of at most %d, %d slots free beside %d", c.tree.idle, c.bound, len(c.slots), len(s.running))
	}
}

func (s *stand) wants(u *run, n int) {
	s.t.Helper()
	done, err := u.wait(nil)
	if err != nil {
		s.t.Error(err)
		return
	}
	for i, c := range done.Choices {
		if want := after(int(u.prompt[len(u.prompt)-1]), n); c.Text != want {
			s.t.Errorf("answer %d of %q is %q, want %q", i, u.request.ID, c.Text, want)
		}
	}
}

// prompt is n tokens that all prompts of a kind share, then own ones.
func prompt(kind int32, n int, own ...int32) []int32 {
	p := make([]int32, n, n+len(own))
	for i := range p {
		p[i] = (kind + int32(i)*7) % 100
	}
	return append(p, own...)
}

func TestSharedPrompt(t *testing.T) {
	for name, c := range map[string]struct {
		groups  int32
		noShare bool
		most    float64 // of the prompts' tokens are computed
		least   float64
	}{
		"one system prompt":    {1, false, 0.1, 0},
		"eight system prompts": {8, false, 0.35, 0},
		"no sharing":           {1, true, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, Config{Slots: 8, Rows: 63, IdleCells: 2048, NoShare: c.noShare}, 8192, nil)
			var runs []*run
			for i := range int32(32) {
				runs = append(runs, s.ask(t.Context(), "a", 30, 1, prompt(i%c.groups, 200, i, i+1, i)))
			}
			s.finish()
			submitted, computed := 0, 0
			for _, u := range runs {
				s.wants(u, 30)
				submitted += u.usage.PromptTokens
				computed += u.usage.PromptTokens - u.usage.CachedTokens
			}
			if got := float64(computed) / float64(submitted); got > c.most || got < c.least {
				t.Errorf("%d of %d prompt tokens were computed, %.2f, want at most %v", computed, submitted, got, c.most)
			}
			if want := computed + 32*29; s.stats.Rows != want || s.stats.Shared != submitted-computed {
				t.Errorf("%d tokens computed, want %d: %+v", s.stats.Rows, want, s.stats)
			}
		})
	}
}

func TestNeverAcrossTenants(t *testing.T) {
	s := newStand(t, Config{Slots: 4, Rows: 63, IdleCells: 1000}, 4000, nil)
	cached := func(tenant string) int {
		u := s.ask(t.Context(), tenant, 5, 2, prompt(1, 100))
		s.finish()
		s.wants(u, 5)
		return u.usage.CachedTokens
	}
	for _, tenant := range []string{"a", "b", ""} {
		if got := cached(tenant); got != 0 {
			t.Errorf("%q shares %d tokens with another", tenant, got)
		}
		if got := cached(tenant); got != 99 {
			t.Errorf("%q shares %d tokens with itself, want all but the last", tenant, got)
		}
	}
	a, b := &engine.Request{}, &engine.Request{Model: engine.Model{Adapter: "x"}}
	if newRun(t.Context(), a, nil, 1, false).scope == newRun(t.Context(), b, nil, 1, false).scope {
		t.Error("an adapter shares with the base")
	}
}

// TestNextTurn wants the answer's cells to be found as well, when a conversation goes on.
func TestNextTurn(t *testing.T) {
	s := newStand(t, Config{Slots: 2, Rows: 63, IdleCells: 1000}, 4000, nil)
	first := s.ask(t.Context(), "a", 40, 1, prompt(3, 60))
	s.finish()
	next := append(slices.Clone(first.seqs[0].tokens), 5, 6, 7)
	u := s.ask(t.Context(), "a", 5, 1, next)
	s.finish()
	s.wants(u, 5)
	if got := u.usage.CachedTokens; got != 99 { // the last token of an answer is never computed
		t.Errorf("%d tokens of %d were found, want 99", got, len(next))
	}
}

// TestIdleCellsGiveWay wants a request that needs all cells neither to wait nor to preempt for what only rests.
func TestIdleCellsGiveWay(t *testing.T) {
	s := newStand(t, Config{Slots: 4, Rows: 63, IdleCells: 400}, 500, nil)
	s.cache.fresh = 400
	for i := range int32(4) {
		s.ask(t.Context(), "a", 10, 1, prompt(i, 80))
		s.finish()
	}
	if got := s.read().CellsIdle; got != 4*89 {
		t.Errorf("%d cells rest, want all", got)
	}
	u := s.ask(t.Context(), "b", 50, 1, prompt(50, 440))
	s.once()
	if len(s.running) != 1 {
		t.Error("it waits")
	}
	s.finish()
	s.wants(u, 50)
	if got := s.read(); got.Preempted != 0 || got.CellsInUse != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestCellsEarnTheirPlace wants prompts without anything in common to leave next to nothing behind, since it would slow
// all others, and prompts of a kind to be found again soon.
func TestCellsEarnTheirPlace(t *testing.T) {
	s := newStand(t, Config{Slots: 4, Rows: 63, IdleCells: 1000}, 4000, nil)
	cached := func(kind int32) int {
		u := s.ask(t.Context(), "a", 5, 1, prompt(kind, 300, kind))
		s.finish()
		return u.usage.CachedTokens
	}
	for i := range int32(30) {
		cached(i)
	}
	if got := s.read().CellsIdle; got > leastFresh {
		t.Errorf("%d cells rest of prompts that nobody shares", got)
	}
	want := 0
	for i := range 5 {
		got := cached(99)
		if got < min(want, 300) {
			t.Errorf("%d tokens of a prompt were found at its use %d, want %d", got, i+1, want)
		}
		want = max(leastFresh, 2*want)
	}
	if got := s.read().CellsIdle; got < 300 {
		t.Errorf("%d cells rest of a prompt that all share", got)
	}
}

// TestManyTenantsInTurn wants the beginnings of all to be kept, though none comes twice before all others have.
func TestManyTenantsInTurn(t *testing.T) {
	s := newStand(t, Config{Slots: 2, Rows: 63, IdleCells: 1000}, 4000, nil)
	s.cache.fresh = leastFresh
	cached := 0
	for i := range int32(80) {
		u := s.ask(t.Context(), fmt.Sprint(i%8), 5, 1, prompt(i%8, 100, i))
		s.finish()
		cached += u.usage.CachedTokens
	}
	if cached < 60*100 {
		t.Errorf("%d tokens of %d were found", cached, 80*100)
	}
}

// TestGroupsGoTogether wants requests that begin alike to run beside each other, so that fewer cells are in use, each
// beginning to be computed once, and none to wait for ever.
func TestGroupsGoTogether(t *testing.T) {
	const groups, n, shared, drawn = 8, 32, 200, 30
	run := func(begun time.Time) (busiest int, ended []int32, s *stand) {
		s = newStand(t, Config{Slots: 8, Rows: 64, IdleCells: 2048}, 8192, nil)
		var runs []*run
		for i := range int32(n) {
			u := s.ask(t.Context(), "a", drawn, 1, prompt(i%groups, shared, i, i+1, i))
			u.begun = begun
			runs = append(runs, u)
		}
		for steps := 0; len(ended) < n && steps < 5000; steps++ {
			s.once()
			busiest = max(busiest, s.read().CellsInUse)
			for i, u := range runs {
				if u.open == 0 && !slices.Contains(ended, int32(i)) {
					ended = append(ended, int32(i))
				}
			}
		}
		for _, u := range runs {
			s.wants(u, drawn)
		}
		return busiest, ended, s
	}
	busiest, ended, s := run(time.Now())
	if least := groups*shared + n*(3+drawn-1); s.stats.Rows > least+groups*3*worthwhile {
		t.Errorf("%d tokens were computed, %d would do", s.stats.Rows, least)
	}
	if most := 4*shared + 8*(shared/4+reserve); busiest > most {
		t.Errorf("%d cells were in use, want at most %d", busiest, most)
	}
	if kinds := map[int32]bool{ended[0] % groups: true, ended[1] % groups: true, ended[2] % groups: true, ended[3] % groups: true}; len(kinds) > 2 {
		t.Errorf("the first to end were %v", ended[:8])
	}
	_, ended, _ = run(time.Now().Add(-time.Hour)) // they have waited for so long that none is passed over
	if !slices.IsSorted(ended[:groups]) {
		t.Errorf("the first to end were %v", ended[:groups])
	}
}

// TestAwaitedCellsStay wants no beginning to be given up with which somebody who waits begins, though nobody has shared it.
func TestAwaitedCellsStay(t *testing.T) {
	s := newStand(t, Config{Slots: 1, Rows: 64, IdleCells: 1000}, 4000, nil)
	s.cache.fresh = leastFresh
	first := s.ask(t.Context(), "a", 5, 1, prompt(1, 300, 1))
	s.once()
	for i := range int32(3) {
		s.ask(t.Context(), "a", 5, 1, prompt(40+i, 100, i))
	}
	last := s.ask(t.Context(), "a", 5, 1, prompt(1, 300, 2))
	s.finish()
	s.wants(first, 5)
	if got := last.usage.CachedTokens; got != 300 {
		t.Errorf("%d tokens were found, want 300", got)
	}
}

// mover notes whose cells are moved, and may lose them.
type mover struct {
	*machine
	loses bool
	froze []int
}

func (m *mover) freeze(id, from, to int) []byte {
	m.froze = append(m.froze, id)
	return m.machine.freeze(id, from, to)
}

func (m *mover) thaw(state []byte, slot, from, to int) bool {
	return !m.loses && m.machine.thaw(state, slot, from, to)
}

// TestPacks wants the cells of those that go on to be moved when a long one has left, one sequence's in a step, and the
// answers to be right though they are lost.
func TestPacks(t *testing.T) {
	for name, loses := range map[string]bool{"moved": false, "lost": true} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, Config{Slots: 4, Rows: 64, IdleCells: -1, cool: 50}, 4000, nil)
			m := &mover{machine: s.m, loses: loses}
			s.dev, s.cache.dev, s.cache.bound = m, m, 0
			long := s.ask(t.Context(), "a", 5, 1, prompt(50, 600))
			var others []*run
			for i := range int32(3) {
				others = append(others, s.ask(t.Context(), fmt.Sprint(i), 90, 1, prompt(i, 40, i)))
			}
			for steps := 0; len(m.froze) < 3 && steps < 80; steps++ {
				before := len(m.froze)
				if s.once(); len(m.froze) > before+1 {
					t.Error("the cells of two are moved in a step")
				}
			}
			if long.open > 0 || len(m.froze) != 3 {
				t.Errorf("cells of %v were moved", m.froze)
			}
			s.finish()
			for _, u := range others {
				s.wants(u, 90)
			}
		})
	}
}

func TestManyShortAnswersRest(t *testing.T) {
	s := newStand(t, Config{Slots: 250, Rows: 250, IdleCells: 100000}, 100000, nil)
	for i := range int32(50) { // there are ids for five that rest
		s.ask(t.Context(), "a", 2, 1, prompt(i, 20))
		s.finish()
	}
	if n := len(s.cache.ids); n != 0 || s.read().CellsIdle != 5*21 {
		t.Errorf("%d ids are free, %d cells rest", n, s.read().CellsIdle)
	}
}

// TestPreemptionOfSharers runs out of cells while all hold the same prompt: it is never lost.
func TestPreemptionOfSharers(t *testing.T) {
	s := newStand(t, Config{Slots: 8, Rows: 63, IdleCells: 100}, 600, nil)
	var runs []*run
	for i := range int32(8) {
		runs = append(runs, s.ask(t.Context(), "a", 100, 1, prompt(1, 200, i)))
	}
	s.finish()
	for _, u := range runs {
		s.wants(u, 100)
	}
	if s.stats.Preempted == 0 {
		t.Error("nobody was preempted")
	}
	if again := s.stats.Rows - 200 - 8*100; again > s.stats.Preempted*150 {
		t.Errorf("%d tokens were computed again for %d preemptions: the prompt was lost", again, s.stats.Preempted)
	}
}

func TestCancelAmidThePrompt(t *testing.T) {
	s := newStand(t, Config{Slots: 4, Rows: 20, IdleCells: 100}, 2000, nil)
	ctx, cancel := context.WithCancel(t.Context())
	first := s.ask(ctx, "a", 10, 1, prompt(1, 200, 1))
	s.once()
	waits := s.ask(t.Context(), "a", 10, 1, prompt(1, 200, 2))
	for range 3 {
		s.once()
	}
	if len(s.running) != 1 || s.running[0].run != first {
		t.Error("the second request does not wait for what the first is computing")
	}
	cancel()
	s.finish()
	s.wants(waits, 10)
	if _, err := first.wait(nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the first ended with %v", err)
	}
	if s.cache.clear(); s.cache.tree.cells != 0 || len(s.cache.tree.roots) != 0 || s.cache.free != 2000 || len(s.cache.ids) != maxSlots-4 {
		t.Errorf("%d cells are held, %d free", s.cache.tree.cells, s.cache.free)
	}
}

// liar holds less than was computed, as llama.cpp would if the book were wrong.
type liar struct{ *machine }

func (l liar) share(int, int, int) bool { return false }

func TestBookThatIsWrong(t *testing.T) {
	s := newStand(t, Config{Slots: 2, Rows: 63, IdleCells: 100}, 2000, nil)
	s.ask(t.Context(), "a", 10, 1, prompt(1, 100))
	s.finish()
	s.cache.dev = liar{s.m}
	u := s.ask(t.Context(), "a", 10, 1, prompt(1, 100))
	s.finish()
	s.wants(u, 10)
	if u.usage.CachedTokens != 0 || s.stats.Mismatched != 1 {
		t.Errorf("%d tokens were shared all the same: %+v", u.usage.CachedTokens, s.stats)
	}
}

// TestAnyOrder mixes tenants, lengths, answers, cancels and failures of calls on few cells, against the machine's book.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		codes := rapid.SampledFrom([]int32{1, 2, -1, -3})
		rate := rapid.IntRange(5, 40).Draw(rt, "calls between failures")
		s := newStand(t, Config{
			Slots: rapid.IntRange(1, 6).Draw(rt, "slots"), Rows: rapid.IntRange(1, 30).Draw(rt, "rows"),
			IdleCells: rapid.IntRange(0, 120).Draw(rt, "idle"),
			ColdBytes: int64(rapid.IntRange(0, 1000).Draw(rt, "cold")), cool: rapid.SampledFrom([]int{0, 10, 50}).Draw(rt, "cool"),
		}, 300, nil)
		code := codes.Draw(rt, "code")
		s.m.fail = func(call int, rows []row) int32 {
			return map[bool]int32{call%rate == 0 && len(split(rows)) > 1: code}[true]
		}
		var runs []*run
		var cancels []context.CancelFunc
		defer func() {
			for _, c := range cancels {
				c()
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"ask": func(rt *rapid.T) {
				ctx, cancel := context.WithCancel(t.Context())
				cancels = append(cancels, cancel)
				p := prompt(rapid.Int32Range(0, 1).Draw(rt, "kind"), rapid.IntRange(1, 120).Draw(rt, "shared"), rapid.Int32Range(0, 3).Draw(rt, "own"))
				runs = append(runs, s.ask(ctx, fmt.Sprint(rapid.IntRange(0, 1).Draw(rt, "tenant")), rapid.IntRange(1, 60).Draw(rt, "n"),
					rapid.IntRange(1, 3).Draw(rt, "answers"), p))
			},
			"cancel": func(rt *rapid.T) {
				if len(cancels) == 0 {
					rt.Skip("nothing runs")
				}
				rapid.SampledFrom(cancels).Draw(rt, "cancel")()
			},
			"steps": func(rt *rapid.T) {
				for range rapid.IntRange(1, 30).Draw(rt, "steps") {
					s.once()
				}
			},
		})
		s.finish()
		for _, u := range runs {
			if u.ctx.Err() == nil {
				s.wants(u, u.request.Sampling.MaxTokens)
			}
		}
		if s.cache.clear(); s.cache.free != s.cells || len(s.cache.tree.roots) != 0 {
			t.Errorf("%d cells are free of %d at the end", s.cache.free, s.cells)
		}
		if t.Failed() {
			rt.FailNow()
		}
	})
}
