package producer

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"lorry/queue"
	"lorry/webhook"
)

const (
	endpointsPath = "/v1/webhook_endpoints"
	anEndpoint    = `{"url":"https://example.com/hook","name":"mine","event_types":["response.completed","batch.completed"]}`
)

// TestEndpointMadeOnce: both interfaces know a request that is sent again.
func TestEndpointMadeOnce(t *testing.T) {
	for path, body := range map[string]string{endpointsPath: anEndpoint, hooksPath: aHook} {
		r := hooked(t)
		made := r.post(path, body, "Idempotency-Key: k").body
		if again := r.post(path, body, "Idempotency-Key: k"); string(again.body) != string(made) {
			t.Errorf("%s under a key: %s, then %s", path, made, again.body)
		}
		r.post(path, strings.Replace(body, "hook", "hook2", 1), "Idempotency-Key: k").refused(t, 422, codeIdem)
		first := r.post(path, body).body
		if again := r.post(path, body, "X-Stainless-Retry-Count: 1"); string(again.body) != string(first) || string(first) == string(made) {
			t.Errorf("%s tried again by an SDK: %s, then %s", path, first, again.body)
		}
	}
}

func TestLifeOfAnEndpoint(t *testing.T) {
	r := hooked(t)
	v := r.post(endpointsPath, anEndpoint).want(t, 200)
	id, secret := v["id"].(string), v["signing_secret"].(string)
	if webhook.CheckSecret(secret) != nil || v["object"] != "webhook_endpoint" || v["name"] != "mine" || dig(v, "event_types", 0) != "batch.completed" || dig(v, "lorry", "status") != "enabled" {
		t.Errorf("%v", v)
	}
	if hint, _ := v["signing_secret_hint"].(string); len(hint) > 16 || !strings.HasPrefix(secret, strings.TrimSuffix(hint, "…")) {
		t.Errorf("hint %q", hint)
	}
	a := r.do("GET", endpointsPath+"/"+id, "")
	if a.want(t, 200)["url"] != "https://example.com/hook" || strings.Contains(string(a.body), secret) || dig(a.want(t, 200), "signing_secret") != nil {
		t.Errorf("%s", a.body)
	}
	if v = r.do("GET", hooksPath+"/"+id, "").want(t, 200); v["description"] != "mine" {
		t.Errorf("Lorry's own interface shows another endpoint: %v", v)
	}
	if v = r.post(endpointsPath+"/"+id, `{"event_types":["batch.failed"]}`).want(t, 200); v["name"] != "mine" || dig(v, "event_types", 0) != "batch.failed" {
		t.Errorf("%v", v)
	}
	for body, kept := range map[string]bool{"": false, `{"keep_old_secret_active_for_24_hours":true}`: true} {
		fresh := r.post(endpointsPath+"/"+id+"/rotate_secret", body).want(t, 200)["signing_secret"].(string)
		if webhook.CheckSecret(fresh) != nil || fresh == secret {
			t.Errorf("%q", fresh)
		}
		if until := r.do("GET", hooksPath+"/"+id, "").want(t, 200)["previous_secret_until"]; (until != nil) != kept {
			t.Errorf("%s: the old secret signs until %v", body, until)
		}
	}
	if v = r.do("DELETE", endpointsPath+"/"+id, "").want(t, 200); v["object"] != "webhook_endpoint.deleted" || v["deleted"] != true {
		t.Errorf("%v", v)
	}
	r.do("GET", endpointsPath+"/"+id, "").refused(t, 404, codeNotFound)
	if v = r.do("GET", "/v1/webhook_event_types", "").want(t, 200); dig(v, "data", 0) != "batch.completed" {
		t.Errorf("%v", v)
	}
}

// Pages have no gaps and nothing twice, though an endpoint that a page ended with is deleted before the next one.
func TestEndpointPages(t *testing.T) {
	r := hooked(t)
	var ids []string
	for range 5 {
		ids = append(ids, r.post(endpointsPath, anEndpoint).want(t, 200)["id"].(string))
	}
	var got []string
	for after := ""; ; {
		v := r.do("GET", endpointsPath+"?limit=2"+after, "").want(t, 200)
		for _, e := range v["data"].([]any) {
			got = append(got, e.(map[string]any)["id"].(string))
		}
		if v["has_more"] != true {
			break
		}
		after = "&after=" + v["last_id"].(string)
		r.do("DELETE", endpointsPath+"/"+v["last_id"].(string), "").want(t, 200)
	}
	want := []string{ids[4], ids[3], ids[2], ids[1], ids[0]}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestEndpointRefusals(t *testing.T) {
	r := hooked(t)
	id := r.post(endpointsPath, anEndpoint).want(t, 200)["id"].(string)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"no name":             {"POST", "", `{"url":"https://example.com","event_types":["batch.failed"]}`, 400, codeMissing},
		"our own field":       {"POST", "", `{"url":"https://example.com","name":"x","event_types":["batch.failed"],"events":["*"]}`, 400, codeUnknown},
		"a type we lack":      {"POST", "", `{"url":"https://example.com","name":"x","event_types":["video.completed"]}`, 400, codeValue},
		"inside":              {"POST", "", `{"url":"http://169.254.169.254/","name":"x","event_types":["batch.failed"]}`, 400, codeValue},
		"status":              {"POST", "/" + id, `{"status":"paused"}`, 400, codeUnknown},
		"odd keep":            {"POST", "/" + id + "/rotate_secret", `{"keep_old_secret_active_for_24_hours":"yes"}`, 400, codeType},
		"test of nothing":     {"POST", "/" + id + "/test", "", 400, codeMissing},
		"test of a type":      {"POST", "/" + id + "/test", `{"event_type":"video.completed"}`, 400, codeValue},
		"test of no endpoint": {"POST", "/we_00000000000000000000000000/test", `{"event_type":"batch.failed"}`, 404, codeNotFound},
		"unknown ID":          {"GET", "/we_00000000000000000000000000", "", 404, codeNotFound},
		"after":               {"GET", "?after=x", "", 400, codeValue},
		"limit":               {"GET", "?limit=101", "", 400, "integer_above_max_value"},
	} {
		t.Run(name, func(t *testing.T) { r.do(c.method, endpointsPath+c.path, c.body).refused(t, c.status, c.code) })
	}
}

// triedOnce stands in for the scheduler: it logs an attempt for the next event that it is told of.
func (r *road) triedOnce(endpoint string, status int) <-chan struct{} {
	r.t.Helper()
	sub, err := r.queue.Conn().SubscribeSync(queue.HookHintSubject("*"))
	ok(r.t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer sub.Unsubscribe()
		m, err := sub.NextMsg(patience)
		if err != nil {
			r.t.Errorf("no event: %v", err)
			return
		}
		delivery := string(m.Data[bytes.LastIndexByte(m.Data, '.')+1:]) // the last part of its subject
		a := webhook.Attempt{At: 1, Type: "batch.failed", Delivery: delivery, Endpoint: endpoint, Status: status, Error: "webhook: POST https://example.com: no such host"}
		if err := webhook.NewLog(r.redis).Keep(r.t.Context(), "default", a); err != nil {
			r.t.Error(err)
		}
	}()
	return done
}

// A test shows what the receiver answered to its first attempt; what no receiver answered is an error that SDKs do not
// repeat.
func TestEndpointTests(t *testing.T) {
	r := hooked(t)
	id := r.post(endpointsPath, anEndpoint).want(t, 200)["id"].(string)
	for _, status := range []int{500, 0} {
		tried := r.triedOnce(id, status)
		a := r.post(endpointsPath+"/"+id+"/test", `{"event_type":"batch.failed"}`)
		<-tried
		if status == 0 {
			a.refused(t, 422, codeUnanswered)
			if !strings.Contains(string(a.body), "no such host") {
				t.Errorf("%s", a.body)
			}
		} else if v := a.want(t, 200); v["object"] != "webhook_endpoint.test" || v["status_code"] != 500.0 || v["success"] != true || v["event_type"] != "batch.failed" || v["webhook_endpoint_id"] != id {
			t.Errorf("%v", v)
		}
	}
	ok(t, webhook.NewEndpoints(webhook.EndpointsConfig{JS: r.queue.JS()}).Fail(t.Context(), "default", id, time.Now(), "webhook: status 500"))
	r.post(endpointsPath+"/"+id+"/test", `{"event_type":"batch.failed"}`).refused(t, 409, codeConflict)
	if v := r.do("GET", endpointsPath+"/"+id, "").want(t, 200); dig(v, "lorry", "failing", "error") != "webhook: status 500" {
		t.Errorf("%v", v)
	}
}
