package result_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/result"
	"lorry/result/resulttest"
)

func line(n int) *queue.Job {
	j := job(queue.LineID("batch_1", n))
	j.Lane, j.Batch, j.Line, j.CustomID = queue.Batch, "batch_1", n, "c"
	return j
}

func counts(t *testing.T, s *result.Store) result.BatchCounts {
	t.Helper()
	c, err := s.BatchCounts(t.Context(), "acme", "batch_1")
	ok(t, err)
	return c
}

func TestLinesAreCounted(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	a, b := claim(t, s, lease(line(1), 1)), claim(t, s, lease(line(2), 2))
	if c := counts(t, s); c.Running != 2 {
		t.Errorf("claimed: %+v", c)
	}
	ok(t, s.Release(t.Context(), result.Release{Held: b.Run[0], GiveBack: true}))
	if c := counts(t, s); c.Running != 1 {
		t.Errorf("given back: %+v", c)
	}
	for range 2 { // the second time is without effect
		_, err := s.Settle(t.Context(), succeeded(a.Run[0].Job, "x"), result.For(line(3), queue.Failed, 1))
		ok(t, err)
	}
	want := result.BatchCounts{Completed: 1, Failed: 1, PromptTokens: 3, CompletionTokens: 2}
	if c := counts(t, s); c != want {
		t.Errorf("settled: %+v, want %+v", c, want)
	}
	if list, _, err := s.List(t.Context(), "acme", result.Filter{}); err != nil || len(list) != 0 {
		t.Errorf("%d lines are listed among the jobs, %v", len(list), err)
	}
}

// TestStoppedLines: no line of a stopped batch is claimed, and those that run are given up.
func TestStoppedLines(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	a := claim(t, s, lease(line(1), 1))
	ok(t, s.StopBatch(t.Context(), "acme", "batch_1", string(queue.Cancelled)))
	if c := claim(t, s, lease(line(2), 2)); c.Over != 1 {
		t.Errorf("claimed: %+v", c)
	}
	fates, err := s.Renew(t.Context(), "w", time.Minute, a.Run)
	ok(t, err)
	if fates[0] != result.Over || counts(t, s).Running != 0 {
		t.Errorf("fate %v, %+v", fates[0], counts(t, s))
	}
	ok(t, s.ForgetLines(t.Context(), "acme", "batch_1", 3))
	if c := claim(t, s, lease(line(1), 9)); c.Over != 1 {
		t.Errorf("claimed after the end: %+v", c)
	}
}

// TestLinesOutlastTheStream: a line's record stays past RESULTS' age; singles go.
func TestLinesOutlastTheStream(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	s := resulttest.New(t, result.Config{Queue: q})
	_, err := s.Settle(t.Context(), succeeded(line(1), "x"), succeeded(job("job_single"), "y"))
	ok(t, err)
	var many []*result.Verdict
	for n := 2; n < 40; n++ { // an atomic batch
		many = append(many, succeeded(line(n), "x"))
	}
	_, err = s.Settle(t.Context(), many...)
	ok(t, err)
	st, err := q.JS().Stream(t.Context(), queue.StreamResults)
	ok(t, err)
	c := st.CachedInfo().Config
	c.MaxAge, c.Duplicates = time.Second, time.Second
	_, err = q.JS().UpdateStream(t.Context(), c)
	ok(t, err)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		i, err := st.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		ok(t, err)
		if _, there := i.State.Subjects["results.single.acme.job_single"]; !there {
			if len(i.State.Subjects) != 39 {
				t.Errorf("%d lines are left of 39", len(i.State.Subjects))
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal("the single does not age")
		}
	}
}
