package child

import (
	"slices"
	"testing"

	"lorry/engine"
)

// TestSuspicionOutlivesAnEarlierCall: a request that was taken back and given again is under suspicion until its second
// call ends, whenever the child tells of the first one's end.
func TestSuspicionOutlivesAnEarlierCall(t *testing.T) {
	p := &process{calls: map[uint64]*call{1: newCall("job_1"), 2: newCall("job_1")}, decoding: []string{"job_1", "job_2"}}
	p.deliver(&message{Kind: kindError, N: 1, Error: engine.AsError(errCancelled)})
	if !slices.Equal(p.decoding, []string{"job_1", "job_2"}) {
		t.Errorf("%q are under suspicion after the first call", p.decoding)
	}
	p.deliver(&message{Kind: kindDone, N: 2, Completion: &engine.Completion{}})
	if !slices.Equal(p.decoding, []string{"job_2"}) {
		t.Errorf("%q are under suspicion after the second", p.decoding)
	}
}
