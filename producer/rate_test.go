package producer

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"lorry/engine/echo"
)

// tenant changes the default tenant's settings.
func (r *road) tenant(settings string) map[string]any {
	r.t.Helper()
	return r.do("PATCH", "/lorry/v1/tenants/default", settings).want(r.t, 200)
}

func TestRequestRate(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	ok(t, r.server.Setup(t.Context()))
	if a := r.post(chats, chat("no bound", "")); a.want(t, 200) == nil || a.header.Get("X-Ratelimit-Limit-Requests") != "" {
		t.Errorf("without a bound: %v", a.header)
	}
	r.tenant(`{"requests_per_minute":3,"tokens_per_minute":100000}`)
	kept := chat("kept", `"temperature":0,"max_tokens":5`)
	for i, send := range []func() answer{
		func() answer { return r.post(chats, kept) },
		func() answer { return r.post(completions, `{"model":"echo","prompt":"x","stream":true}`) },
		func() answer { return r.post(chats, chat("later", ""), later) },
	} {
		a := send()
		left, err := strconv.Atoi(a.header.Get("X-Ratelimit-Remaining-Requests"))
		tokens, _ := strconv.Atoi(a.header.Get("X-Ratelimit-Remaining-Tokens"))
		reset, e := time.ParseDuration(a.header.Get("X-Ratelimit-Reset-Requests"))
		if a.status/100 != 2 || err != nil || left != 2-i || e != nil || reset <= 0 || a.header.Get("X-Ratelimit-Limit-Requests") != "3" ||
			a.header.Get("X-Ratelimit-Limit-Tokens") != "100000" || tokens < 98000 || tokens >= 100000 {
			t.Errorf("request %d: %d %s %v", i, a.status, a.body, a.header)
		}
	}
	for name, send := range map[string]func() answer{
		"waited":     func() answer { return r.post(chats, chat("x", "")) },
		"cacheable":  func() answer { return r.post(chats, chat("y", `"temperature":0`)) },
		"stream":     func() answer { return r.post(chats, chat("x", `"stream":true`)) },
		"async":      func() answer { return r.post(chats, chat("x", ""), later) },
		"under key":  func() answer { return r.post(chats, chat("x", ""), "Idempotency-Key: k") },
		"embeddings": func() answer { return r.post("/v1/embeddings", `{"model":"echo","input":"x"}`) },
		"responses":  func() answer { return r.post("/v1/responses", `{"model":"echo","input":"x","background":true}`) },
	} {
		t.Run(name, func(t *testing.T) {
			a := send()
			a.refused(t, 429, codeRate)
			seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
			ms, _ := strconv.Atoi(a.header.Get("Retry-After-Ms"))
			if err != nil || seconds < 10 || seconds > 20 || ms > seconds*1000 || ms < 10_000 || a.header.Get(headerJob) != "" || a.header.Get("X-Should-Retry") != "" {
				t.Errorf("%v", a.header)
			}
			if !strings.Contains(string(a.body), "Rate limit reached for echo in organization default on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in ") ||
				!strings.Contains(string(a.body), `"type":"requests"`) {
				t.Errorf("%s", a.body)
			}
		})
	}
	if a := r.post(chats, kept); a.status != 200 || a.header.Get(headerCache) != "hit" {
		t.Errorf("what the cache answers is charged: %d %s", a.status, a.body)
	}
	if jobs := r.do("GET", "/v1/jobs", "").want(t, 200)["data"].([]any); len(jobs) > 5 {
		t.Errorf("refused ones are jobs: %d", len(jobs))
	}
	r.tenant(`{"requests_per_minute":0}`)
	r.post(chats, chat("x", ""), "Idempotency-Key: k").want(t, 200)
}

func TestTokenRate(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	r.tenant(`{"tokens_per_minute":1000}`)
	big := r.post(chats, chat("x", `"max_tokens":1000`))
	big.refused(t, 429, codeRate)
	if big.header.Get("X-Should-Retry") != "false" || !strings.Contains(string(big.body), "Request too large for echo in organization default on tokens per min (TPM): Limit 1000, Requested 10") {
		t.Errorf("%s %v", big.body, big.header)
	}
	r.post(chats, chat("x", `"max_tokens":900`)).want(t, 200)
	a := r.post(chats, chat("x", `"max_tokens":400`))
	a.refused(t, 429, codeRate)
	if s, _ := strconv.Atoi(a.header.Get("Retry-After")); s < 10 || s > 30 || !strings.Contains(string(a.body), `"type":"tokens"`) || a.header.Get("X-Ratelimit-Limit-Requests") != "" {
		t.Errorf("%s %v", a.body, a.header)
	}
	r.post(chats, chat("x", `"max_tokens":20`)).want(t, 200)
}

func TestTenants(t *testing.T) {
	r := setup(t, Config{})
	if x := r.tenant(`{"weight":3,"requests_per_minute":600,"paused":true}`); x["weight"] != 3.0 || x["requests_per_minute"] != 600.0 || x["paused"] != true || x["tokens_per_minute"] != 0.0 {
		t.Errorf("set: %v", x)
	}
	if x := r.tenant(`{"paused":false,"enqueued_tokens":5}`); x["weight"] != 3.0 || x["paused"] != false || x["enqueued_tokens"] != 5.0 {
		t.Errorf("changed: %v", x)
	}
	list := r.do("GET", "/lorry/v1/tenants", "").want(t, 200)["data"].([]any)
	if len(list) != 1 || dig(list, 0, "tenant") != "default" || dig(list, 0, "requests_per_minute") != 600.0 {
		t.Errorf("list: %v", list)
	}
	for body, code := range map[string]string{`{"weight":0}`: "integer_below_min_value", `{"weight":1001}`: "integer_above_max_value", `{"max_ready":-1}`: "integer_below_min_value",
		`{"colour":1}`: codeUnknown, `{"paused":1}`: codeType, `[]`: codeType} {
		r.do("PATCH", "/lorry/v1/tenants/default", body).refused(t, 400, code)
	}
	r.do("PATCH", "/lorry/v1/tenants/No*", `{"weight":1}`).refused(t, 400, codeValue)
	key := "Authorization: Bearer " + r.key("acme")
	for _, call := range []string{"GET /lorry/v1/tenants", "PATCH /lorry/v1/tenants/acme"} {
		method, path, _ := strings.Cut(call, " ")
		r.do(method, path, `{"weight":9}`, key).refused(t, 403, codeForbidden)
		r.do(method, path, `{"weight":9}`).refused(t, 401, "")
	}
	if got := fmt.Sprint(r.access.Tenant("acme").Weight); got != "1" {
		t.Errorf("weight %s", got)
	}
}
