package result

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"lorry/queue"
)

// Bytes that other versions read.
func TestEndGolden(t *testing.T) {
	e := &End{V: V, Batch: "batch_1", Tenant: "acme", Status: "completed", Created: 1, Ended: 2, Webhook: &queue.Webhook{URL: "https://example.com", Secret: "sealed"}}
	const want = `{"v":1,"batch":"batch_1","tenant":"acme","status":"completed","created":1,"ended":2,"webhook":{"url":"https://example.com","secret":"sealed"}}`
	if got := string(e.Encode()); got != want {
		t.Errorf("wrote %s", got)
	}
	back, err := DecodeEnd([]byte(want))
	if err != nil || cmp.Diff(e, back) != "" {
		t.Errorf("read: %v %s", err, cmp.Diff(e, back))
	}
	for name, b := range map[string]string{"newer": `{"v":2}`, "not JSON": `{`} {
		if _, err := DecodeEnd([]byte(b)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
