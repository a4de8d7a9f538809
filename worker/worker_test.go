package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/engine/echo"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/result"
	"lorry/result/resulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// road is a queue and a store over real servers, and workers on them.
type road struct {
	t *testing.T
	q *queue.Queue
	s *result.Store
	b string
}

func newRoad(t *testing.T, ackWait time.Duration) *road {
	q := queuetest.New(t, queue.Config{AckWait: ackWait})
	r := &road{t: t, q: q, s: resulttest.New(t, result.Config{Queue: q}), b: model.B()}
	ok(t, q.SetupBase(t.Context(), r.b))
	return r
}

var model = engine.Model{Name: "echo", Base: echo.Base}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs a worker; stop drains it.
func (r *road) start(e engine.Engine, mods ...func(*Config)) (stop func()) {
	c := Config{Queue: r.q, Results: r.s, Engine: e, Slots: 8, Grace: 5 * time.Second}
	for _, m := range mods {
		m(&c)
	}
	w, err := New(r.t.Context(), c)
	ok(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); ok(r.t, <-done) }) }
	r.t.Cleanup(stop)
	return stop
}

func (r *road) job(id, text string) *queue.Job {
	return &queue.Job{V: queue.V, ID: id, Tenant: "acme", Lane: queue.Flex, Endpoint: queue.Completions, Created: time.Now().UnixMilli(),
		Request: engine.Request{Kind: engine.Text, Model: model, Prompt: text, Sampling: engine.Sampling{N: 1, TopP: 1}}}
}

// feed puts jobs into the window, k a delivery.
func (r *road) feed(k int, jobs ...*queue.Job) {
	r.t.Helper()
	var flat [][]byte
	for _, j := range jobs {
		ok(r.t, r.s.Accept(r.t.Context(), j))
		flat = append(flat, j.Encode())
	}
	_, errs := r.q.Feed(r.t.Context(), queue.Flex, r.b, queue.Pack(flat, k))
	ok(r.t, errors.Join(errs...))
}

func (r *road) wait(id string) *result.Verdict {
	r.t.Helper()
	w, err := r.s.Expect("acme", id)
	ok(r.t, err)
	defer w.Stop()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if v := w.Look(ctx); v != nil {
		return v
	}
	v, err := w.Wait(ctx)
	if err != nil {
		r.t.Fatalf("%s: %v", id, err)
	}
	return v
}

// patience ends what hangs. No machine that is only slow needs it.
const patience = 2 * time.Minute

// shortLease runs out before a test is over. A worker may stall for two thirds of it and holds it still.
const shortLease = 3 * time.Second

// eventually waits for a condition.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not reached: " + what)
		}
	}
}

// pull takes a delivery as a worker does.
func (r *road) pull() []*queue.Lease {
	r.t.Helper()
	ls, err := r.q.Puller(queue.Flex, r.b).Pull(r.t.Context(), 1, patience)
	ok(r.t, err)
	if len(ls) == 0 {
		r.t.Fatal("nothing was delivered")
	}
	return ls
}

func (r *road) windowEmpty() bool { return r.window(queue.Flex) == 0 }

// window counts a lane's deliveries that are not acknowledged: as the stream has them, for its consumer hears of a new
// one a moment later.
func (r *road) window(l queue.Lane) uint64 {
	r.t.Helper()
	subject := queue.JobsSubject(l, r.b)
	n, err := r.q.Subjects(r.t.Context(), queue.StreamJobs, subject)
	ok(r.t, err)
	return n[subject]
}

// scripted is an engine whose runs a test decides.
type scripted struct {
	mu   sync.Mutex
	runs map[string]int
	run  func(ctx context.Context, r *engine.Request, n int) (*engine.Completion, error)
}

func newScripted(f func(context.Context, *engine.Request, int) (*engine.Completion, error)) *scripted {
	return &scripted{runs: map[string]int{}, run: f}
}

func (s *scripted) Info(context.Context) (engine.Info, error) {
	return engine.Info{Models: []engine.ModelInfo{{Model: model}}, Slots: 8}, nil
}

func (s *scripted) Run(ctx context.Context, r *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
	s.mu.Lock()
	s.runs[r.ID]++
	n := s.runs[r.ID]
	s.mu.Unlock()
	return s.run(ctx, r, n)
}

func (s *scripted) Close() error { return nil }

func (s *scripted) count(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[id]
}

func answer(text string) *engine.Completion {
	return &engine.Completion{Choices: []engine.Choice{{Text: text, Finish: engine.FinishStop}}}
}

func TestManyJobsEachOnce(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	e := newScripted(func(_ context.Context, q *engine.Request, _ int) (*engine.Completion, error) {
		return answer(q.Prompt), nil
	})
	r.start(e)
	r.start(e)
	var jobs []*queue.Job
	for i := range 300 {
		jobs = append(jobs, r.job(fmt.Sprintf("job_%d", i), fmt.Sprint("p", i)))
	}
	r.feed(7, jobs...)
	for i, j := range jobs {
		v := r.wait(j.ID)
		if v.State != queue.Succeeded || v.Completion.Choices[0].Text != fmt.Sprint("p", i) {
			t.Fatalf("%s: %+v", j.ID, v)
		}
		if n := e.count(j.ID); n != 1 {
			t.Errorf("%s ran %d times", j.ID, n)
		}
	}
	eventually(t, "all is acknowledged", r.windowEmpty)
}

func TestDuplicateDeliveryRunsOnce(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	gate := make(chan struct{})
	e := newScripted(func(_ context.Context, q *engine.Request, _ int) (*engine.Completion, error) {
		<-gate
		return answer("x"), nil
	})
	r.start(e)
	j := r.job("job_d", "p")
	r.feed(1, j)
	eventually(t, "it runs", func() bool { return e.count(j.ID) == 1 })
	r.feed(1, j) // fed again while it runs
	eventually(t, "the duplicate is dropped", func() bool { return r.window(queue.Flex) == 1 })
	close(gate)
	r.wait(j.ID)
	r.feed(1, j) // and when it is over
	eventually(t, "all is acknowledged", r.windowEmpty)
	if n := e.count(j.ID); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		run      func(n int) error
		state    queue.State
		attempts int // runs seen by the engine
	}{
		"invalid is an answer":         {func(int) error { return engine.Errorf(engine.Invalid, "", "", "bad") }, queue.Failed, 1},
		"given back runs again":        {func(n int) error { return then(n < 3, engine.Errorf(engine.Unavailable, "", "", "restart")) }, queue.Succeeded, 3},
		"two crashes, then good":       {func(n int) error { return then(n < 3, engine.Errorf(engine.Crashed, "", "", "abort")) }, queue.Succeeded, 3},
		"crashes for ever are a death": {func(int) error { return engine.Errorf(engine.Crashed, "", "", "abort") }, queue.Failed, 4},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoad(t, 30*time.Second)
			e := newScripted(func(_ context.Context, _ *engine.Request, n int) (*engine.Completion, error) {
				if err := c.run(n); err != nil {
					return nil, err
				}
				return answer("fine"), nil
			})
			r.start(e)
			j := r.job("job_v", "p")
			r.feed(1, j)
			v := r.wait(j.ID)
			if v.State != c.state || e.count(j.ID) != c.attempts {
				t.Errorf("%s after %d runs, want %s after %d: %v", v.State, e.count(j.ID), c.state, c.attempts, v.Error)
			}
			eventually(t, "all is acknowledged", r.windowEmpty)
		})
	}
}

func then(yes bool, e *engine.Error) error {
	if yes {
		return e
	}
	return nil
}

// TestCrashIsPutDownToTheGuilty: one job kills the engine whenever it runs; its neighbours are suspects once, and end.
func TestCrashIsPutDownToTheGuilty(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	var mu sync.Mutex
	inCall := map[string]chan struct{}{}
	e := newScripted(nil)
	e.run = func(_ context.Context, q *engine.Request, _ int) (*engine.Completion, error) {
		mu.Lock()
		if q.Prompt == "poison" { // takes all that run with it
			for _, c := range inCall {
				close(c)
			}
			clear(inCall)
			mu.Unlock()
			return nil, &engine.Error{Class: engine.Crashed, Message: "abort", Stderr: "GGML_ASSERT(n > 0) failed"}
		}
		c := make(chan struct{})
		inCall[q.ID] = c
		mu.Unlock()
		select {
		case <-c:
			return nil, engine.Errorf(engine.Crashed, "", "", "abort")
		case <-time.After(30 * time.Millisecond):
		}
		mu.Lock()
		delete(inCall, q.ID)
		mu.Unlock()
		return answer("fine"), nil
	}
	r.start(e)
	var jobs []*queue.Job
	for i := range 12 {
		text := "good"
		if i == 5 {
			text = "poison"
		}
		jobs = append(jobs, r.job(fmt.Sprint("job_", i), text))
	}
	r.feed(1, jobs...)
	for i, j := range jobs {
		v := r.wait(j.ID)
		want := queue.Succeeded
		if i == 5 {
			want = queue.Failed
		}
		if v.State != want {
			t.Errorf("%s: %s, want %s: %v", j.ID, v.State, want, v.Error)
		}
	}
	d, err := r.q.Depths(t.Context())
	ok(t, err)
	if d.Dead != 1 {
		t.Errorf("%d dead letters", d.Dead)
	}
	checkLetter(t, r, jobs[5])
}

// checkLetter wants each crash in the dead letter, with the engine's last words.
func checkLetter(t *testing.T, r *road, j *queue.Job) {
	t.Helper()
	stream, err := r.q.JS().Stream(t.Context(), queue.StreamDead)
	ok(t, err)
	m, err := stream.GetLastMsgForSubject(t.Context(), queue.DeadSubject(j))
	ok(t, err)
	var letter queue.Letter
	ok(t, json.Unmarshal(m.Data, &letter))
	if len(letter.Job.History) != 1+maxSoloCrashes {
		t.Errorf("%d attempts are in the dead letter", len(letter.Job.History))
	}
	for i, a := range letter.Job.History {
		if a.Error == nil || !strings.Contains(a.Error.Stderr, "GGML_ASSERT") || a.Solo != (i > 0) {
			t.Errorf("attempt %d in the dead letter is %+v", i, a)
		}
	}
}

func TestInternalErrorIsRetriedLater(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	e := newScripted(func(_ context.Context, _ *engine.Request, n int) (*engine.Completion, error) {
		if n == 1 {
			return nil, engine.Errorf(engine.Internal, "", "", "odd")
		}
		return answer("fine"), nil
	})
	r.start(e)
	j := r.job("job_r", "p")
	j.Waited = true // its pause is an eighth of a second
	r.feed(1, j)
	subject := queue.DueSubject(queue.Flex, r.b, "acme")
	var ms []queue.Stored
	eventually(t, "the server itself moves the retry to due", func() bool {
		ms, _, _ = r.q.Read(t.Context(), queue.StreamLater, subject, 1, 10)
		return len(ms) == 1
	})
	again, err := queue.DecodeJob(ms[0].Data)
	ok(t, err)
	if len(again.History) != 1 || again.History[0].Error.Message != "odd" {
		t.Errorf("history %+v", again.History)
	}
	r.feed(1, &again)
	if v := r.wait(j.ID); v.State != queue.Succeeded || v.Attempt != 2 {
		t.Errorf("%+v", v)
	}
}

func TestCancelStopsARun(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	stopped := make(chan error, 1)
	e := newScripted(func(ctx context.Context, _ *engine.Request, _ int) (*engine.Completion, error) {
		<-ctx.Done()
		stopped <- context.Cause(ctx)
		return nil, context.Cause(ctx)
	})
	r.start(e)
	j := r.job("job_x", "p")
	r.feed(1, j)
	eventually(t, "it runs", func() bool { return e.count(j.ID) == 1 })
	st, err := r.s.Cancel(t.Context(), "acme", j.ID)
	ok(t, err)
	if st.State != queue.Cancelled {
		t.Errorf("state %s", st.State)
	}
	if cause := <-stopped; !errors.Is(cause, errOver) {
		t.Errorf("stopped by %v", cause)
	}
	eventually(t, "all is acknowledged", r.windowEmpty)
}

func TestDeadlineEndsARun(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	r.start(newScripted(func(ctx context.Context, _ *engine.Request, _ int) (*engine.Completion, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}))
	soon, past := r.job("job_soon", "p"), r.job("job_past", "p")
	soon.Deadline = time.Now().Add(100 * time.Millisecond).UnixMilli()
	past.Deadline = 1
	r.feed(2, soon, past)
	for _, j := range []*queue.Job{soon, past} {
		if v := r.wait(j.ID); v.State != queue.Expired {
			t.Errorf("%s: %s", j.ID, v.State)
		}
	}
}

// TestDrain: what runs is finished, what waits is handed back without an attempt, and another worker ends it.
func TestDrain(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	gate := make(chan struct{})
	e := newScripted(func(_ context.Context, _ *engine.Request, _ int) (*engine.Completion, error) {
		<-gate
		return answer("first"), nil
	})
	stop := r.start(e, func(c *Config) { c.Slots = 2 })
	var jobs []*queue.Job
	for i := range 6 {
		jobs = append(jobs, r.job(fmt.Sprint("job_", i), "p"))
	}
	r.feed(3, jobs...)
	eventually(t, "two run", func() bool { return e.count("job_0")+e.count("job_1") == 2 })
	drained := make(chan struct{})
	go func() { defer close(drained); stop() }()
	eventually(t, "what waits is queued again", func() bool {
		st, err := r.s.Get(t.Context(), "acme", "job_2")
		return err == nil && st.State == queue.Queued && st.Attempt == 0
	})
	close(gate)
	<-drained
	r.start(newScripted(func(context.Context, *engine.Request, int) (*engine.Completion, error) { return answer("second"), nil }))
	for i, j := range jobs {
		v := r.wait(j.ID)
		want := "second"
		if i < 2 {
			want = "first"
		}
		if v.Completion.Choices[0].Text != want || v.Attempt != 1 {
			t.Errorf("%s: %q in attempt %d, want %q in 1", j.ID, v.Completion.Choices[0].Text, v.Attempt, want)
		}
	}
}

// TestLostLease: a worker stalls past its lease; another takes the job over, and one answer stands.
func TestLostLease(t *testing.T) {
	r := newRoad(t, shortLease)
	j := r.job("job_l", "p")
	r.feed(1, j)
	ls := r.pull() // a worker that then says nothing
	cs, err := r.s.Claim(t.Context(), "stalled", shortLease, ls)
	ok(t, err)
	r.start(newScripted(func(context.Context, *engine.Request, int) (*engine.Completion, error) {
		return answer("second owner"), nil
	}))
	if v := r.wait(j.ID); v.Completion.Choices[0].Text != "second owner" || v.Attempt != 2 {
		t.Errorf("%+v", v)
	}
	late := result.For(j, queue.Succeeded, 1)
	late.Completion = answer("first owner, late")
	stood, err := r.s.Settle(t.Context(), late)
	ok(t, err)
	if got := stood[0].Completion.Choices[0].Text; got != "second owner" {
		t.Errorf("%q stands", got)
	}
	fates, err := r.s.Renew(t.Context(), "stalled", shortLease, cs[0].Run)
	ok(t, err)
	if fates[0] == result.Ours {
		t.Error("the stalled worker still believes in its claim")
	}
}

// TestLeaseIsHeld: a run of two leases' length is not delivered twice.
func TestLeaseIsHeld(t *testing.T) {
	r := newRoad(t, shortLease)
	var runs atomic.Int32
	e := newScripted(func(context.Context, *engine.Request, int) (*engine.Completion, error) {
		runs.Add(1)
		<-time.After(2 * shortLease)
		return answer("long"), nil
	})
	r.start(e)
	r.start(e)
	j := r.job("job_long", "p")
	r.feed(1, j)
	if v := r.wait(j.ID); v.Attempt != 1 || runs.Load() != 1 {
		t.Errorf("attempt %d, %d runs", v.Attempt, runs.Load())
	}
}

// TestRedisLostWhileRunning: the claim is made again from memory, and the answer stands.
func TestRedisLostWhileRunning(t *testing.T) {
	r := newRoad(t, shortLease)
	gate := make(chan struct{})
	e := newScripted(func(context.Context, *engine.Request, int) (*engine.Completion, error) {
		<-gate
		return answer("kept"), nil
	})
	r.start(e)
	j := r.job("job_f", "p")
	r.feed(1, j)
	eventually(t, "it runs", func() bool { return e.count(j.ID) == 1 })
	ok(t, r.s.Redis().FlushAll(t.Context()).Err())
	eventually(t, "the claim is there again", func() bool {
		st, err := r.s.Get(t.Context(), "acme", j.ID)
		return err == nil && st.State == queue.Running
	})
	close(gate)
	if v := r.wait(j.ID); v.Completion.Choices[0].Text != "kept" || e.count(j.ID) != 1 {
		t.Errorf("%+v after %d runs", v, e.count(j.ID))
	}
}

func TestUnreadableDeliveryIsBuried(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	r.start(newScripted(func(context.Context, *engine.Request, int) (*engine.Completion, error) { return answer("x"), nil }))
	ok(t, r.q.Conn().Publish(queue.JobsSubject(queue.Flex, r.b), []byte("{not json")))
	eventually(t, "it is a dead letter", func() bool {
		d, err := r.q.Depths(t.Context())
		return err == nil && d.Dead == 1
	})
	eventually(t, "and no more in the window", r.windowEmpty)
}

func TestSlots(t *testing.T) {
	s := newSlots(8, 0)
	put := func(l queue.Lane, solo bool) *run {
		r := &run{held: &result.Held{Job: &queue.Job{Lane: l}}, solo: solo, ctx: t.Context()}
		s.add(r)
		return r
	}
	for range 10 {
		put(queue.Batch, false)
		put(queue.Interactive, false)
		put(queue.Flex, false)
	}
	got := map[queue.Lane]int{}
	first := s.next()
	for _, r := range first {
		got[r.held.Job.Lane]++
	}
	if got[queue.Interactive] != 4 || got[queue.Flex] != 2 || got[queue.Batch] != 2 {
		t.Errorf("slots by lane %v", got)
	}
	alone := put(queue.Batch, true)
	for i, r := range first {
		s.done(r)
		if begun := s.next(); i < len(first)-1 && len(begun) > 0 {
			t.Fatal("a job began while a solo one waits")
		} else if i == len(first)-1 && (len(begun) != 1 || begun[0] != alone) {
			t.Fatalf("the solo job did not begin: %v", begun)
		}
	}
	if len(s.next()) > 0 {
		t.Error("a job began beside a solo one")
	}
	s.done(alone)
	if n := len(s.next()); n != 8 {
		t.Errorf("%d began after the solo one", n)
	}
}
