package scheduler

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"lorry/queue"
	"lorry/webhook"
)

// alerts are those that stand in OUTBOX, by the endpoint that they go to.
func (r *rig) alerts() map[string]webhook.Outgoing {
	r.t.Helper()
	out := map[string]webhook.Outgoing{}
	for name := range r.outbox() {
		m, ok, err := r.q.Last(r.t.Context(), queue.StreamOutbox, name)
		if err != nil || !ok {
			r.t.Fatal(name, err)
		}
		var o webhook.Outgoing
		if err := json.Unmarshal(m.Data, &o); err != nil {
			r.t.Fatal(err)
		}
		if strings.HasPrefix(o.Type, "lorry.alert.") {
			out[o.Endpoint] = o
		}
	}
	return out
}

// TestAlerts: the owner of an endpoint that gets nothing is told by the others that asked for it, once, and nobody else is.
func TestAlerts(t *testing.T) {
	for name, c := range map[string]struct {
		answer, attempts int
		kind, status     string
	}{
		"keeps failing": {500, breakAt, webhook.AlertPaused, "enabled"},
		"is gone":       {410, 1, webhook.AlertDisabled, "disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.answer = func(string, int) int { return c.answer }
			sick, _ := r.endpoint(r.url+"?secret", "*")
			all, _ := r.endpoint(r.url, "lorry.alert.*")
			one, _ := r.endpoint(r.url, c.kind)
			r.endpoint(r.url, "batch.*")
			h, o, _ := r.way(sick)
			for n := range c.attempts {
				if len(r.alerts()) > 0 {
					t.Fatalf("told behind %d attempts", n)
				}
				run(t, h, o, n)
			}
			got := r.alerts()
			if len(got) != 2 || got[all.ID].Type != c.kind || got[one.ID].ID != got[all.ID].ID {
				t.Fatalf("%+v", got)
			}
			var e struct {
				ID, Object, Type string
				Data             struct{ ID, Object, Target, Status string }
			}
			if err := json.Unmarshal(got[one.ID].Body, &e); err != nil || e.ID != got[one.ID].ID || e.Object != "event" || e.Type != c.kind ||
				e.Data.ID != sick.ID || e.Data.Object != "lorry.webhook" || e.Data.Status != c.status || strings.Contains(fmt.Sprintf("%+v", e), "secret") {
				t.Errorf("%+v, %v", e, err)
			}
			r.answer = func(string, int) int { return 200 }
			for _, o := range got {
				if a := run(t, h, o, 0); a != nil || r.hits(o.ID) == 0 {
					t.Errorf("the alert to %s: %+v", o.Endpoint, a)
				}
			}
			if again := r.alerts(); len(again) != 0 {
				t.Errorf("left: %+v", again)
			}
		})
	}
}
