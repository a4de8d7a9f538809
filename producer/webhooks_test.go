package producer

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"lorry/queue"
	"lorry/result"
	"lorry/webhook"
)

const hooksPath = "/lorry/v1/webhooks"

// hooked is a road with a bucket for endpoints, in which secrets are sealed.
func hooked(t *testing.T) *road {
	t.Helper()
	sealer, err := webhook.NewSealer(bytes.Repeat([]byte{7}, 32))
	ok(t, err)
	r := setup(t, Config{Sealer: sealer, WebhookAllow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}})
	ok(t, webhook.NewSecrets(webhook.SecretsConfig{JS: r.queue.JS()}).Setup(t.Context()))
	return r
}

// hook makes an endpoint and returns its ID.
func (r *road) hook(body string) string {
	r.t.Helper()
	id, _ := r.post(hooksPath, body).want(r.t, 201)["id"].(string)
	return id
}

const aHook = `{"url":"https://example.com/hook","events":["batch.completed","response.*"]}`

func TestLifeOfAHook(t *testing.T) {
	r := hooked(t)
	v := r.post(hooksPath, aHook).want(t, 201)
	id, secret := v["id"].(string), v["secret"].(string)
	if !strings.HasPrefix(id, "we_") || webhook.CheckSecret(secret) != nil || v["object"] != "lorry.webhook" || v["status"] != "enabled" || dig(v, "events", 1) != "response.*" {
		t.Errorf("%v", v)
	}
	if a := r.do("GET", hooksPath+"/"+id, ""); a.want(t, 200)["url"] != "https://example.com/hook" || strings.Contains(string(a.body), "whsec_") {
		t.Errorf("%s", a.body)
	}
	if v = r.do("GET", hooksPath, "").want(t, 200); dig(v, "data", 0, "id") != id || dig(v, "data", 0, "secret") != nil {
		t.Errorf("%v", v)
	}
	v = r.post(hooksPath+"/"+id+"/rotate", "").want(t, 200)
	if fresh, _ := v["secret"].(string); fresh == secret || webhook.CheckSecret(fresh) != nil || v["previous_secret_until"] == nil {
		t.Errorf("%v", v)
	}
	v = r.do("PATCH", hooksPath+"/"+id, `{"status":"paused","url":"http://10.1.2.3/","description":"d"}`).want(t, 200)
	if v["status"] != "paused" || v["url"] != "http://10.1.2.3/" || v["description"] != "d" || dig(v, "events", 0) != "batch.completed" {
		t.Errorf("%v", v)
	}
	r.post(hooksPath+"/"+id+"/test", "").refused(t, 409, codeConflict)
	if v = r.do("DELETE", hooksPath+"/"+id, "").want(t, 200); v["deleted"] != true {
		t.Errorf("%v", v)
	}
	r.do("GET", hooksPath+"/"+id, "").refused(t, 404, codeNotFound)
}

func TestHookRefusals(t *testing.T) {
	r := hooked(t)
	id := r.hook(aHook)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"no url":           {"POST", "", `{"events":["*"]}`, 400, codeMissing},
		"no events":        {"POST", "", `{"url":"https://example.com"}`, 400, codeMissing},
		"empty events":     {"POST", "", `{"url":"https://example.com","events":[]}`, 400, "empty_array"},
		"unknown event":    {"POST", "", `{"url":"https://example.com","events":["batch.done"]}`, 400, codeValue},
		"inside":           {"POST", "", `{"url":"http://169.254.169.254/","events":["*"]}`, 400, codeValue},
		"no URL at all":    {"POST", "", `{"url":"x","events":["*"]}`, 400, codeValue},
		"a number":         {"POST", "", `{"url":7,"events":["*"]}`, 400, codeType},
		"unknown field":    {"POST", "", `{"url":"https://example.com","events":["*"],"secret":"whsec_x"}`, 400, codeUnknown},
		"no body":          {"POST", "", ``, 400, codeMissing},
		"unknown ID":       {"GET", "/we_00000000000000000000000000", "", 404, codeNotFound},
		"no ID":            {"GET", "/*", "", 404, codeNotFound},
		"status":           {"PATCH", "/" + id, `{"status":"disabled"}`, 400, codeValue},
		"overlap":          {"POST", "/" + id + "/rotate", `{"overlap_seconds":-1}`, 400, "integer_below_min_value"},
		"type":             {"POST", "/" + id + "/test", `{"type":"batch.done"}`, 400, codeValue},
		"unknown delivery": {"POST", "/" + id + "/deliveries/dlv_x/replay", "", 404, codeNotFound},
		"log of none":      {"GET", "/we_00000000000000000000000000/deliveries", "", 404, codeNotFound},
		"limit":            {"GET", "/" + id + "/deliveries?limit=0", "", 400, "integer_below_min_value"},
		"odd query":        {"GET", "/deliveries?after=x", "", 400, codeUnknown},
	} {
		t.Run(name, func(t *testing.T) { r.do(c.method, hooksPath+c.path, c.body).refused(t, c.status, c.code) })
	}
}

// outbox are the events on their way.
func (r *road) outbox() (out []webhook.Outgoing) {
	r.t.Helper()
	ms, _, err := r.queue.Read(r.t.Context(), queue.StreamOutbox, "hook.>", 1, 100)
	ok(r.t, err)
	for _, m := range ms {
		var o webhook.Outgoing
		ok(r.t, json.Unmarshal(m.Data, &o))
		out = append(out, o)
	}
	return out
}

func TestTestsAndReplays(t *testing.T) {
	r := hooked(t)
	id := r.hook(aHook)
	v := r.post(hooksPath+"/"+id+"/test", `{"type":"batch.completed"}`).want(t, 202)
	if out := r.outbox(); len(out) != 1 || out[0].Delivery != v["id"] || out[0].Endpoint != id || v["status"] != "queued" || v["type"] != "batch.completed" {
		t.Errorf("%v, %+v", v, out)
	}
	e := &result.End{V: 1, Batch: "batch_1", Tenant: "default", Status: "completed"}
	_, err := r.queue.JS().Publish(t.Context(), queue.EndSubject("default", "batch_1"), e.Encode())
	ok(t, err)
	log := webhook.NewLog(r.redis)
	delivery := webhook.DeliveryID("evt_1", id)
	for n, result := range []string{"failed", "delivered"} {
		ok(t, log.Keep(t.Context(), "default", webhook.Attempt{At: 5000, Event: "evt_1", Type: "batch.completed", Job: "batch_1", Delivery: delivery, Endpoint: id, Target: "https://example.com",
			Result: result, Status: 500 - 300*n, TookMS: 7, Attempt: n + 1}))
	}
	for _, path := range []string{"/" + id + "/deliveries", "/deliveries?limit=1"} {
		v = r.do("GET", hooksPath+path, "").want(t, 200)
		if dig(v, "data", 0, "id") != delivery || dig(v, "data", 0, "status") != "delivered" || dig(v, "data", 0, "attempts", 1, "status_code") != 500.0 || dig(v, "data", 0, "attempts", 0, "took_ms") != 7.0 || v["has_more"] != false {
			t.Errorf("%s: %v", path, v)
		}
	}
	for _, path := range []string{"/" + id + "/deliveries/", "/deliveries/"} {
		v = r.post(hooksPath+path+delivery+"/replay", "").want(t, 202)
		if v["replay_of"] != delivery || v["event"] != "evt_1" || !slices.ContainsFunc(r.outbox(), func(o webhook.Outgoing) bool { return o.Delivery == v["id"] && o.ID == "evt_1" && o.Job == "batch_1" }) {
			t.Errorf("%v", v)
		}
	}
}

// Endpoints are their tenant's alone.
func TestHooksOfOthers(t *testing.T) {
	r := hooked(t)
	mine := r.key("acme")
	theirs := r.key("other")
	id, _ := r.post(hooksPath, aHook, "Authorization: Bearer "+mine).want(t, 201)["id"].(string)
	for _, c := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"PATCH", ""}, {"POST", "/rotate"}, {"POST", "/test"}, {"GET", "/deliveries"}} {
		r.do(c[0], hooksPath+"/"+id+c[1], "", "Authorization: Bearer "+theirs).refused(t, 404, codeNotFound)
	}
	if v := r.do("GET", hooksPath, "", "Authorization: Bearer "+theirs).want(t, 200); len(v["data"].([]any)) != 0 {
		t.Errorf("%v", v)
	}
	r.do("GET", hooksPath, "").refused(t, 401, "")
}
