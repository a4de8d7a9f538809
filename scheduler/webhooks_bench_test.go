package scheduler

import (
	"slices"
	"testing"
	"time"

	"lorry/webhook"
)

// BenchmarkEndToSent is the time from a job's committed end to the receiver's handler: RESULTS → announce → OUTBOX →
// asynq → POST. The goal is 50 ms at the 99th percentile.
func BenchmarkEndToSent(b *testing.B) {
	r := newRig(b)
	arrived := make(chan time.Time, 1)
	r.answer = func(string, int) int { arrived <- time.Now(); return 204 }
	r.start()
	r.settle(r.verdict())
	<-arrived
	var took []time.Duration
	for b.Loop() {
		v := r.verdict()
		begun := time.Now()
		r.settle(v)
		took = append(took, (<-arrived).Sub(begun))
		if r.hits(webhook.EventID(v.Job)) != 1 {
			b.Fatal("another event arrived")
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
}
