package worker

import (
	"errors"
	"testing"
	"time"

	"lorry/queue"
)

// TestStoppedBatch: lines that run when their batch is stopped are given up at once, without a verdict, and those behind
// them never begin.
func TestStoppedBatch(t *testing.T) {
	r := newRoad(t, 30*time.Second)
	r.start(reader(t, time.Second)) // a word a second
	var jobs [][]byte
	for n := range 20 {
		j := r.job(queue.LineID("batch_1", n+1), long(60))
		j.Lane, j.Batch, j.Line = queue.Batch, "batch_1", n+1
		jobs = append(jobs, j.Encode())
	}
	_, errs := r.q.Feed(t.Context(), queue.Batch, r.b, queue.Pack(jobs, 4))
	ok(t, errors.Join(errs...))
	running := func() int {
		c, err := r.s.BatchCounts(t.Context(), "acme", "batch_1")
		ok(t, err)
		return c.Running
	}
	eventually(t, "lines run", func() bool { return running() > 0 })
	ok(t, r.s.StopBatch(t.Context(), "acme", "batch_1", string(queue.Cancelled)))
	eventually(t, "none runs, none is left", func() bool { return r.window(queue.Batch) == 0 && running() == 0 })
	left, err := r.q.Subjects(t.Context(), queue.StreamResults, queue.LinesSubject("acme", "batch_1"))
	if err != nil || len(left) != 0 {
		t.Errorf("%d lines were answered, %v", len(left), err)
	}
}
