package llama

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// machine stands for llama.cpp where a call is to fail, which the real one does on no command. It computes the token
// after the last one, and keeps book of the cells as llama.cpp would: a gap or an overflow is a test's failure.
type machine struct {
	t     *testing.T
	cells map[int][]*int32 // by sequence; those that share a cell hold the same
	room  int
	fail  func(call int, rows []row) int32
	calls int
	last  []row
	hold  bool // the loop begins when together has submitted all
	shop  shop
}

func newMachine(t *testing.T, room int, fail func(int, []row) int32) *machine {
	return &machine{t: t, cells: map[int][]*int32{}, room: room, fail: fail, shop: shop{t: t, loaded: map[llama.AdapterLora]*adapter{}}}
}

func (m *machine) decode(rows []row) int32 {
	m.calls++
	m.shop.compute(rows)
	if m.fail != nil {
		if code := m.fail(m.calls, rows); code != 0 {
			return code
		}
	}
	for _, r := range rows {
		if len(m.cells[r.seq.slot]) != r.pos {
			m.t.Errorf("slot %d holds %d cells, row has position %d", r.seq.slot, len(m.cells[r.seq.slot]), r.pos)
			return -1
		}
		if !m.same(r) {
			return -1
		}
		m.cells[r.seq.slot] = append(m.cells[r.seq.slot], &r.token)
	}
	if used := m.used(); used > m.room {
		m.t.Errorf("%d cells are used of %d", used, m.room)
	}
	m.last = slices.Clone(rows)
	return 0
}

// same wants the tokens in a sequence's cells to be those that it is to go on from.
func (m *machine) same(r row) bool {
	for i, c := range m.cells[r.seq.slot] {
		if *c != r.seq.tokens[i] {
			m.t.Errorf("slot %d holds token %d at %d, where its sequence has %d", r.seq.slot, *c, i, r.seq.tokens[i])
			return false
		}
	}
	return true
}

func (m *machine) used() int {
	all := map[*int32]bool{}
	for _, cells := range m.cells {
		for _, c := range cells {
			all[c] = true
		}
	}
	return len(all)
}

// logits favours the successor of a row's token, so every right answer is a sequence of numbers.
func (m *machine) logits(i int) []float32 {
	row := make([]float32, 100)
	row[(m.last[i].token+1)%100] = 1
	return row
}

func (m *machine) share(from, to, n int) bool {
	if n < 1 || len(m.cells[from]) < n || len(m.cells[to]) > 0 {
		m.t.Errorf("%d cells of %d's %d are to be shared with %d, which has %d", n, from, len(m.cells[from]), to, len(m.cells[to]))
		return false
	}
	m.cells[to] = slices.Clone(m.cells[from][:n])
	return true
}

// freeze writes tokens for cells.
func (m *machine) freeze(id, from, to int) (state []byte) {
	if from < 0 || from >= to || to > len(m.cells[id]) {
		m.t.Errorf("cells %d to %d of %d's %d are to be saved", from, to, id, len(m.cells[id]))
		return nil
	}
	state = binary.AppendVarint(nil, int64(from))
	for _, c := range m.cells[id][from:to] {
		state = binary.AppendVarint(state, int64(*c))
	}
	return state
}

func (m *machine) thaw(state []byte, slot, from, to int) bool {
	first, n := binary.Varint(state)
	var cells []*int32
	for state = state[n:]; len(state) > 0; state = state[n:] {
		var x int64
		x, n = binary.Varint(state)
		cells = append(cells, new(int32(x)))
	}
	if len(m.cells[slot]) != from || int(first) > from || to > int(first)+len(cells) {
		m.t.Errorf("slot %d holds %d cells, cells %d to %d come back of %d from %d on", slot, len(m.cells[slot]), from, to, len(cells), first)
		return false
	}
	if used := m.used() + len(cells); used > m.room {
		m.t.Errorf("%d cells are used of %d while some come back", used, m.room)
	}
	m.cells[slot] = append(m.cells[slot], cells[from-int(first):to-int(first)]...)
	return true
}

func (m *machine) remove(slot, from int) bool {
	if from == 0 {
		delete(m.cells, slot)
	} else {
		m.cells[slot] = slices.Clip(m.cells[slot][:from])
	}
	return true
}

func (m *machine) why(code int32) string { return fmt.Sprint("code ", code) }

func (m *machine) load(a *adapter) (llama.AdapterLora, error) { return m.shop.load(a) }
func (m *machine) unload(handle llama.AdapterLora)            { m.shop.unload(handle) }
func (m *machine) use(handle llama.AdapterLora) bool          { return m.shop.use(handle) }

// numbers is a vocabulary of which each token is its number and a blank.
func numbers() *vocab {
	v := &vocab{size: 100, end: map[int32]bool{}}
	for i := range 100 {
		v.pieces = append(v.pieces, fmt.Appendf(nil, "%d ", i))
	}
	return v
}

type world struct {
	*loop
	seen      [][]string
	submitted chan struct{} // closed when together has submitted all
}

func startLoop(t *testing.T, dev decoder, slots, cells, rows int) *world {
	w := &world{submitted: make(chan struct{})}
	c := Config{Slots: slots, Rows: rows, IdleCells: cells / 4, Observe: func(ids []string) { w.seen = append(w.seen, ids) }}
	w.loop = newLoop(c, dev, numbers(), cells, true)
	go func() {
		if m := dev.(*machine); m.hold {
			<-w.submitted
		}
		w.loop.run()
	}()
	t.Cleanup(w.close)
	return w
}

// count asks for the n numbers after the prompt's.
func (w *world) count(ctx context.Context, id string, n, answers int, prompt ...int32) (*engine.Completion, error) {
	u := counting(ctx, id, n, answers, prompt...)
	if err := w.submit(u); err != nil {
		return nil, err
	}
	return u.wait(nil)
}

func counting(ctx context.Context, id string, n, answers int, prompt ...int32) *run {
	r := &engine.Request{ID: id, Sampling: engine.Sampling{N: answers, MaxTokens: n}}
	return newRun(ctx, r, prompt, 1000, false)
}

func after(last, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d ", (last+1+i)%100)
	}
	return b.String()
}

// together runs one request of each length at the same moment and checks all answers.
func (w *world) together(t *testing.T, lengths ...int) {
	t.Helper()
	var runs []*run
	for i, n := range lengths {
		runs = append(runs, counting(t.Context(), fmt.Sprint("r", i), n, 1, 7, 8, int32(i)))
		if err := w.submit(runs[i]); err != nil {
			t.Fatal(err)
		}
	}
	close(w.submitted)
	for i, u := range runs {
		c, err := u.wait(nil)
		if err != nil {
			t.Errorf("request %d: %v", i, err)
		} else if got := c.Choices[0].Text; got != after(i, lengths[i]) {
			t.Errorf("request %d: got %q, want %q", i, got, after(i, lengths[i]))
		}
	}
}

func TestLoopPreempts(t *testing.T) {
	m := newMachine(t, 300, nil)
	m.hold = true
	w := startLoop(t, m, 8, 300, 16)
	w.together(t, 200, 90, 190, 10, 150, 200, 80, 130, 5)
	if s := w.read(); s.Preempted == 0 || s.CellsInUse != 0 || s.Running+s.Waiting+s.Outstanding != 0 {
		t.Errorf("want preemptions, and nothing held at the end: %+v", s)
	}
}

func TestLoopFailures(t *testing.T) {
	has := func(rows []row, id string) bool {
		return slices.ContainsFunc(rows, func(r row) bool { return r.seq.run.request.ID == id })
	}
	for name, fail := range map[string]func(int, []row) int32{
		"no room now and then":    func(call int, rows []row) int32 { return map[bool]int32{call%5 == 0 && len(split(rows)) > 1: 1}[true] },
		"one call breaks":         func(call int, rows []row) int32 { return map[bool]int32{call == 4: -3}[true] },
		"calls of several break":  func(call int, rows []row) int32 { return map[bool]int32{len(split(rows)) > 1: -1}[true] },
		"aborted once in a while": func(call int, rows []row) int32 { return map[bool]int32{call%7 == 0 && len(split(rows)) > 1: 2}[true] },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, 2000, fail)
			m.hold = true
			startLoop(t, m, 4, 2000, 16).together(t, 20, 9, 30, 1, 12, 25)
		})
	}
	t.Run("one request always breaks", func(t *testing.T) {
		w := startLoop(t, newMachine(t, 2000, func(_ int, rows []row) int32 {
			return map[bool]int32{has(rows, "bad"): -1}[true]
		}), 4, 2000, 16)
		var wg sync.WaitGroup
		wg.Go(func() { w.together(t, 20, 9, 30) })
		wg.Go(func() {
			if _, err := w.count(t.Context(), "bad", 5, 1, 1, 2); !errors.Is(err, &engine.Error{Class: engine.Internal}) {
				t.Errorf("got %v, want its own failure", err)
			}
		})
		wg.Wait()
	})
}

func TestLoopAnswersShareAPrompt(t *testing.T) {
	m := newMachine(t, 500, nil)
	w := startLoop(t, m, 3, 500, 16)
	prompt := make([]int32, 100)
	prompt[99] = 41
	c, err := w.count(t.Context(), "many", 10, 5, prompt...)
	if err != nil {
		t.Fatal(err)
	}
	for i, choice := range c.Choices {
		if choice.Text != after(41, 10) {
			t.Errorf("answer %d is %q", i, choice.Text)
		}
	}
	if got := w.read(); got.Rows > 300 || got.CellsInUse != 0 {
		t.Errorf("computed %d tokens: the prompt of 100 should be computed once or twice, %+v", got.Rows, got)
	}
	if c.Usage.PromptTokens != 100 || c.Usage.CompletionTokens != 50 {
		t.Errorf("counted %+v", c.Usage)
	}
}

func TestLoopObserves(t *testing.T) {
	w := startLoop(t, newMachine(t, 500, nil), 2, 500, 16)
	for _, id := range []string{"a", "b"} {
		if _, err := w.count(t.Context(), id, 3, 1, 1, 2, 3); err != nil {
			t.Fatal(err)
		}
	}
	w.close()
	var told []string
	for _, ids := range w.seen {
		told = append(told, strings.Join(ids, "+"))
	}
	if got := strings.Join(told, ","); got != "a,,b," && got != "a,b," { // it may not have been idle between them
		t.Errorf("told %q, want each set once, and none at the end", got)
	}
}

func TestLoopCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	w := startLoop(t, newMachine(t, 2000, func(call int, _ []row) int32 {
		if call == 3 {
			cancel(why)
		}
		return 0
	}), 1, 2000, 16)
	if _, err := w.count(ctx, "long", 900, 1, 1); !errors.Is(err, why) {
		t.Errorf("got %v, want the cause", err)
	}
	if _, err := w.count(t.Context(), "next", 3, 1, 1); err != nil { // there is one slot
		t.Errorf("the slot is not free: %v", err)
	}
}

func TestLoopClose(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w := startLoop(t, newMachine(t, 2000, func(int, []row) int32 {
		once.Do(func() { close(entered); <-leave })
		return 0
	}), 1, 2000, 16)
	errs := make(chan error)
	for i := range 3 { // one runs, two wait
		go func() {
			_, err := w.count(t.Context(), fmt.Sprint(i), 900, 1, 1)
			errs <- err
		}()
	}
	<-entered
	w.refuse()
	close(leave)
	for range 3 {
		if err := <-errs; !errors.Is(err, engine.ErrUnavailable) {
			t.Errorf("got %v, want unavailable", err)
		}
	}
	if _, err := w.count(t.Context(), "late", 1, 1, 1); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}

func TestPlan(t *testing.T) {
	by := func(deadline int64, tokens, done int) *sequence {
		return &sequence{run: &run{request: &engine.Request{Deadline: deadline}}, tokens: make([]int32, tokens), done: done}
	}
	seq := func(tokens, done int) *sequence { return by(0, tokens, done) }
	for name, c := range map[string]struct {
		running []*sequence
		limit   int
		want    []int // rows of each
	}{
		"all draw":                {[]*sequence{seq(5, 4), seq(9, 8)}, 8, []int{1, 1}},
		"prompt takes the rest":   {[]*sequence{seq(50, 0), seq(9, 8)}, 8, []int{7, 1}},
		"oldest prompt first":     {[]*sequence{seq(5, 0), seq(9, 0)}, 8, []int{5, 3}},
		"earliest deadline first": {[]*sequence{seq(9, 0), by(20, 9, 0), by(10, 5, 0), seq(3, 2)}, 10, []int{0, 4, 5, 1}},
		"prompt waits":            {[]*sequence{seq(5, 4), seq(9, 0)}, 1, []int{1, 0}},
		"last piece of a prompt":  {[]*sequence{seq(50, 48)}, 8, []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			got, outputs := make([]int, len(c.running)), 0
			for _, r := range fill(drawing(c.running), byDeadline(c.running), c.limit) {
				got[slices.Index(c.running, r.seq)]++
				if r.output {
					outputs++
				}
			}
			done := 0
			for i, s := range c.running {
				if got[i] == s.pending() {
					done++
				}
			}
			if !slices.Equal(got, c.want) || outputs != done {
				t.Errorf("got %v with %d outputs, want %v with %d", got, outputs, c.want, done)
			}
		})
	}
}

// TestEarliestDeadlineStartsFirst has one slot, and requests that come in another order than they are wanted.
func TestEarliestDeadlineStartsFirst(t *testing.T) {
	s := newStand(t, Config{Slots: 1, Rows: 63}, 1000, nil)
	var ended []string
	var runs []*run
	for _, c := range []struct {
		name     string
		deadline int64
	}{{"whenever", 0}, {"late", 300}, {"soon", 100}, {"whenever too", 0}, {"in time", 200}} {
		u := s.ask(t.Context(), c.name, 3, 1, prompt(1, 20))
		u.request.Deadline = c.deadline
		runs = append(runs, u)
	}
	for steps := 0; len(ended) < len(runs) && steps < 1000; steps++ {
		s.once()
		for _, u := range runs {
			if u.open == 0 && !slices.Contains(ended, u.request.ID) {
				ended = append(ended, u.request.ID)
			}
		}
	}
	if want := []string{"soon", "in time", "late", "whenever", "whenever too"}; !slices.Equal(ended, want) {
		t.Errorf("ended in the order %q", ended)
	}
}

// TestPausesAreShort has answers shown while a long prompt comes, on a machine where a call takes 10 ms and a row one
// more: where somebody watches, no two tokens are shown further apart than twice as long as a step takes, and the prompt
// takes no longer than its share of the time allows. Where nobody does, it is there soon.
func TestPausesAreShort(t *testing.T) {
	const calm, rows = 500 * time.Millisecond, 14 * time.Millisecond
	for name, c := range map[string]struct {
		watched       bool
		pause, prompt time.Duration
	}{
		"watched": {true, 2 * rows, 2200 * time.Millisecond},
		"not":     {false, 0, 900 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(t, 4000, func(_ int, rows []row) int32 {
					time.Sleep(time.Duration(len(rows)) * time.Millisecond)
					return 0
				})
				m.shop.step = 10 * time.Millisecond
				w := &world{}
				w.loop = newLoop(Config{Slots: 5, Rows: 128, IdleCells: 500, StepTarget: time.Second, Stretch: 2, apart: true}, m, numbers(), 4000, true)
				go w.loop.run()
				t.Cleanup(w.close)
				var wg sync.WaitGroup
				begun := time.Now()
				for i := range int32(4) {
					u := counting(t.Context(), fmt.Sprint(i), 300, 1, 7, 8, i)
					u.outbox = newOutbox(c.watched)
					if err := w.submit(u); err != nil {
						t.Fatal(err)
					}
					wg.Go(func() {
						last := time.Now()
						u.wait(func(engine.Chunk) {
							if pause := time.Since(last); pause > c.pause && last.Sub(begun) > calm/2 {
								t.Errorf("answer %d paused for %v after %v", i, pause, last.Sub(begun))
							}
							last = time.Now()
						})
					})
				}
				time.Sleep(calm)
				came := time.Now()
				if _, err := w.count(t.Context(), "long", 1, 1, prompt(3, 700)...); err != nil {
					t.Error(err)
				}
				if took := time.Since(came); took > c.prompt {
					t.Errorf("the prompt took %v", took)
				}
				wg.Wait()
			})
		})
	}
}

// TestHeldBack has chunks shown when they are due, and at once when the run has ended, is given up or handed over: then
// all of them before it is saved.
func TestHeldBack(t *testing.T) {
	const at = 1500 * time.Millisecond // when something happens, as a fourth is due in 2 s
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		happens func(*run, context.CancelCauseFunc)
		shown   string
		err     error
	}{
		"nothing":         {func(u *run, _ context.CancelCauseFunc) { time.Sleep(time.Second); u.outbox.end(nil) }, "0s 1s 1s 2s", nil},
		"it ends":         {func(u *run, _ context.CancelCauseFunc) { u.outbox.end(nil) }, "0s 1s 1s 1.5s", nil},
		"it fails":        {func(u *run, _ context.CancelCauseFunc) { u.outbox.end(gone) }, "0s 1s 1s 1.5s", gone},
		"it is cancelled": {func(_ *run, give context.CancelCauseFunc) { give(gone) }, "0s 1s 1s 1.5s", gone},
		"it goes on elsewhere": {func(u *run, give context.CancelCauseFunc) {
			give(engine.ErrHandOver)
			u.outbox.save(&engine.Resume{})
			u.outbox.end(engine.ErrHandOver)
		}, "0s 1s 1s 1.5s saved", engine.ErrHandOver},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, give := context.WithCancelCause(t.Context())
				u := counting(ctx, "r", 9, 1, 7)
				u.outbox = newOutbox(true)
				begun := time.Now()
				var shown []string
				u.request.Save = func(*engine.Resume) { shown = append(shown, "saved") }
				for _, due := range []time.Duration{0, time.Second, 0, 2 * time.Second} {
					u.outbox.put(engine.Chunk{}, begun.Add(due))
				}
				time.AfterFunc(at, func() { c.happens(u, give) })
				_, err := u.wait(func(engine.Chunk) { shown = append(shown, time.Since(begun).String()) })
				if got := strings.Join(shown, " "); got != c.shown || !errors.Is(err, c.err) {
					t.Errorf("shown after %s, want %s; %v", got, c.shown, err)
				}
			})
		})
	}
}

// TestLoopTellsWhoBegan: a request hears once that it has begun, before it is computed, and not while it waits for a slot.
func TestLoopTellsWhoBegan(t *testing.T) {
	begun := map[string]int{}
	m := newMachine(t, 2000, func(call int, rows []row) int32 {
		for _, id := range requests(rows) {
			if begun[id] != 1 {
				t.Errorf("call %d computes %s, which was told %d times", call, id, begun[id])
			}
		}
		if call == 1 && len(begun) != 2 {
			t.Errorf("%v have begun, and there are two slots", begun)
		}
		return 0
	})
	m.hold = true
	w := startLoop(t, m, 2, 2000, 16)
	var runs []*run
	for i := range 5 {
		u := counting(t.Context(), fmt.Sprint("r", i), 20, 1+i%2, 7, 8, int32(i)) // some make two answers
		u.request.Began = func() { begun[u.request.ID]++ }
		runs = append(runs, u)
		if err := w.submit(u); err != nil {
			t.Fatal(err)
		}
	}
	close(w.submitted)
	for _, u := range runs {
		if _, err := u.wait(nil); err != nil {
			t.Error(err)
		}
	}
	w.close()
	if len(begun) != 5 {
		t.Errorf("told %v, want all five", begun)
	}
}
