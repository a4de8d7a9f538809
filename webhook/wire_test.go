package webhook

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What others and later versions read: OUTBOX, the bucket, the list of attempts.
func TestRecordsGolden(t *testing.T) {
	golden(t, Outgoing{V: 1, ID: "evt_1", Tenant: "acme", Job: "job_1", Type: "lorry.job.failed", URL: "https://example.com/h", Secret: "plain:x",
		Created: 2, Ended: 1, Body: json.RawMessage(`{"id":"evt_1"}`)},
		`{"v":1,"id":"evt_1","tenant":"acme","job":"job_1","type":"lorry.job.failed","url":"https://example.com/h","secret":"plain:x","created":2,"ended":1,"body":{"id":"evt_1"}}`)
	golden(t, record{V: 1, Secrets: []stored{{Secret: "sealed:v1:AA"}, {Secret: "plain:x", Until: 5}}},
		`{"v":1,"secrets":[{"secret":"sealed:v1:AA"},{"secret":"plain:x","until":5}]}`)
	golden(t, Attempt{V: 1, At: 3, Event: "evt_1", Type: "lorry.job.failed", Job: "job_1", Target: "https://example.com", Result: "failed", Status: 500,
		Error: "status 500", TookMS: 4, Attempt: 2, NextIn: 30},
		`{"v":1,"at":3,"event":"evt_1","type":"lorry.job.failed","job":"job_1","target":"https://example.com","result":"failed","status":500,"error":"status 500","took_ms":4,"attempt":2,"next_in":30}`)
}

func golden[T any](t *testing.T, v T, want string) {
	t.Helper()
	got, err := json.Marshal(v)
	if err != nil || string(got) != want {
		t.Errorf("wrote %s, %v; want %s", got, err, want)
	}
	var back T
	if err := json.Unmarshal([]byte(want), &back); err != nil || cmp.Diff(v, back) != "" {
		t.Errorf("read: %v %s", err, cmp.Diff(v, back))
	}
}

// A box that an earlier program sealed is opened by this one.
func TestSealedGolden(t *testing.T) {
	s, err := NewSealer(make([]byte, masterSize))
	if err != nil {
		t.Fatal(err)
	}
	const box = "sealed:v1:YU4ilkj9t-STIVki_8cazx-8GEQ20si-dugYHYfZglxIYE7UIXYu9IPYY6xjvybUdlT1vRXwvGWW1CiYAWGSigATy5OvKMMEEkmEqAzm"
	if got, err := s.Open(TenantContext("acme"), box); err != nil || got != goldenSecret {
		t.Errorf("%q, %v; sealed now: %s", got, err, s.Seal(TenantContext("acme"), goldenSecret))
	}
}
