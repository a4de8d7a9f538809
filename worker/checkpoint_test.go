package worker

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"lorry/engine"
	"lorry/engine/echo"
	"lorry/queue"
	"lorry/result"
)

// long is a text of n words, which echo repeats.
func long(n int) string { return strings.TrimSpace(strings.Repeat("word ", n)) }

// reader is an echo engine: delay for each word.
func reader(t *testing.T, delay time.Duration) *echo.Engine {
	e, err := echo.New(echo.Config{Delay: delay})
	ok(t, err)
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// saver is an engine that tells when each of so many runs has saved something.
type saver struct {
	engine.Engine
	saved sync.WaitGroup
}

func newSaver(e engine.Engine, runs int) *saver {
	s := &saver{Engine: e}
	s.saved.Add(runs)
	return s
}

func (s *saver) Run(ctx context.Context, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	q, tell := *r, sync.OnceFunc(s.saved.Done)
	q.Save = func(x *engine.Resume) { r.Save(x); tell() }
	return s.Engine.Run(ctx, &q, emit)
}

// TestDrainHandsOver: an answer that takes far longer than the grace goes on in another worker, word by word, and costs
// no attempt.
func TestDrainHandsOver(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	first := newSaver(reader(t, 30*time.Millisecond), 3) // 30 s an answer
	stop := r.start(first, func(c *Config) { c.Grace = time.Second })
	var jobs []*queue.Job
	for _, id := range []string{"job_a", "job_b", "job_c"} {
		jobs = append(jobs, r.job(id, long(1000)))
	}
	r.feed(3, jobs...)
	first.saved.Wait()
	began := time.Now()
	stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("drained in %v", took)
	}
	r.start(reader(t, 0))
	for _, j := range jobs {
		v := r.wait(j.ID)
		if c := v.Completion; c.Choices[0].Text != j.Request.Prompt || c.Usage.CompletionTokens != 1000 || c.Usage.ResumedTokens < 32 || v.Attempt != 1 {
			t.Errorf("%s: attempt %d, %+v", j.ID, v.Attempt, c.Usage)
		}
	}
	eventually(t, "all is acknowledged", r.windowEmpty)
	eventually(t, "no checkpoint is left", func() bool {
		keys, err := r.s.Redis().Keys(t.Context(), "{acme}:resume:*").Result()
		return err == nil && len(keys) == 0
	})
}

// TestVanishedWorker: what it had written is gone on from when its lease runs out.
func TestVanishedWorker(t *testing.T) {
	r := newRoad(t, shortLease)
	e := newSaver(reader(t, 5*time.Millisecond), 1)
	w, err := New(t.Context(), Config{Queue: r.q, Results: r.s, Engine: e, Slots: 8})
	ok(t, err)
	j := r.job("job_v", long(1000))
	r.feed(1, j)
	ls := r.pull()
	w.hard, w.cancelAll = context.WithCancelCause(t.Context())
	w.take(ls) // it runs; nobody holds its lease
	e.saved.Wait()
	w.keep()
	w.cancelAll(errLost) // it is gone
	r.start(reader(t, 0))
	v := r.wait(j.ID)
	if u := v.Completion.Usage; u.ResumedTokens < 32 || u.CompletionTokens != 1000 || v.Attempt != 2 || v.Completion.Choices[0].Text != j.Request.Prompt {
		t.Errorf("attempt %d, %+v", v.Attempt, u)
	}
}

// TestTurns: what a job goes on from in each of its turns.
func TestTurns(t *testing.T) {
	some := func(n int) *engine.Resume {
		return &engine.Resume{Choices: []engine.Partial{{Tokens: make([]int32, n)}}}
	}
	for name, c := range map[string]struct {
		turns []error // how each turn ends after it has saved ten tokens more
		want  []int   // tokens that each turn begins with
	}{
		"given back":                   {[]error{engine.Errorf(engine.Unavailable, "", "", "restart"), nil}, []int{0, 10}},
		"given back twice":             {[]error{engine.Errorf(engine.Unavailable, "", "", "restart"), engine.Errorf(engine.Unavailable, "", "", "restart"), nil}, []int{0, 10, 20}},
		"a suspect starts over":        {[]error{engine.Errorf(engine.Crashed, "", "", "abort"), nil}, []int{0, 0}},
		"and after a crash of its own": {[]error{engine.Errorf(engine.Crashed, "", "", "abort"), engine.Errorf(engine.Crashed, "", "", "abort"), nil}, []int{0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoad(t, 30*time.Second)
			e := newScripted(func(_ context.Context, q *engine.Request, n int) (*engine.Completion, error) {
				if got := q.Resume.Tokens(); n > len(c.want) || got != c.want[n-1] {
					t.Errorf("turn %d begins with %d tokens, want %v", n, got, c.want)
				}
				q.Save(some(q.Resume.Tokens() + 10))
				if err := c.turns[n-1]; err != nil {
					return nil, err
				}
				return answer("fine"), nil
			})
			r.start(e)
			j := r.job("job_t", "p")
			r.feed(1, j)
			if v := r.wait(j.ID); v.State != queue.Succeeded || e.count(j.ID) != len(c.want) {
				t.Errorf("%s after %d turns: %v", v.State, e.count(j.ID), v.Error)
			}
		})
	}
}

// TestCheckpoints: they are found by the next claim of a delivery that comes again, and by no other.
func TestCheckpoints(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	j, other := r.job("job_k", "p"), r.job("job_o", "p")
	r.feed(2, j, other)
	claim := func() []*result.Held {
		t.Helper()
		ls := r.pull()
		cs, err := r.s.Claim(t.Context(), "w", time.Minute, ls)
		ok(t, err)
		t.Cleanup(func() { _ = ls[0].Return() })
		if len(cs[0].Run) == 2 {
			ok(t, ls[0].Return())
		}
		return cs[0].Run
	}
	saved := &engine.Resume{Choices: []engine.Partial{{Tokens: []int32{1, 2, 3}}}}
	ok(t, r.s.Keep(t.Context(), result.Checkpoint{Job: j, Resume: saved}))
	if hs := claim(); hs[0].Resume != nil || hs[1].Resume != nil {
		t.Error("a job's first owner goes on from somewhere")
	}
	hs := claim()
	if hs[0].Resume.Tokens() != 3 || hs[1].Resume != nil {
		t.Errorf("found %+v and %+v", hs[0].Resume, hs[1].Resume)
	}
	ok(t, r.s.Redis().Set(t.Context(), "{acme}:resume:job_o", `{"v":99,"resume":{"choices":[{"tokens":[1]}]}}`, 0).Err())
	ok(t, r.s.DropKept(t.Context(), j))
	if hs = claim(); hs[0].Resume != nil || hs[1].Resume != nil {
		t.Error("one that was dropped, or of a later version, is gone on from")
	}
	huge := &engine.Resume{Choices: []engine.Partial{{Tokens: make([]int32, 1<<20)}}}
	ok(t, r.s.Keep(t.Context(), result.Checkpoint{Job: j, Resume: huge}))
	if hs = claim(); hs[0].Resume != nil {
		t.Error("one without bounds was kept")
	}
	ok(t, r.s.Release(t.Context(), result.Release{Held: hs[1], GiveBack: true, Saved: saved}))
	if hs = claim(); hs[1].Resume.Tokens() != 3 {
		t.Errorf("released with %+v", hs[1].Resume)
	}
}
