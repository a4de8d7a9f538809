package llama

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// shop stands for llama.cpp's part in adapters: it fails the test where llama.cpp would crash or compute nonsense, and
// takes the time that things take.
type shop struct {
	t      *testing.T
	step   time.Duration // of a call
	change time.Duration // of a call after a change, on top
	copy   time.Duration // of loading one
	broken *adapter      // can't be loaded

	mu      sync.Mutex
	loaded  map[llama.AdapterLora]*adapter
	next    llama.AdapterLora
	now     llama.AdapterLora
	loading bool
	unsized bool
	worst   int64 // bytes at the same moment
}

func (s *shop) load(a *adapter) (llama.AdapterLora, error) {
	s.mu.Lock()
	if s.loading {
		s.t.Error("two are loaded at once")
	}
	s.loading = true
	s.mu.Unlock()
	time.Sleep(s.copy)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loading = false
	if a == s.broken {
		return 0, badAdapter(a.digest, errors.New("broken"))
	}
	s.next++
	s.loaded[s.next] = a
	var sum int64
	for _, x := range s.loaded {
		sum += x.bytes
	}
	s.worst = max(s.worst, sum)
	return s.next, nil
}

func (s *shop) unload(handle llama.AdapterLora) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loading || s.loaded[handle] == nil {
		s.t.Errorf("%d is freed while another is loaded, or twice", handle)
	}
	delete(s.loaded, handle)
	if s.now == handle {
		s.now, s.unsized = 0, true
	}
}

func (s *shop) use(handle llama.AdapterLora) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if handle != 0 && s.loaded[handle] == nil {
		s.t.Errorf("%d is used and not loaded", handle)
	}
	s.unsized = s.unsized || s.now != handle
	s.now = handle
	return true
}

// compute is a call of decode.
func (s *shop) compute(rows []row) {
	s.mu.Lock()
	took := s.step
	if s.unsized {
		took += s.change
	}
	if s.unsized && s.loading {
		s.t.Error("the graph is planned anew while an adapter is loaded")
	}
	s.unsized = false
	for _, r := range rows {
		if want := r.seq.run.adapter; s.loaded[s.now] != want {
			s.t.Errorf("%s computes with the wrong adapter", r.seq.run.request.ID)
		}
	}
	s.mu.Unlock()
	time.Sleep(took)
}

// fleet is n adapters of 100 bytes.
func fleet(n int) (all []*adapter) {
	for i := range n {
		all = append(all, &adapter{digest: fmt.Sprint(i), bytes: 100})
	}
	return all
}

// adapterWorld is a loop over a machine on which a call takes 10 ms, 5 more after a change, and loading takes 50.
func adapterWorld(t *testing.T, most int64) (*world, *machine) {
	return slottedWorld(t, 4, most)
}

func slottedWorld(t *testing.T, slots int, most int64) (*world, *machine) {
	m := newMachine(t, 4000, nil)
	m.shop.step, m.shop.change, m.shop.copy = 10*time.Millisecond, 5*time.Millisecond, 50*time.Millisecond
	w := &world{submitted: make(chan struct{})}
	w.loop = newLoop(Config{Slots: slots, Rows: 16, IdleCells: 500, StepTarget: -1, AdapterBytes: most}, m, numbers(), 4000, true)
	go w.loop.run()
	t.Cleanup(w.close)
	return w, m
}

// job is a run of n tokens with an adapter, and when it was done.
type job struct {
	*run
	n    int
	done time.Time
	err  error
}

func (w *world) begin(t *testing.T, a *adapter, n, first int) *job {
	return w.ask(t, a, n, first, false)
}

func (w *world) ask(t *testing.T, a *adapter, n, first int, streams bool) *job {
	j := newJob(t, a, n, first, streams)
	w.enter(j)
	return j
}

func newJob(t *testing.T, a *adapter, n, first int, streams bool) *job {
	u := counting(t.Context(), fmt.Sprint(first), n, 1, 7, 8, int32(first))
	u.begun, u.outbox = time.Now(), newOutbox(streams)
	u.adapter = a
	if a != nil {
		u.scope.adapter = a.digest
	}
	return &job{run: u, n: n}
}

// enter queues jobs at one moment: the loop sees all of them, or none.
func (w *world) enter(jobs ...*job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range jobs {
		w.inbox = append(w.inbox, j.run)
	}
	w.signal()
}

// perCall is how many tokens a call drew on average since before.
func (w *world) perCall(before Stats) float64 {
	s := w.read()
	return float64(s.Drawn-before.Drawn) / float64(s.Steps-before.Steps)
}

// each begins a job for each of the adapters.
func (w *world) each(t *testing.T, adapters []*adapter, n, first int) []*job {
	return w.many(t, len(adapters), adapters, n, first)
}

// many begins count jobs of n tokens, of one of the adapters after the other.
func (w *world) many(t *testing.T, count int, adapters []*adapter, n, first int) (jobs []*job) {
	for i := range count {
		jobs = append(jobs, newJob(t, adapters[i%len(adapters)], n, (first+i)%100, false))
	}
	w.enter(jobs...)
	return jobs
}

// finish waits for jobs and checks what they say.
func finish(t *testing.T, jobs []*job) {
	t.Helper()
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() {
			var c *engine.Completion
			c, j.err = j.wait(func(engine.Chunk) {})
			j.done = time.Now()
			if want := after(int(j.prompt[2]), j.n); j.err == nil && c.Choices[0].Text != want {
				t.Errorf("job %d: got %q, want %q", i, c.Choices[0].Text, want)
			}
		})
	}
	wg.Wait()
}

func noErrors(t *testing.T, jobs []*job) {
	t.Helper()
	for i, j := range jobs {
		if j.err != nil {
			t.Errorf("job %d: %v", i, j.err)
		}
	}
}

// TestTurnsShare: sequences of three adapters that are watched get on alike, and few changes are made.
func TestTurnsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := adapterWorld(t, 1000)
		kinds := append(fleet(2), nil)
		var jobs []*job
		for i, a := range kinds {
			jobs = append(jobs, newJob(t, a, 200, i, true))
		}
		w.enter(jobs...)
		began := time.Now()
		finish(t, jobs)
		noErrors(t, jobs)
		first, last := jobs[0].done, jobs[0].done
		for _, j := range jobs {
			first, last = minTime(first, j.done), maxTime(last, j.done)
		}
		if apart := last.Sub(first); apart > last.Sub(began)/5 {
			t.Errorf("the first ended %v before the last, of %v", apart, last.Sub(began))
		}
		s := w.read()
		if spent := time.Duration(s.Changes) * 5 * time.Millisecond; spent > last.Sub(began)/10 || s.Turns < 10 {
			t.Errorf("%d changes in %v, %d turns", s.Changes, last.Sub(began), s.Turns)
		}
		if s.ChangeCost < 4*time.Millisecond || s.ChangeCost > 6*time.Millisecond {
			t.Errorf("a change costs %v, want 5 ms", s.ChangeCost)
		}
	})
}

// TestCalmTurnsAreLong: where nobody watches, those of one adapter are done before those of the next begin; but not where
// they would take for ever.
func TestCalmTurnsAreLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := adapterWorld(t, 1000)
		kinds := fleet(2)
		finish(t, w.each(t, kinds, 1, 90)) // both are loaded
		before, began := w.read(), time.Now()
		jobs := w.each(t, kinds, 100, 0)
		finish(t, jobs)
		if first := minTime(jobs[0].done, jobs[1].done).Sub(began); first > 1100*time.Millisecond {
			t.Errorf("the first took %v for 100 steps", first)
		}
		if n := w.read().Changes - before.Changes; n > 2 {
			t.Errorf("%d changes", n)
		}
		began = time.Now()
		long := w.each(t, []*adapter{kinds[0]}, 900, 0)
		short := w.each(t, []*adapter{kinds[1]}, 10, 1)
		finish(t, append(long, short...))
		if took := short[0].done.Sub(began); took > calmTurn+200*time.Millisecond {
			t.Errorf("the short one took %v", took)
		}
		noErrors(t, slices.Concat(jobs, long, short))
	})
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// TestTurnsWaitIsBounded: a request gets in and on, however many of another adapter keep coming, and sooner when somebody
// watches it. While it waits, calls are full.
func TestTurnsWaitIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		streams     bool
		least, most time.Duration
	}{
		"a batch's": {false, tenure - 2*time.Second, tenure + 2*time.Second},
		"watched":   {true, 0, urgentTenure + 2*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := adapterWorld(t, 1000)
				kinds := fleet(2)
				crowd := w.many(t, 120, kinds[:1], 50, 0) // 4 slots: 30 rounds of half a second
				time.Sleep(100 * time.Millisecond)
				late := w.ask(t, kinds[1], 10, 99, c.streams)
				began := time.Now()
				var wg sync.WaitGroup
				wg.Go(func() { finish(t, crowd) })
				finish(t, []*job{late})
				if took := time.Since(began); took < c.least || took > c.most || late.err != nil {
					t.Errorf("it took %v, %v", took, late.err)
				}
				wg.Wait()
				noErrors(t, crowd)
			})
		})
	}
}

// TestAdaptersGoTogether: of many adapters with few requests each, those of one run beside each other.
func TestAdaptersGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := adapterWorld(t, 1000)
		kinds := fleet(8)
		jobs := w.many(t, 16, kinds, 50, 0) // two of each, and four slots
		finish(t, jobs)
		noErrors(t, jobs)
		s := w.read()
		if mean := w.perCall(Stats{}); mean < 1.8 {
			t.Errorf("calls draw %.1f tokens on average, of 2: %+v", mean, s)
		}
	})
}

// TestSlotsComeBack: however many of the slots were given to the first requests of each adapter, they go to those of one
// when the others have come; but who is watched keeps its own. Each hears once that it has begun.
func TestSlotsComeBack(t *testing.T) {
	for first := range 6 {
		for _, watched := range []bool{false, true} {
			t.Run(fmt.Sprint(first, watched), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, _ := adapterWorld(t, 1000)
					kinds, begun := fleet(2), make([]int, 16)
					finish(t, w.each(t, kinds, 1, 90)) // both are loaded
					before := w.read()
					var jobs []*job
					for i := range begun {
						if i == first {
							w.enter(jobs...)
							time.Sleep(5 * time.Millisecond) // a step has begun
						}
						j := newJob(t, kinds[i%2], 50, i, watched && i == 1)
						j.request.Began = func() { begun[i]++ }
						jobs = append(jobs, j)
					}
					w.enter(jobs[first:]...)
					finish(t, jobs)
					noErrors(t, jobs)
					s := w.read()
					if mean := w.perCall(before); !watched && mean < 3.5 {
						t.Errorf("calls draw %.1f tokens on average, of 4", mean)
					}
					for i, j := range jobs {
						if begun[i] != 1 {
							t.Errorf("job %d heard %d times that it has begun", i, begun[i])
						}
						if watched && first > 1 && i > 7 && j.done.Before(jobs[1].done) {
							t.Errorf("job %d was done before the one that is watched", i)
						}
					}
					shared := 0
					for _, j := range jobs {
						shared += j.usage.CachedTokens
					}
					if got := s.Shared - before.Shared; got != shared {
						t.Errorf("%d tokens were shared, the answers count %d", got, shared)
					}
				})
			})
		}
	}
}

// TestFullCallsGoFirst: who was let in before the others of its adapter came waits for them, instead of computing alone
// and leaving calls one short. But not who is watched.
func TestFullCallsGoFirst(t *testing.T) {
	for early := range 9 {
		for _, watched := range []bool{false, true} {
			t.Run(fmt.Sprint(early, watched), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, _ := slottedWorld(t, 8, 1000)
					kinds := fleet(8)
					finish(t, w.each(t, kinds, 1, 90)) // all are loaded
					before, began := w.read(), time.Now()
					var jobs []*job
					for i := range 32 {
						if i == early {
							w.enter(jobs...)
							time.Sleep(300 * time.Millisecond)
						}
						jobs = append(jobs, newJob(t, kinds[i%8], 50, i, watched && i < early))
					}
					w.enter(jobs[early:]...)
					finish(t, jobs)
					noErrors(t, jobs)
					s := w.read()
					if mean := w.perCall(before); !watched && mean < 3.7 {
						t.Errorf("calls draw %.2f tokens on average, of 4", mean)
					}
					for i, j := range jobs {
						if j.usage.CachedTokens > 2 {
							t.Errorf("job %d found %d tokens of its prompt: these are its own", i, j.usage.CachedTokens)
						}
					}
					for i, j := range jobs[:early] {
						if took := j.done.Sub(began); watched && took > 6*time.Second {
							t.Errorf("job %d is watched, and took %v", i, took)
						}
					}
					if len(w.loop.running)+len(w.loop.waiting) > 0 || s.Outstanding > 0 {
						t.Errorf("%d run and %d wait when all have ended: %+v", len(w.loop.running), len(w.loop.waiting), s)
					}
				})
			})
		}
	}
}

// TestParkedHoldsNoRoom: an adapter that needs the room of one whose answers are parked gets it, since these go on.
func TestParkedHoldsNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := slottedWorld(t, 8, 200)
		kinds := fleet(3)
		kinds[2].bytes = 200 // all there is
		finish(t, w.each(t, kinds[:2], 1, 90))
		jobs := w.each(t, kinds[:2], 300, 0)
		time.Sleep(calmTurn + 300*time.Millisecond)               // both draw
		jobs = append(jobs, w.many(t, 60, kinds[1:2], 50, 10)...) // four seconds
		jobs = append(jobs, w.many(t, 3, kinds[:1], 50, 50)...)
		time.Sleep(500 * time.Millisecond)
		if w.read().Parked == 0 {
			t.Error("nobody was parked: this test shows nothing")
		}
		hurry, asked := newJob(t, kinds[2], 50, 60, false), time.Now()
		hurry.request.Deadline = asked.Add(4 * time.Second).UnixMilli()
		w.enter(hurry)
		finish(t, append(jobs, hurry))
		noErrors(t, append(jobs, hurry))
		if took := hurry.done.Sub(asked); took > 4*time.Second {
			t.Errorf("who hurried waited %v for room", took)
		}
	})
}

// TestEnqueue: who comes back waits where it waited before, behind preempted ones and before those that are wanted later.
func TestEnqueue(t *testing.T) {
	l, at := &loop{}, time.Unix(1000, 0)
	of := func(id string, begun int, wanted int64, started bool) *sequence {
		return &sequence{run: &run{request: &engine.Request{ID: id, Deadline: wanted}, begun: at.Add(time.Duration(begun) * time.Second), started: started}}
	}
	l.waiting = []*sequence{of("preempted", 9, 0, true)}
	for _, s := range []*sequence{of("c", 3, 0, false), of("soon", 4, 5, false), of("a", 1, 0, false), of("d", 4, 0, false), of("b", 2, 0, false)} {
		l.enqueue(s)
	}
	var ids []string
	for _, s := range l.waiting {
		ids = append(ids, s.run.request.ID)
	}
	if want := []string{"preempted", "soon", "a", "b", "c", "d"}; !slices.Equal(ids, want) {
		t.Errorf("got %q, want %q", ids, want)
	}
}

// TestParkedWaitIsBounded: who waits for others of its adapter gets on after a tenure, however many of another keep coming.
func TestParkedWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := slottedWorld(t, 8, 1000)
		kinds := fleet(2)
		finish(t, w.each(t, kinds, 1, 90))
		both, began := w.each(t, kinds, 50, 1), time.Now()
		crowd, early := both[:1], both[1]
		time.Sleep(300 * time.Millisecond)                         // it has drawn some
		crowd = append(crowd, w.many(t, 320, kinds[:1], 50, 3)...) // forty rounds of half a second
		mates := w.many(t, 3, kinds[1:], 50, 3)
		var wg sync.WaitGroup
		wg.Go(func() { finish(t, crowd) })
		finish(t, []*job{early})
		if took := time.Since(began); took > tenure+3*time.Second {
			t.Errorf("it took %v", took)
		}
		finish(t, mates)
		wg.Wait()
		noErrors(t, append(crowd, early))
	})
}

// TestCrowdOfAdapters: requests of many adapters, in no order, share calls with those of their own, and all are
// answered though only some adapters fit.
func TestCrowdOfAdapters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := adapterWorld(t, 300)
		kinds := fleet(8)
		var jobs []*job
		for i := range 64 {
			jobs = append(jobs, newJob(t, kinds[i*5%8], 20, i, false))
		}
		w.enter(jobs...)
		finish(t, jobs)
		noErrors(t, jobs)
		s := w.read()
		if mean := w.perCall(Stats{}); mean < 3 {
			t.Errorf("calls draw %.1f tokens on average, of 4: %+v", mean, s)
		}
		shown, err := w.inspect(t.Context())
		if a := shown.Adapters; err != nil || a.Loads != s.AdapterLoads || a.Loaded != s.Adapters || a.Evicted != s.Evicted || a.Changes != s.Changes {
			t.Errorf("shown as %+v, %v; counted %+v", a, err, s)
		}
		if s.AdapterLoads > 16 || s.Evicted < 5 || s.Adapters > 3 || m.shop.worst > 300 {
			t.Errorf("%d bytes were loaded: %+v", m.shop.worst, s)
		}
	})
}

// TestLoadingStopsNobody: while an adapter is loaded those whose turn it is go on at their pace.
func TestLoadingStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := adapterWorld(t, 1000)
		m.shop.copy = time.Second
		base := w.begin(t, nil, 50, 1)
		time.Sleep(50 * time.Millisecond)
		late := w.begin(t, fleet(1)[0], 5, 2)
		began := time.Now()
		finish(t, []*job{base})
		if took := time.Since(began); took > 520*time.Millisecond || base.err != nil {
			t.Errorf("50 tokens took %v beside a load, %v", took, base.err)
		}
		finish(t, []*job{late})
		noErrors(t, []*job{late})
	})
}

// TestBrokenAdapter: those who asked for it get its error, everybody else an answer.
func TestBrokenAdapter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := adapterWorld(t, 250)
		kinds := fleet(3)
		kinds[2].bytes, kinds[1].pinned = 200, true
		m.shop.broken = kinds[0]
		jobs := w.each(t, []*adapter{kinds[0], nil, kinds[1], kinds[0], kinds[2]}, 10, 0)
		finish(t, jobs)
		for i, bad := range []bool{true, false, false, true, true} { // the last has no room beside the pinned one
			if errors.Is(jobs[i].err, engine.ErrInvalid) != bad || !bad && jobs[i].err != nil {
				t.Errorf("job %d: %v", i, jobs[i].err)
			}
		}
		if again := w.begin(t, nil, 5, 50); true {
			finish(t, []*job{again})
			noErrors(t, []*job{again})
		}
	})
}

// TestCloseWhileLoading: close waits for the load, and ends those who wait for it.
func TestCloseWhileLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := adapterWorld(t, 1000)
		j := w.begin(t, fleet(1)[0], 5, 1)
		time.Sleep(10 * time.Millisecond)
		w.close()
		finish(t, []*job{j})
		if !errors.Is(j.err, engine.ErrUnavailable) {
			t.Errorf("got %v", j.err)
		}
	})
}

func TestTurns(t *testing.T) {
	a := fleet(3)
	at := time.Unix(1000, 0)
	nearby := at.Add(time.Second)
	both := []group{{adapter: a[0], rows: 2}, {adapter: a[1], rows: 1, urgent: true}}
	calm := []group{{adapter: a[0], rows: 2, urgent: true}, {adapter: a[1], rows: 1}}
	hurry := []group{{adapter: a[0], rows: 9}, {adapter: a[1], rows: 1}, {adapter: a[2], rows: 1, deadline: nearby, urgent: true}}
	for name, c := range map[string]struct {
		turns  turns
		groups []group
		fixed  bool
		want   *adapter
	}{
		"one":                     {turns{now: a[0], begun: at}, []group{{adapter: a[1]}}, false, a[1]},
		"not over yet":            {turns{now: a[0], begun: at.Add(-150 * time.Millisecond)}, both, false, a[0]},
		"over":                    {turns{now: a[0], begun: at.Add(-200 * time.Millisecond)}, both, false, a[1]},
		"nobody waits for it":     {turns{now: a[0], begun: at.Add(time.Millisecond - calmTurn)}, calm, false, a[0]},
		"but not for ever":        {turns{now: a[0], begun: at.Add(-calmTurn)}, calm, false, a[1]},
		"fixed":                   {turns{now: a[0], begun: at.Add(-time.Hour)}, both, true, a[0]},
		"its work is done":        {turns{now: a[2], begun: at}, both, false, a[0]},
		"in line":                 {turns{now: a[2], begun: at, line: []*adapter{a[1]}}, both, false, a[1]},
		"a deadline cuts a turn":  {turns{now: a[0], begun: at.Add(-100 * time.Millisecond)}, hurry, false, a[2]},
		"but not below the least": {turns{now: a[0], begun: at.Add(-99 * time.Millisecond)}, hurry, false, a[0]},
		"nor twice in a row":      {turns{now: a[0], begun: at.Add(-100 * time.Millisecond), rushed: true}, hurry, false, a[0]},
		"then the line goes on":   {turns{now: a[0], begun: at.Add(-time.Second), rushed: true}, hurry, false, a[1]},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.turns.next(c.groups, at, c.fixed); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if slices.Contains(c.turns.line, c.turns.now) {
				t.Error("who has the turn waits for it")
			}
		})
	}
}

// TestChangeCost: what a change costs is learned, even where the first calls of a size took longer than usual and every
// later one comes behind a change.
func TestChangeCost(t *testing.T) {
	c := cost{}
	c.note(2, 40*time.Millisecond) // the first is slow
	for range 200 {
		for i := range 1 + turnFactor*c.change()/(20*time.Millisecond) { // a turn
			took := 20 * time.Millisecond
			if c.changed = i == 0; c.changed {
				took += 5 * time.Millisecond
			}
			c.note(2, took)
		}
	}
	if got := c.change(); got < 4*time.Millisecond || got > 6*time.Millisecond {
		t.Errorf("got %v, want 5 ms", got)
	}
}

func TestFavour(t *testing.T) {
	a := fleet(3)
	at := time.Unix(1000, 0)
	nearby := at.Add(time.Second)
	over := turns{favoured: a[0], since: at.Add(-tenure)}
	for name, c := range map[string]struct {
		turns  turns
		claims []claim
		want   *adapter
	}{
		"nobody":                {turns{favoured: a[0]}, nil, a[0]},
		"first come":            {turns{}, []claim{{adapter: a[1]}, {adapter: a[0]}}, a[1]},
		"stays":                 {turns{favoured: a[0], since: at.Add(-9 * time.Second)}, []claim{{adapter: a[1]}, {adapter: a[0]}}, a[0]},
		"is over":               {over, []claim{{adapter: a[1]}, {adapter: a[0]}}, a[1]},
		"is over sooner":        {turns{favoured: a[0], since: at.Add(-3 * time.Second), tenure: time.Second}, []claim{{adapter: a[1]}, {adapter: a[0]}}, a[1]},
		"nobody else":           {over, []claim{{adapter: a[0]}}, a[0]},
		"has none":              {turns{favoured: a[0], since: at}, []claim{{adapter: a[2]}, {adapter: a[1]}}, a[2]},
		"a deadline is near":    {over, []claim{{adapter: a[0]}, {adapter: a[1]}, {a[2], nearby, true}}, a[2]},
		"one is far":            {over, []claim{{adapter: a[1]}, {a[2], at.Add(time.Hour), false}}, a[1]},
		"the base":              {over, []claim{{adapter: a[0]}, {}}, nil},
		"another is urgent":     {turns{favoured: a[0], since: at.Add(-urgentTenure)}, []claim{{adapter: a[0]}, {adapter: a[1], urgent: true}}, a[1]},
		"it is urgent itself":   {turns{favoured: a[0], since: at.Add(-urgentTenure)}, []claim{{adapter: a[0], urgent: true}, {adapter: a[1]}}, a[0]},
		"not urgent enough yet": {turns{favoured: a[0], since: at.Add(-time.Second)}, []claim{{adapter: a[0]}, {adapter: a[1], urgent: true}}, a[0]},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.turns.favour(c.claims, at); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestResumedHoldsItsAdapter: an answer that began elsewhere holds its adapter while it is at work here, and no longer.
func TestResumedHoldsItsAdapter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := adapterWorld(t, 1000)
		a := fleet(1)[0]
		var held int
		m.fail = func(int, []row) int32 { held = a.runs; return 0 }
		u := counting(t.Context(), "resumed", 20, 1, 7, 8, 9)
		u.adapter, u.scope.adapter = a, a.digest
		u.adopt(engine.Usage{}, 1)
		if err := w.submit(u); err != nil {
			t.Fatal(err)
		}
		if _, err := u.wait(nil); err != nil {
			t.Fatal(err)
		}
		w.close()
		if held != 1 || a.runs != 0 {
			t.Errorf("%d runs held the adapter, and %d at the end", held, a.runs)
		}
	})
}
