package batch

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"lorry/engine"
	"lorry/queue"
)

// whole is a batch with every field set.
func whole() Batch {
	return Batch{V: V, ID: "batch_1", Tenant: "acme", Endpoint: queue.Chat, InputFile: "file-1", Model: "m",
		Resolved: engine.Model{Name: "m", Base: "b", Adapter: "a", Template: "t", Settings: "s"}, Window: Millis(time.Hour), WindowText: "1h", Status: Completed,
		OutputFile: "file-2", ErrorFile: "file-3", CreatedAt: 1, InProgressAt: 2, ExpiresAt: 3, FinalizingAt: 4, CompletedAt: 5, FailedAt: 6, ExpiredAt: 7,
		CancellingAt: 8, CancelledAt: 9, Counts: Counts{3, 2, 1}, Usage: Usage{4, 5, 6}, Errors: []LineError{{"c", "m", "p", 7}},
		Metadata: map[string]string{"k": "v"}, OutputExpiresAfter: Millis(2 * time.Hour), Webhook: &queue.Webhook{URL: "https://example.com", Secret: "sealed"},
		RetryOf: "batch_0", Paused: true, Priority: 1, Input: File{V: V, ID: "batch_1", Tenant: holders, Filename: "f", Bytes: 1, Purpose: PurposeBatch,
			CreatedAt: 1, Digest: "d", Status: Processed}, Lines: "l", Work: 10, Forecast: 11, Announced: true, Purged: true}
}

// TestGoldens: bytes that other versions read. A change here needs a new V, and a reader of the old one.
func TestGoldens(t *testing.T) {
	o := newOffsets()
	o.add(1<<33, 7)
	o.add(1<<33+8, MaxLine)
	for name, b := range map[string][]byte{"batch.v1.json": encode(whole()), "offsets.v1.bin": o} {
		path := filepath.Join("testdata", name)
		if _, err := os.Stat(path); os.IsNotExist(err) && os.Getenv("UPDATE_GOLDENS") != "" {
			ok(t, os.MkdirAll("testdata", 0o755))
			ok(t, os.WriteFile(path, b, 0o644))
		}
		golden, err := os.ReadFile(path)
		ok(t, err)
		if d := cmp.Diff(string(golden), string(b)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	var back Batch
	ok(t, json.Unmarshal(encode(whole()), &back))
	if d := cmp.Diff(whole(), back, cmpopts.IgnoreUnexported(Batch{})); d != "" {
		t.Error(d)
	}
	if at, length := o.of(2); at != 1<<33+8 || length != MaxLine {
		t.Errorf("line 2 at %d, %d bytes", at, length)
	}
}
