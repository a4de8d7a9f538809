package scheduler

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"lorry/queue"
)

func TestShowDepths(t *testing.T) {
	d := queue.Depths{Later: 1, Dead: 2, Outbox: 3, Results: 4,
		Backlog: []queue.BacklogDepth{{Lane: queue.Flex, Base: "b", Tenant: "x", Jobs: 5}, {Lane: queue.Flex, Base: "b", Tenant: "y", Jobs: 6}},
		Windows: []queue.WindowDepth{{Lane: queue.Flex, Base: "b", Ready: 7, Held: 8}, {Lane: queue.Batch, Base: "b"}}}
	show(d)
	show(d) // each look replaces the one before
	want := `
# HELP lorry_queue_waiting_jobs Accepted jobs that are not in the ready window yet, by lane and base: what autoscaling should look at, with the next two.
# TYPE lorry_queue_waiting_jobs gauge
lorry_queue_waiting_jobs{base="b",lane="batch"} 0
lorry_queue_waiting_jobs{base="b",lane="flex"} 11
`
	if err := testutil.CollectAndCompare(waitingGauge, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if got := testutil.ToFloat64(heldGauge.WithLabelValues("flex", "b")); got != 8 {
		t.Errorf("held %v", got)
	}
	if got := testutil.ToFloat64(keptGauge.WithLabelValues(queue.StreamOutbox)); got != 3 {
		t.Errorf("outbox %v", got)
	}
}
