package access

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the bucket holds: the next version of this program reads these bytes.
func TestRecordsGolden(t *testing.T) {
	key := Key{V: 1, ID: "aaaaaaaaaaaaa", Tenant: "acme", Admin: true, Name: "ci", Hash: []byte{1, 2, 3}, Created: 1_800_000_000, Revoked: 1_800_000_001}
	golden(t, key, `{"v":1,"id":"aaaaaaaaaaaaa","tenant":"acme","admin":true,"name":"ci","hash":"AQID","created":1800000000,"revoked":1800000001}`)
	golden(t, Settings{V: 1, Weight: 2, MaxWaiting: 3, MaxReady: 4, Paused: true, RequestsPerMinute: 5, TokensPerMinute: 6, EnqueuedTokens: 7},
		`{"v":1,"weight":2,"max_waiting":3,"max_ready":4,"paused":true,"requests_per_minute":5,"tokens_per_minute":6,"enqueued_tokens":7}`)
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
