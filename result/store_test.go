package result_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/result"
	"lorry/result/resulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const base = "0123456789abcdef"

func job(id string) *queue.Job {
	return &queue.Job{V: queue.V, ID: id, Tenant: "acme", Lane: queue.Flex, Endpoint: queue.Chat, Created: time.Now().UnixMilli(),
		Request: engine.Request{Kind: engine.Chat, Model: engine.Model{Name: "m", Base: base}}}
}

func succeeded(j *queue.Job, text string) *result.Verdict {
	v := result.For(j, queue.Succeeded, time.Now().UnixMilli())
	v.Completion = &engine.Completion{Choices: []engine.Choice{{Text: text, Finish: engine.FinishStop}}, Usage: engine.Usage{PromptTokens: 3, CompletionTokens: 2}}
	return v
}

func lease(j *queue.Job, seq uint64) *queue.Lease {
	return &queue.Lease{Delivery: queue.Delivery{V: queue.V, Jobs: []queue.Job{*j}}, Seq: seq}
}

func claim(t *testing.T, s *result.Store, l *queue.Lease) result.Claims {
	t.Helper()
	c, err := s.Claim(t.Context(), "w", time.Minute, []*queue.Lease{l})
	if err != nil {
		t.Fatal(err)
	}
	return c[0]
}

func state(t *testing.T, s *result.Store, j *queue.Job) queue.State {
	t.Helper()
	st, err := s.Get(t.Context(), j.Tenant, j.ID)
	if err != nil {
		t.Fatal(err)
	}
	return st.State
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFirstVerdictStands(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	j := job("job_1")
	ok(t, s.Accept(t.Context(), j))
	first, err := s.Settle(t.Context(), succeeded(j, "one"))
	ok(t, err)
	second, err := s.Settle(t.Context(), succeeded(j, "two"))
	ok(t, err)
	for _, v := range []*result.Verdict{first[0], second[0]} {
		if got := v.Completion.Choices[0].Text; got != "one" {
			t.Errorf("stands %q, want the first", got)
		}
	}
	st, err := s.Cancel(t.Context(), "acme", j.ID)
	ok(t, err)
	if st.State != queue.Succeeded || st.Verdict.Completion.Choices[0].Text != "one" {
		t.Errorf("after a cancel: %+v", st)
	}
}

func TestManyVerdictsOneConflict(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	var vs []*result.Verdict
	for i := range 40 {
		vs = append(vs, succeeded(job("job_m"+string(rune('a'+i))), "late"))
	}
	early := succeeded(job(vs[7].Job), "early")
	_, err := s.Settle(t.Context(), early)
	ok(t, err)
	stood, err := s.Settle(t.Context(), vs...)
	ok(t, err)
	for i, v := range stood {
		want := "late"
		if i == 7 {
			want = "early"
		}
		if v.Completion.Choices[0].Text != want {
			t.Errorf("%d: %q stands, want %q", i, v.Completion.Choices[0].Text, want)
		}
	}
}

func TestClaims(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	j := job("job_c")
	ok(t, s.Accept(t.Context(), j))
	a := claim(t, s, lease(j, 7))
	if len(a.Run) != 1 || a.Run[0].Attempt != 1 {
		t.Fatalf("first claim: %+v", a)
	}
	if b := claim(t, s, lease(j, 8)); b.Elsewhere != 1 {
		t.Errorf("another delivery under a live lease: %+v", b)
	}
	b := claim(t, s, lease(j, 7))
	if len(b.Run) != 1 || b.Run[0].Attempt != 2 {
		t.Errorf("a redelivery takes over: %+v", b)
	}
	fates, err := s.Renew(t.Context(), "w", time.Minute, []*result.Held{a.Run[0], b.Run[0]})
	ok(t, err)
	if fates[0] != result.Lost || fates[1] != result.Ours {
		t.Errorf("fates %v", fates)
	}
	ok(t, s.Release(t.Context(), result.Release{Held: b.Run[0], GiveBack: true, Crashed: true}))
	c := claim(t, s, lease(j, 9))
	if len(c.Run) != 1 || c.Run[0].Attempt != 2 || c.Run[0].Crashes != 1 {
		t.Errorf("after a release: %+v", c.Run[0])
	}
	_, err = s.Settle(t.Context(), succeeded(j, "x"))
	ok(t, err)
	if d := claim(t, s, lease(j, 10)); d.Over != 1 {
		t.Errorf("a job that is over: %+v", d)
	}
	fates, err = s.Renew(t.Context(), "w", time.Minute, []*result.Held{c.Run[0]})
	ok(t, err)
	if fates[0] != result.Over {
		t.Errorf("fate %v of a job that is over", fates)
	}
}

func TestFlight(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	var jobs []*queue.Job
	for _, id := range []string{"job_a", "job_b", "job_c"} {
		j := job(id)
		j.CacheKey = "k"
		jobs = append(jobs, j)
	}
	join := func(j *queue.Job) result.Joined {
		t.Helper()
		r, err := s.Join(t.Context(), j)
		ok(t, err)
		return r
	}
	if r := join(jobs[0]); r != (result.Joined{}) {
		t.Fatalf("the first leads: %+v", r)
	}
	if r := join(jobs[0]); r != (result.Joined{}) {
		t.Fatalf("and still does when it asks again: %+v", r)
	}
	if r := join(jobs[1]); r.Leader != "job_a" {
		t.Fatalf("the second follows: %+v", r)
	}
	failed := result.For(jobs[0], queue.Failed, 1)
	_, err := s.Settle(t.Context(), failed)
	ok(t, err)
	if r := join(jobs[1]); r.Leader != "" || r.Hit != nil {
		t.Fatalf("when the leader failed, a follower leads: %+v", r)
	}
	_, err = s.Settle(t.Context(), succeeded(jobs[1], "answer"))
	ok(t, err)
	if r := join(jobs[2]); r.Hit == nil || r.Hit.Choices[0].Text != "answer" {
		t.Fatalf("then it is cached: %+v", r)
	}
	if r := join(jobs[0]); !r.Over {
		t.Fatalf("a job that is over: %+v", r)
	}
}

func TestCacheKeepsItsBudget(t *testing.T) {
	s := resulttest.New(t, result.Config{CacheBytes: 1000})
	for i := range 20 {
		j := job("job_" + string(rune('a'+i)))
		j.CacheKey = "k" + string(rune('a'+i))
		_, err := s.Settle(t.Context(), succeeded(j, "0123456789012345678901234567890123456789"))
		ok(t, err)
	}
	n, err := s.Redis().HGet(t.Context(), "{acme}:cachebytes", "total").Int()
	ok(t, err)
	if n == 0 || n > 1000 {
		t.Errorf("cache holds %d bytes, budget 1000", n)
	}
}

func TestIdempotency(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	i := queue.Idem{Key: "k", Body: "b1"}
	for n, want := range []string{"", "job_1"} {
		got, err := s.Idempotent(t.Context(), "acme", i, "job_1")
		if err != nil || got != want {
			t.Errorf("call %d: %q %v", n, got, err)
		}
	}
	_, err := s.Idempotent(t.Context(), "acme", queue.Idem{Key: "k", Body: "b2"}, "job_2")
	if !errors.Is(err, result.ErrIdemMismatch) {
		t.Errorf("another body: %v", err)
	}
	j := job("job_1")
	j.Idem = &i
	ok(t, s.Accept(t.Context(), j))
	ok(t, s.Forget(t.Context(), j))
	got, err := s.Idempotent(t.Context(), "acme", queue.Idem{Key: "k", Body: "b2"}, "job_2")
	if err != nil || got != "" {
		t.Errorf("after forgetting: %q %v", got, err)
	}
}

func TestReplayAfterFlush(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	s := resulttest.New(t, result.Config{Queue: q})
	done, waiting, cancelled := job("job_done"), job("job_waiting"), job("job_cancelled")
	done.Idem = &queue.Idem{Key: "k", Body: "b"}
	for _, j := range []*queue.Job{done, waiting, cancelled} {
		ok(t, s.Accept(t.Context(), j))
		ok(t, q.Submit(t.Context(), j))
	}
	_, err := s.Settle(t.Context(), succeeded(done, "kept"))
	ok(t, err)
	_, err = s.Cancel(t.Context(), "acme", cancelled.ID)
	ok(t, err)
	ok(t, s.Redis().FlushAll(t.Context()).Err())
	if _, err := s.Get(t.Context(), "acme", done.ID); !errors.Is(err, result.ErrEpoch) {
		t.Errorf("a lost Redis must say so, not 404: %v", err)
	}
	if err := s.Accept(t.Context(), job("job_new")); !errors.Is(err, result.ErrEpoch) {
		t.Errorf("nothing is accepted meanwhile: %v", err)
	}
	if _, err := s.Idempotent(t.Context(), "acme", *done.Idem, "job_again"); !errors.Is(err, result.ErrEpoch) {
		t.Errorf("no key is bound meanwhile: %v", err)
	}
	_, err = s.Replay(t.Context())
	ok(t, err)
	for j, want := range map[*queue.Job]queue.State{done: queue.Succeeded, waiting: queue.Queued, cancelled: queue.Cancelled} {
		if got := state(t, s, j); got != want {
			t.Errorf("%s: %s, want %s", j.ID, got, want)
		}
	}
	if got, err := s.Idempotent(t.Context(), "acme", *done.Idem, "job_again"); err != nil || got != done.ID {
		t.Errorf("the idempotency key is bound again: %q %v", got, err)
	}
}

func TestScriptsSurviveARestartOfRedis(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	ok(t, s.Redis().ScriptFlush(t.Context()).Err())
	ok(t, s.Accept(t.Context(), job("job_1")))
}

func TestWaiterHearsAndLooks(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	j := job("job_w")
	w, err := s.Expect("acme", j.ID)
	ok(t, err)
	defer w.Stop()
	_, err = s.Settle(t.Context(), succeeded(j, "heard"))
	ok(t, err)
	v, err := w.Wait(t.Context())
	if err != nil || v.Completion.Choices[0].Text != "heard" {
		t.Fatalf("%+v %v", v, err)
	}
	late, err := s.Expect("acme", j.ID) // its hint is gone
	ok(t, err)
	defer late.Stop()
	v, err = late.Wait(t.Context())
	if err != nil || v.Completion.Choices[0].Text != "heard" {
		t.Fatalf("%+v %v", v, err)
	}
}

func TestList(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	for i := range 7 {
		j := job("job_" + string(rune('0'+i)))
		j.Created = time.Now().UnixMilli() + int64(i)
		ok(t, s.Accept(t.Context(), j))
	}
	var got []string
	f := result.Filter{Limit: 3}
	for more := true; more; {
		var page []result.Status
		var err error
		page, more, err = s.List(t.Context(), "acme", f)
		ok(t, err)
		for _, st := range page {
			got = append(got, st.Job)
		}
		f.After = page[len(page)-1].Job
	}
	if len(got) != 7 || got[0] != "job_6" || got[6] != "job_0" {
		t.Errorf("listed %v", got)
	}
	if page, _, _ := s.List(t.Context(), "other", result.Filter{}); len(page) != 0 {
		t.Errorf("another tenant sees %v", page)
	}
}

// TestPhantomLeader: a job joined and was never submitted. Its followers do not wait for it for ever.
func TestPhantomLeader(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	phantom, next := job("job_phantom"), job("job_next")
	phantom.CacheKey, next.CacheKey = "k", "k"
	_, err := s.Join(t.Context(), phantom)
	ok(t, err)
	ok(t, s.LeaveFlight(t.Context(), phantom))
	if r, err := s.Join(t.Context(), next); err != nil || r.Leader != "" {
		t.Errorf("after it left: %+v %v", r, err)
	}
	if state(t, s, phantom) != queue.Queued {
		t.Error("the job itself is gone")
	}
	ok(t, s.Redis().HSet(t.Context(), "{acme}:job:job_next", "leads", 1).Err()) // its time is over, its producer died
	if r, err := s.Join(t.Context(), phantom); err != nil || r.Leader != "" {
		t.Errorf("after its time: %+v %v", r, err)
	}
}

// TestAnswerNoMessageCarries ends the job, instead of being tried for ever.
func TestAnswerNoMessageCarries(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	s := resulttest.New(t, result.Config{Queue: q})
	j := &queue.Job{V: queue.V, ID: "job_large", Tenant: "acme", Lane: queue.Flex, Created: 1, Request: engine.Request{Model: engine.Model{Base: "b"}}}
	ok(t, s.Accept(t.Context(), j))
	v := result.For(j, queue.Succeeded, 2)
	v.Completion = &engine.Completion{Choices: []engine.Choice{{Text: strings.Repeat("x", 5<<20), Finish: engine.FinishStop}}}
	stood, err := s.Settle(t.Context(), v)
	ok(t, err)
	if stood[0].State != queue.Failed || stood[0].Error == nil || !strings.Contains(stood[0].Error.Error(), "log-probabilities") {
		t.Errorf("%s %v stands", stood[0].State, stood[0].Error)
	}
	st, err := s.Get(t.Context(), "acme", j.ID)
	ok(t, err)
	if st.State != queue.Failed {
		t.Errorf("it is %s", st.State)
	}
}
