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
	golden(t, Outgoing{V: 1, ID: "evt_1", Tenant: "acme", Delivery: "dlv_1-2", Endpoint: "we_2", Job: "batch_1", Type: "batch.completed", Created: 2},
		`{"v":1,"id":"evt_1","tenant":"acme","delivery":"dlv_1-2","endpoint":"we_2","job":"batch_1","type":"batch.completed","created":2}`)
	golden(t, Endpoint{V: 1, ID: "we_2", Tenant: "acme", URL: "https://example.com", Events: []string{"*"}, Description: "d", Status: Disabled, Reason: "r",
		Created: 1, Updated: 2, Secrets: keyring{{Secret: "plain:x"}}, Failing: &Failing{Since: 3, Until: 4, Opened: 5, Error: "e"}},
		`{"v":1,"id":"we_2","tenant":"acme","url":"https://example.com","events":["*"],"description":"d","status":"disabled","reason":"r","created":1,"updated":2,"secrets":[{"secret":"plain:x"}],"failing":{"since":3,"until":4,"opened":5,"error":"e"}}`)
	golden(t, record{V: 1, Secrets: keyring{{Secret: "sealed:v1:AA"}, {Secret: "plain:x", Until: 5}}},
		`{"v":1,"secrets":[{"secret":"sealed:v1:AA"},{"secret":"plain:x","until":5}]}`)
	golden(t, Attempt{V: 1, At: 3, Event: "evt_1", Type: "lorry.job.failed", Job: "job_1", Delivery: "dlv_1-2", Endpoint: "we_2", Target: "https://example.com", Result: "failed", Status: 500,
		Error: "status 500", TookMS: 4, Attempt: 2, NextIn: 30},
		`{"v":1,"at":3,"event":"evt_1","type":"lorry.job.failed","job":"job_1","delivery":"dlv_1-2","endpoint":"we_2","target":"https://example.com","result":"failed","status":500,"error":"status 500","took_ms":4,"attempt":2,"next_in":30}`)
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
