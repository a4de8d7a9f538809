package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/result"
	"lorry/result/resulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testBase = "0123456789ab"

// yard is a dispatcher over real servers, and a worker's side that the test plays.
type yard struct {
	t *testing.T
	q *queue.Queue
	s *result.Store
}

func newYard(t *testing.T) *yard {
	q := queuetest.New(t, queue.Config{})
	y := &yard{t, q, resulttest.New(t, result.Config{Queue: q})}
	ok(t, q.SetupBase(t.Context(), testBase))
	return y
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dispatch runs one until stop.
func (y *yard) dispatch() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	fleet, err := queue.WatchFleet(ctx, y.q.Conn())
	ok(y.t, err)
	d := newDispatcher(testBase, y.q, y.s, fleet, settings{}, nil, zerolog.Nop())
	done := make(chan error, 1)
	go func() { done <- d.run(ctx) }()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); ok(y.t, <-done) }) }
	y.t.Cleanup(stop)
	return stop
}

func (y *yard) submit(js ...*queue.Job) {
	y.t.Helper()
	var wg sync.WaitGroup
	for _, j := range js {
		ok(y.t, y.s.Accept(y.t.Context(), j))
		wg.Go(func() { ok(y.t, y.q.Submit(y.t.Context(), j)) })
	}
	wg.Wait()
}

func flexJob(tenant, id string) *queue.Job {
	return &queue.Job{V: queue.V, ID: id, Tenant: tenant, Lane: queue.Flex, Endpoint: queue.Completions, Created: time.Now().UnixMilli(),
		Request: engine.Request{Kind: engine.Text, Model: engine.Model{Name: "m", Base: testBase}, Prompt: id, Sampling: engine.Sampling{MaxTokens: 10, N: 1}}}
}

// pull takes deliveries as a worker would.
func (y *yard) pull(n int) []*queue.Lease {
	y.t.Helper()
	ls, err := y.q.Puller(queue.Flex, testBase).Pull(y.t.Context(), n, 3*time.Second)
	ok(y.t, err)
	return ls
}

// work answers deliveries until n jobs are done, and returns their IDs in the order of running.
func (y *yard) work(n int) (ids []string) {
	y.t.Helper()
	for end := time.Now().Add(patience); len(ids) < n; {
		if time.Now().After(end) {
			y.t.Fatalf("%d of %d jobs came", len(ids), n)
		}
		ls := y.pull(4)
		cs, err := y.s.Claim(y.t.Context(), "w", time.Minute, ls)
		ok(y.t, err)
		for i, l := range ls {
			for _, h := range cs[i].Run {
				ids = append(ids, h.Job.ID)
				y.answer(h.Job)
			}
			ok(y.t, l.Ack())
		}
	}
	return ids
}

func (y *yard) answer(j *queue.Job) {
	y.t.Helper()
	v := result.For(j, queue.Succeeded, time.Now().UnixMilli())
	v.Completion = &engine.Completion{Choices: []engine.Choice{{Text: "re: " + j.Request.Prompt}}, Usage: engine.Usage{PromptTokens: 2, CompletionTokens: 10}}
	_, err := y.s.Settle(y.t.Context(), v)
	ok(y.t, err)
}

func (y *yard) state(j *queue.Job) queue.State {
	st, err := y.s.Get(y.t.Context(), j.Tenant, j.ID)
	if err != nil {
		return ""
	}
	return st.State
}

// patience ends what hangs. No machine that is only slow needs it.
const patience = 2 * time.Minute

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not reached: " + what)
		}
	}
}

func (y *yard) backlog() (n uint64) {
	d, err := y.q.Depths(y.t.Context())
	ok(y.t, err)
	for _, b := range d.Backlog {
		n += b.Jobs
	}
	return n
}

func TestBacklogIsFedAndPurged(t *testing.T) {
	y := newYard(t)
	var js []*queue.Job
	for i := range 700 { // more than a read-ahead, more than a window
		js = append(js, flexJob("acme", fmt.Sprintf("job_%03d", i)))
	}
	y.submit(js...)
	y.dispatch()
	seen := map[string]bool{}
	for _, id := range y.work(700) {
		if seen[id] {
			t.Errorf("%s ran twice", id)
		}
		seen[id] = true
	}
	eventually(t, "the backlog is purged", func() bool { return y.backlog() == 0 })
}

func TestNewcomerIsNotBehindTheBacklog(t *testing.T) {
	y := newYard(t)
	var js []*queue.Job
	for i := range 2000 {
		js = append(js, flexJob("big", fmt.Sprintf("job_big%04d", i)))
	}
	y.submit(js...)
	y.dispatch()
	y.work(100)
	y.submit(flexJob("small", "job_small"))
	var ids []string
	for len(ids) < 900 && !slices.Contains(ids, "job_small") { // the window may have grown to what ends in half a second
		ids = append(ids, y.work(minWindow)...)
	}
	i := slices.Index(ids, "job_small")
	if t.Logf("served after %d jobs of 1900 that waited", i); i < 0 {
		t.Errorf("not among the next %d jobs", len(ids))
	}
}

func TestDispatcherRestartFeedsNothingTwice(t *testing.T) {
	y := newYard(t)
	var js []*queue.Job
	for i := range 200 {
		js = append(js, flexJob("acme", fmt.Sprintf("job_%03d", i)))
	}
	y.submit(js...)
	stop := y.dispatch()
	done := y.work(30)
	stop()
	y.dispatch() // reads the backlog anew
	seen := map[string]bool{}
	for _, id := range append(done, y.work(200-len(done))...) {
		if seen[id] {
			t.Errorf("%s ran twice", id)
		}
		seen[id] = true
	}
}

func TestFollowersGetTheLeadersAnswer(t *testing.T) {
	y := newYard(t)
	var js []*queue.Job
	for i := range 50 {
		j := flexJob("acme", fmt.Sprintf("job_%02d", i))
		j.CacheKey = "same"
		js = append(js, j)
	}
	y.submit(js...)
	y.dispatch()
	leader := y.work(1)
	for _, j := range js {
		eventually(t, j.ID+" has succeeded", func() bool { return y.state(j) == queue.Succeeded })
		st, err := y.s.Get(t.Context(), "acme", j.ID)
		ok(t, err)
		if got, want := st.Verdict.Completion.Choices[0].Text, "re: "+leader[0]; got != want || st.Cached == (j.ID == leader[0]) {
			t.Errorf("%s: %q, cached %v", j.ID, got, st.Cached)
		}
	}
	if ls := y.pull(1); len(ls) > 0 {
		t.Errorf("another one was fed: %v", ls[0].Jobs[0].ID)
	}
	eventually(t, "the backlog is purged", func() bool { return y.backlog() == 0 })
}

func TestFollowerTakesOverFromAFailedLeader(t *testing.T) {
	y := newYard(t)
	a, b := flexJob("acme", "job_a"), flexJob("acme", "job_b")
	a.CacheKey, b.CacheKey = "same", "same"
	y.submit(a)
	y.dispatch()
	var ls []*queue.Lease
	eventually(t, "the leader is fed", func() bool { ls = y.pull(1); return len(ls) > 0 })
	y.submit(b)
	_, err := y.s.Settle(t.Context(), result.For(a, queue.Failed, 1))
	ok(t, err)
	ok(t, ls[0].Ack())
	if ids := y.work(1); ids[0] != "job_b" {
		t.Errorf("%v ran", ids)
	}
}

func TestExpiredHeadsAreCommitted(t *testing.T) {
	y := newYard(t)
	late := flexJob("acme", "job_late")
	late.Deadline = time.Now().Add(-time.Second).UnixMilli()
	y.submit(late)
	y.dispatch()
	eventually(t, "it has expired", func() bool { return y.state(late) == queue.Expired })
}

func TestLostConsumerIsMadeAgain(t *testing.T) {
	y := newYard(t)
	var js []*queue.Job
	for i := range 60 {
		js = append(js, flexJob("acme", fmt.Sprintf("job_%02d", i)))
	}
	y.submit(js...)
	y.dispatch()
	done := y.work(8)
	ok(t, y.q.JS().DeleteConsumer(t.Context(), queue.StreamJobs, queue.Durable(queue.Flex, testBase)))
	eventually(t, "the consumer is made again", func() bool {
		_, err := y.q.JS().Consumer(t.Context(), queue.StreamJobs, queue.Durable(queue.Flex, testBase))
		return err == nil
	})
	y.work(60 - len(done))
}

// TestWhatWasJustFedIsReady: a consumer hears of a message a moment after the stream has it. It is ready all the same.
func TestWhatWasJustFedIsReady(t *testing.T) {
	y := newYard(t)
	fleet, err := queue.WatchFleet(t.Context(), y.q.Conn())
	ok(t, err)
	d := newDispatcher(testBase, y.q, y.s, fleet, settings{}, nil, zerolog.Nop())
	win := d.lanes[queue.Flex].win
	for i := range 300 {
		seqs, errs := y.q.Feed(t.Context(), queue.Flex, testBase, queue.Pack([][]byte{flexJob("acme", fmt.Sprint("job_", i)).Encode()}, 1))
		ok(t, errors.Join(errs...))
		win.put(seqs[0], "acme", 1)
		if ok(t, d.lookWindows(t.Context())); win.level != 1 {
			t.Fatalf("%d jobs are ready after delivery %d, want 1", win.level, i)
		}
		jobs, err := y.q.JS().Stream(t.Context(), queue.StreamJobs)
		ok(t, err)
		ok(t, jobs.DeleteMsg(t.Context(), seqs[0]))
		if ok(t, d.lookWindows(t.Context())); win.level != 0 {
			t.Fatalf("%d jobs are ready when delivery %d is gone, want none", win.level, i)
		}
	}
}

func TestLeaseHasOneHolder(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	a, err := openLeases(t.Context(), q.JS(), 1, "a", leaseTTL)
	ok(t, err)
	b, err := openLeases(t.Context(), q.JS(), 1, "b", leaseTTL)
	ok(t, err)
	old, held, err := a.take(t.Context(), "x")
	if err != nil || !held {
		t.Fatal(held, err)
	}
	if _, held, _ := b.take(t.Context(), "x"); held {
		t.Error("two holders")
	}
	revision, held, err := a.take(t.Context(), "x") // a started again
	if err != nil || !held {
		t.Errorf("the same instance is kept out: %v", err)
	}
	if _, err := a.kv.Update(t.Context(), "x", []byte("a"), old); err == nil {
		t.Error("the old holder is not fenced")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.keep(ctx, "x", revision, func(ctx context.Context) { <-ctx.Done() }) }()
	cancel()
	<-done
	if _, held, _ := b.take(t.Context(), "x"); !held {
		t.Error("a lease given back is not free")
	}
}

func TestParseAck(t *testing.T) {
	for subject, want := range map[string]uint64{
		"$JS.ACK.JOBS.flex-0123456789ab.1.77.3.1700000000000000000.0":         77,
		"$JS.ACK._.Xhash.JOBS.flex-0123456789ab.1.78.3.1700000000000000000.0": 78,
		"$JS.ACK.JOBS.flex-ffffffffffff.1.79.3.1700000000000000000.0":         0,
		"$JS.ACK.JOBS": 0,
	} {
		l, seq, found := parseAck(subject, testBase)
		if seq != want || found != (want != 0) || found && l != queue.Flex {
			t.Errorf("%s: %s %d %v", subject, l, seq, found)
		}
	}
}
