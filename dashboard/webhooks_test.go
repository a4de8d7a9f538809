package dashboard

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"lorry/resent"
	"lorry/webhook"
)

func TestWebhookPage(t *testing.T) {
	h := newHouse(t, true)
	ctx := t.Context()
	h.ok(webhook.NewSecrets(webhook.SecretsConfig{JS: h.q.JS()}).Setup(ctx))
	contains(t, h.see("/dashboard/webhooks", http.StatusOK), "No endpoints yet", "Nothing was sent")
	at := "https://example.com/<script>"
	e, secret, err := h.d.desk.Endpoints.Create(ctx, "default", webhook.Wish{URL: &at, Events: []string{"batch.*"}}, resent.Repeat{})
	h.ok(err)
	theirs, _, err := h.d.desk.Endpoints.Create(ctx, "acme", webhook.Wish{URL: &at, Events: []string{"batch.*"}}, resent.Repeat{})
	h.ok(err)
	h.ok(h.d.desk.Endpoints.Fail(ctx, "default", e.ID, time.Now(), "status 500"))
	h.ok(h.d.desk.Log.Keep(ctx, "default", webhook.Attempt{At: 1000, Event: "evt_1", Type: "batch.completed", Job: "batch_1", Delivery: "dlv_1", Endpoint: e.ID, Result: "failed", Status: 500, Attempt: 1, NextIn: 5}))
	body := h.see("/dashboard/webhooks", http.StatusOK)
	contains(t, body, e.ID, "failing", "status 500", "batch.*", "dlv_1", "batch.completed", "retrying", "Replay", "Enable")
	lacks(t, body, "<script>", secret, theirs.ID)
	if m := outside.FindString(body); m != "" {
		t.Errorf("the page has %q: nothing inline, nothing from elsewhere", m)
	}
	contains(t, h.see("/dashboard/webhooks?tenant=acme", http.StatusOK), theirs.ID)
	h.see("/dashboard/webhooks?after=x", http.StatusBadRequest)
}

func TestWebhookSteps(t *testing.T) {
	h := newHouse(t, true)
	ctx := t.Context()
	h.ok(webhook.NewSecrets(webhook.SecretsConfig{JS: h.q.JS()}).Setup(ctx))
	at := "https://example.com/hook"
	e, _, err := h.d.desk.Endpoints.Create(ctx, "default", webhook.Wish{URL: &at, Events: []string{"*"}}, resent.Repeat{})
	h.ok(err)
	h.ok(h.d.desk.Log.Keep(ctx, "default", webhook.Attempt{Event: "evt_1", Type: webhook.TestType, Delivery: "dlv_1", Endpoint: e.ID, Result: "delivered", Attempt: 1}))
	h.ok(h.d.desk.Log.Keep(ctx, "default", webhook.Attempt{Event: "evt_2", Type: "batch.failed", Job: "batch_2", Delivery: "dlv_2", Endpoint: e.ID, Result: "delivered", Attempt: 1}))
	for _, c := range []struct {
		step, id, tenant string
		status           int
		then             webhook.Status
	}{
		{"test", e.ID, "default", http.StatusSeeOther, webhook.Enabled},
		{"replay", "dlv_1", "default", http.StatusSeeOther, webhook.Enabled},
		{"replay", "dlv_2", "default", http.StatusGone, webhook.Enabled},
		{"replay", "dlv_3", "default", http.StatusNotFound, webhook.Enabled},
		{"pause", e.ID, "acme", http.StatusNotFound, webhook.Enabled},
		{"pause", e.ID, "default", http.StatusSeeOther, webhook.Paused},
		{"test", e.ID, "default", http.StatusConflict, webhook.Paused},
		{"enable", e.ID, "default", http.StatusSeeOther, webhook.Enabled},
	} {
		if r, body := h.ask(http.MethodPost, "/dashboard/webhooks/"+c.id+"/"+c.step, url.Values{"tenant": {c.tenant}}, "Accept", "text/html"); r.StatusCode != c.status {
			t.Errorf("%s of %s: %s %s", c.step, c.id, r.Status, body)
		}
		if got, err := h.d.desk.Endpoints.Get(ctx, "default", e.ID); err != nil || got.Status != c.then {
			t.Errorf("%s of %s: %s, %v", c.step, c.id, got.Status, err)
		}
	}
	sent, err := h.q.Subjects(ctx, "OUTBOX", "hook.default.*")
	if h.ok(err); len(sent) != 2 {
		t.Errorf("%d events are on their way, want the test and the replay", len(sent))
	}
}
