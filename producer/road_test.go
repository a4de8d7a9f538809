package producer

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"lorry/access"
	"lorry/engine"
	"lorry/engine/echo"
	"lorry/queue"
	"lorry/registry"
	"lorry/result"
)

func chat(text, fields string) string {
	if fields != "" {
		fields = "," + fields
	}
	return fmt.Sprintf(`{"model":"echo","messages":[{"role":"user","content":%q}]%s}`, text, fields)
}

const (
	chats       = "/v1/chat/completions"
	completions = "/v1/completions"
	later       = "Prefer: respond-async"
)

func TestWaited(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	a := r.post(chats, chat("one two three", `"max_tokens":2`))
	v := a.want(t, 200)
	if dig(v, "choices", 0, "message", "content") != "one two" || dig(v, "choices", 0, "finish_reason") != "length" || v["object"] != "chat.completion" || v["model"] != "echo" {
		t.Errorf("%s", a.body)
	}
	if dig(v, "usage", "completion_tokens") != 2.0 || a.header.Get(headerCache) != "bypass" {
		t.Errorf("%s %v", a.body, a.header)
	}
	id := a.header.Get(headerJob)
	v = r.do("GET", "/v1/jobs/"+id, "").want(t, 200)
	if v["status"] != "succeeded" || v["object"] != "lorry.job" || dig(v, "response", "body", "choices", 0, "message", "content") != "one two" {
		t.Errorf("%v", v)
	}
	v = r.post(completions, `{"model":"echo","prompt":"a b","logprobs":null}`).want(t, 200)
	if dig(v, "choices", 0, "text") != "a b" || v["object"] != "text_completion" {
		t.Errorf("%v", v)
	}
	for _, body := range []string{`{"text":"a b"}`, `{"inputs":"a b","parameters":{"max_new_tokens":9}}`} {
		if v = r.post("/generate", body).want(t, 200); v["generated_text"] != "a b" {
			t.Errorf("%v", v)
		}
	}
}

func TestAsync(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	a := r.post(chats, chat("hello", `"metadata":{"k":"v"},"lorry":{"deadline":"1h"}`), later)
	v := a.want(t, 202)
	id, _ := v["id"].(string)
	if !strings.HasPrefix(id, "job_") || a.header.Get("Location") != "/v1/jobs/"+id || a.header.Get(headerJob) != id || v["status"] != "queued" || v["lane"] != "flex" {
		t.Errorf("%s %v", a.body, a.header)
	}
	wait(t, "an answer", func() bool { return r.state(id) == queue.Succeeded })
	v = r.do("GET", "/v1/jobs/"+id, "").want(t, 200)
	if dig(v, "response", "status_code") != 200.0 || dig(v, "metadata", "k") != "v" || dig(v, "usage", "total_tokens") == nil {
		t.Errorf("%v", v)
	}
	r.post("/v1/jobs/"+id+"/cancel", "").refused(t, 409, codeConflict)
	if h := r.post("/v1/jobs/"+id+"/cancel", "").header.Get("X-Should-Retry"); h != "false" {
		t.Errorf("x-should-retry: %q", h)
	}
}

func TestCancelQueued(t *testing.T) {
	r := setup(t, Config{})
	id := r.post(chats, chat("x", ""), later).header.Get(headerJob)
	for range 2 {
		if v := r.post("/v1/jobs/"+id+"/cancel", "").want(t, 200); v["status"] != "cancelled" || dig(v, "error", "code") != "job_cancelled" {
			t.Errorf("%v", v)
		}
	}
	r.post("/v1/jobs/job_none/cancel", "").refused(t, 404, codeNotFound)
	r.do("GET", "/v1/jobs/job_none", "").refused(t, 404, codeNotFound)
}

func TestEngineErrors(t *testing.T) {
	r := setup(t, Config{})
	r.work(func(context.Context, *engine.Request, func(engine.Chunk)) (*engine.Completion, error) {
		return nil, engine.Errorf(engine.Invalid, engine.CodeContextLength, "messages", "This model's maximum context length is 8 tokens.")
	})
	r.post(chats, chat("x", "")).refused(t, 400, "context_length_exceeded")
	r.post(chats, chat("x", `"stream":true`)).refused(t, 400, "context_length_exceeded")
}

func TestRefusals(t *testing.T) {
	r := setup(t, Config{MaxBody: 2000})
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
		headers            []string
	}{
		"unknown path":      {"GET", "/v1/nothing", "", 404, codeURL, nil},
		"root":              {"GET", "/", "", 404, codeURL, nil},
		"wrong method":      {"GET", "/v1/completions", "", 405, codeMethod, nil},
		"delete of a job":   {"DELETE", "/v1/jobs/job_1", "", 405, codeMethod, nil},
		"unknown model":     {"POST", chats, `{"model":"gpt","messages":[{"role":"user","content":"x"}]}`, 404, "model_not_found", nil},
		"impossible model":  {"POST", chats, `{"model":"a b*","messages":[{"role":"user","content":"x"}]}`, 404, "model_not_found", nil},
		"get unknown model": {"GET", "/v1/models/gpt", "", 404, "model_not_found", nil},
		"too large":         {"POST", chats, chat(strings.Repeat("x", 3000), ""), 413, codeTooLarge, nil},
		"malformed":         {"POST", chats, `{"model":`, 400, codeJSON, nil},
		"a picture":         {"POST", chats, "GIF", 415, "unsupported_media_type", []string{"Content-Type: image/gif"}},
		"stream and async":  {"POST", chats, chat("x", `"stream":true`), 400, codeCombination, []string{later}},
		"long key":          {"POST", chats, chat("x", ""), 400, codeValue, []string{"Idempotency-Key: " + strings.Repeat("k", 300)}},
		"other origin":      {"POST", chats, chat("x", ""), 403, "cross_origin", []string{"Sec-Fetch-Site: cross-site", "Origin: https://example.com"}},
		"limit 0":           {"GET", "/v1/jobs?limit=0", "", 400, "integer_below_min_value", nil},
		"limit 101":         {"GET", "/v1/jobs?limit=101", "", 400, "integer_above_max_value", nil},
		"limit -1":          {"GET", "/v1/jobs?limit=-1", "", 400, "integer_below_min_value", nil},
		"limit x":           {"GET", "/v1/jobs?limit=x", "", 400, codeType, nil},
		"limit huge":        {"GET", "/v1/jobs?limit=99999999999999999999", "", 400, "integer_above_max_value", nil},
		"status":            {"GET", "/v1/jobs?status=done", "", 400, codeValue, nil},
		"after":             {"GET", "/v1/jobs?after=job_none", "", 400, codeValue, nil},
		"odd query":         {"GET", "/v1/jobs?before=x", "", 400, codeUnknown, nil},
	} {
		t.Run(name, func(t *testing.T) { r.do(c.method, c.path, c.body, c.headers...).refused(t, c.status, c.code) })
	}
	if a := r.do("GET", "/v1/completions", ""); a.header.Get("Allow") != "POST" {
		t.Errorf("Allow: %q", a.header.Get("Allow"))
	}
}

func TestListPages(t *testing.T) {
	r := setup(t, Config{})
	if v := r.do("GET", "/v1/jobs", "").want(t, 200); v["has_more"] != false || v["first_id"] != nil || len(v["data"].([]any)) != 0 {
		t.Errorf("an empty list: %v", v)
	}
	for range 7 {
		r.post(chats, chat("x", ""), later).want(t, 202)
	}
	var got []string
	for path := "/v1/jobs?limit=3"; ; {
		v := r.do("GET", path, "").want(t, 200)
		for _, d := range v["data"].([]any) {
			got = append(got, dig(d, "id").(string))
		}
		if v["last_id"] != got[len(got)-1] {
			t.Errorf("last_id %v", v["last_id"])
		}
		if v["has_more"] == false {
			break
		}
		path = "/v1/jobs?limit=3&after=" + got[len(got)-1]
		r.post(chats, chat("in between", ""), later).want(t, 202) // newer ones must not shift the pages
	}
	for i := 1; i < len(got); i++ {
		if got[i] >= got[i-1] {
			t.Errorf("not the newest first: %v", got)
		}
	}
	if len(got) != 7 {
		t.Errorf("%d jobs over the pages, want 7", len(got))
	}
}

func TestIdempotencyKey(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	key := "Idempotency-Key: abc"
	a := r.post(chats, chat("once", ""), key)
	b := r.post(chats, chat("once", ""), key)
	a.want(t, 200)
	if string(a.body) != string(b.want(t, 200)["id"].(string)) && string(a.body) != string(b.body) {
		t.Errorf("%s\n%s", a.body, b.body)
	}
	c := r.post(chats, chat("once", ""), key, later).want(t, 202)
	if c["id"] != a.header.Get(headerJob) || c["status"] != "succeeded" {
		t.Errorf("%v", c)
	}
	r.post(chats, chat("other", ""), key).refused(t, 422, codeIdem)
	r.post(completions, chat("once", ""), key).refused(t, 400, codeMissing)
	if n := r.runs.count(); n != 1 {
		t.Errorf("%d runs", n)
	}
	stood, err := r.store.Committed(t.Context(), &queue.Job{ID: a.header.Get(headerJob), Tenant: "default"})
	if err != nil || stood == nil {
		t.Errorf("a job under a key is recorded: %v %v", stood, err)
	}
}

// A producer that bound the key and died must not leave the client without a job.
func TestIdempotencyKeyOfTheDead(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	body := chat("once", "")
	q, _ := http.NewRequest("POST", chats, nil)
	q.Header.Set("Idempotency-Key", "k")
	idem, err := idemOf(q, queue.Chat, []byte(body))
	ok(t, err)
	_, err = r.store.Idempotent(t.Context(), "default", *idem, "job_dead")
	ok(t, err)
	a := r.post(chats, body, "Idempotency-Key: k")
	a.want(t, 200)
	if a.header.Get(headerJob) != "job_dead" {
		t.Errorf("answered by %s", a.header.Get(headerJob))
	}
}

func TestIdempotencyKeyAtOnce(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{Delay: 20 * time.Millisecond})
	var wg sync.WaitGroup
	bodies := make([]string, 12)
	for i := range bodies {
		wg.Go(func() { bodies[i] = string(r.post(chats, chat("once and for all", ""), "Idempotency-Key: k").body) })
	}
	wg.Wait()
	for _, b := range bodies {
		if b != bodies[0] || !strings.Contains(b, "once and for all") {
			t.Errorf("%s\n%s", b, bodies[0])
		}
	}
	if n := r.runs.count(); n != 1 {
		t.Errorf("%d runs", n)
	}
}

func TestCache(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	body := chat("again", `"temperature":0`)
	a, b := r.post(chats, body), r.post(chats, body)
	if a.header.Get(headerCache) != "miss" || b.header.Get(headerCache) != "hit" || a.header.Get(headerJob) == b.header.Get(headerJob) {
		t.Errorf("%v\n%v", a.header, b.header)
	}
	if x, y := dig(a.want(t, 200), "choices", 0, "message", "content"), dig(b.want(t, 200), "choices", 0, "message", "content"); x != "again" || y != x {
		t.Errorf("%v %v", x, y)
	}
	wait(t, "the hit's record", func() bool { return r.state(b.header.Get(headerJob)) == queue.Succeeded })
	if a := r.post(chats, body, "x-lorry-cache: bypass"); a.header.Get(headerCache) != "bypass" {
		t.Errorf("%v", a.header)
	}
	if c := r.post(chats, body, later); c.want(t, 202)["status"] != "succeeded" || c.header.Get(headerCache) != "hit" {
		t.Errorf("%s", c.body)
	}
	if s := r.post(chats, chat("again", `"temperature":0,"stream":true`)); s.header.Get(headerCache) != "hit" || !strings.Contains(string(s.body), `"content":"again"`) {
		t.Errorf("%s", s.body)
	}
	if n := r.runs.count(); n != 2 {
		t.Errorf("%d runs, want 2: the first and the bypass", n)
	}
}

// A cached answer survives a Redis that is lost, and one of another tenant or model is never given.
func TestCacheRecent(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	body := chat("again", `"temperature":0`)
	for range 2 {
		r.post(chats, body).want(t, 200)
	}
	ok(t, r.redis.FlushAll(t.Context()).Err())
	if a := r.post(chats, body); a.status != 200 || a.header.Get(headerCache) != "hit" {
		t.Errorf("%d %v", a.status, a.header)
	}
	v := r.post("/lorry/v1/keys", `{"tenant":"acme","admin":true}`).want(t, 201)
	r.post(chats, body, "Authorization: Bearer "+v["key"].(string)).refused(t, 503, codeAway)
}

// Samples are never collapsed; equal cacheable requests at the same moment run once.
func TestFlight(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{Delay: 50 * time.Millisecond})
	together := func(n int, body string) (hits int) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range n {
			wg.Go(func() {
				a := r.post(chats, body)
				a.want(t, 200)
				mu.Lock()
				defer mu.Unlock()
				if a.header.Get(headerCache) == "hit" {
					hits++
				}
			})
		}
		wg.Wait()
		return hits
	}
	if hits := together(20, chat("one two three", `"seed":3`)); hits != 19 || r.runs.count() != 1 {
		t.Errorf("%d hits, %d runs", hits, r.runs.count())
	}
	if hits := together(5, chat("one two three", ``)); hits != 0 || r.runs.count() != 6 {
		t.Errorf("%d hits, %d runs of samples", hits, r.runs.count())
	}
}

// A leader that fails hands over; a leader that is cancelled too.
func TestFlightHandsOver(t *testing.T) {
	r := setup(t, Config{})
	started, let := make(chan string, 10), make(chan struct{})
	r.work(func(ctx context.Context, q *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		started <- q.ID
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-let:
			return &engine.Completion{Choices: []engine.Choice{{Text: "done", Finish: engine.FinishStop}}}, nil
		}
	})
	body := chat("x", `"temperature":0`)
	ctx, hangUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = r.send(ctx, "POST", chats, body) })
	leader := <-started
	var a answer
	wg.Go(func() { a = r.post(chats, body) })
	wait(t, "a follower", func() bool { st, _, _ := r.store.List(t.Context(), "default", result.Filter{}); return len(st) == 2 })
	hangUp()
	wait(t, "the leader's end", func() bool { return r.state(leader) == queue.Cancelled })
	if second := <-started; second == leader {
		t.Error("the same job ran again")
	}
	close(let)
	wg.Wait()
	if dig(a.want(t, 200), "choices", 0, "message", "content") != "done" {
		t.Errorf("%s", a.body)
	}
}

// A follower can be cancelled by its own name while its leader runs on.
func TestFollowerIsCancelled(t *testing.T) {
	r := setup(t, Config{})
	let := make(chan struct{})
	var leader string
	r.by(func(j *queue.Job, end func(*result.Verdict)) { leader = j.ID; <-let; end(says(j, "done")) })
	body := chat("x", `"temperature":0`)
	var a, b answer
	var wg sync.WaitGroup
	wg.Go(func() { a = r.post(chats, body) })
	listed := func(n int) func() bool {
		return func() bool {
			st, _, err := r.store.List(t.Context(), "default", result.Filter{})
			return err == nil && len(st) == n && st[0].State == queue.Queued || n == 1 && len(st) == 1 && st[0].State == queue.Running
		}
	}
	wait(t, "a leader", listed(1))
	var second sync.WaitGroup
	second.Go(func() { b = r.post(chats, body) })
	wait(t, "a follower", listed(2))
	st, _, err := r.store.List(t.Context(), "default", result.Filter{})
	ok(t, err)
	r.post("/v1/jobs/"+st[0].Job+"/cancel", "").want(t, 200)
	second.Wait()
	b.refused(t, 499, "job_cancelled")
	close(let)
	wg.Wait()
	if a.want(t, 200); a.header.Get(headerJob) != leader || b.header.Get(headerJob) != st[0].Job {
		t.Errorf("%s, %s", a.header.Get(headerJob), b.header.Get(headerJob))
	}
}

// What is recorded is recorded, though the cache answers it.
func TestCachedUnderAKey(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	body := chat("x", `"temperature":0`)
	r.post(chats, body).want(t, 200)
	a := r.post(chats, body, "Idempotency-Key: k")
	if a.want(t, 200); a.header.Get(headerCache) != "hit" {
		t.Errorf("%v", a.header)
	}
	v, err := r.store.Committed(t.Context(), &queue.Job{ID: a.header.Get(headerJob), Tenant: "default"})
	if err != nil || v == nil || !v.Cached {
		t.Errorf("%+v %v", v, err)
	}
	b := r.post(chats, body, "Idempotency-Key: k")
	if string(a.body) != string(b.body) {
		t.Errorf("%s\n%s", a.body, b.body)
	}
}

func TestHangUpCancels(t *testing.T) {
	r := setup(t, Config{})
	started, ended := make(chan string, 10), make(chan string, 10)
	r.work(func(ctx context.Context, q *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		started <- q.ID
		<-ctx.Done()
		ended <- q.ID
		return nil, context.Cause(ctx)
	})
	for name, c := range map[string]struct {
		fields string
		header string
		goesOn bool
	}{
		"waited":   {"", "X-A: b", false},
		"streamed": {`"stream":true`, "X-A: b", false},
		"flex":     {`"lorry":{"lane":"flex"}`, "X-A: b", false},
		"key":      {"", "Idempotency-Key: k", true},
		"webhook":  {`"lorry":{"webhook":{"url":"https://example.com"}}`, "X-A: b", true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, hangUp := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _, _ = r.send(ctx, "POST", chats, chat("x", c.fields), c.header) }()
			id := <-started
			hangUp()
			<-done
			if c.goesOn {
				wait(t, "no more waiting", func() bool { return r.held() == 0 })
				if st := r.state(id); st != queue.Running {
					t.Errorf("%s", st)
				}
				_, err := r.store.Cancel(t.Context(), "default", id)
				ok(t, err)
			}
			if got := <-ended; got != id {
				t.Errorf("%s ended, not %s", got, id)
			}
			wait(t, "a cancelled job", func() bool { return r.state(id) == queue.Cancelled })
		})
	}
}

func (r *road) held() int {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	return r.server.held
}

func TestWaitEnds(t *testing.T) {
	r := setup(t, Config{})
	a := r.post(chats, chat("x", `"lorry":{"deadline":"100ms"}`))
	a.refused(t, 408, "deadline_exceeded")
	if st := r.state(a.header.Get(headerJob)); st != queue.Expired {
		t.Error(st)
	}
	r.serve(Config{Wait: 300 * time.Millisecond})
	a = r.post(chats, chat("x", ""))
	a.refused(t, 504, codeWaitedEnough)
	if a.header.Get("X-Should-Retry") != "false" || r.state(a.header.Get(headerJob)) != queue.Cancelled {
		t.Errorf("%v %s", a.header, r.state(a.header.Get(headerJob)))
	}
	a = r.post(chats, chat("x", ""), "Idempotency-Key: k")
	a.refused(t, 504, codeWaitedEnough)
	if st := r.state(a.header.Get(headerJob)); st != queue.Queued {
		t.Error(st)
	}
}

func TestTenantWaiting(t *testing.T) {
	r := setup(t, Config{TenantWaiting: 2})
	ctx, hangUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { _, _ = r.send(ctx, "POST", chats, chat("x", "")) })
	}
	wait(t, "two to wait", func() bool { return r.waiting() == 2 })
	a := r.post(chats, chat("x", ""))
	a.refused(t, 429, codeRate)
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	r.post(chats, chat("x", ""), later).want(t, 202)
	hangUp()
	wg.Wait()
	wait(t, "room", func() bool { return r.waiting() == 0 })
}

func (r *road) waiting() int {
	r.server.waiting.mu.Lock()
	defer r.server.waiting.mu.Unlock()
	return r.server.waiting.n["default"]
}

func TestKeysAndTenants(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	v := r.post("/lorry/v1/keys", `{"tenant":"ops","admin":true,"name":"first"}`).want(t, 201)
	admin := "Authorization: Bearer " + v["key"].(string)
	r.post("/lorry/v1/keys", `{"tenant":"acme"}`).refused(t, 401, "")
	r.post(chats, chat("x", ""), "Authorization: Bearer nonsense").refused(t, 401, codeKey)
	r.do("GET", "/v1/models", "").refused(t, 401, "")
	r.post("/lorry/v1/keys", `{"tenant":"No Such"}`, admin).refused(t, 400, codeValue)
	r.post("/lorry/v1/keys", `{}`, admin).refused(t, 400, codeMissing)
	v = r.post("/lorry/v1/keys", `{"tenant":"acme"}`, admin).want(t, 201)
	acme := "Authorization: bearer " + v["key"].(string)
	r.post("/lorry/v1/keys", `{"tenant":"acme"}`, acme).refused(t, 403, codeForbidden)
	r.do("GET", "/lorry/v1/keys", "", acme).refused(t, 403, codeForbidden)
	if l := r.do("GET", "/lorry/v1/keys", "", admin).want(t, 200); len(l["data"].([]any)) != 2 || dig(l, "data", 0, "key") != nil {
		t.Errorf("%v", l)
	}
	a := r.post(chats, chat("x", ""), acme)
	a.want(t, 200)
	r.do("GET", "/v1/jobs/"+a.header.Get(headerJob), "", acme).want(t, 200)
	r.do("GET", "/v1/jobs/"+a.header.Get(headerJob), "", admin).refused(t, 404, codeNotFound)
	r.do("DELETE", "/lorry/v1/keys/"+v["id"].(string), "", admin).want(t, 200)
	r.do("DELETE", "/lorry/v1/keys/none", "", admin).refused(t, 404, codeNotFound)
	r.post(chats, chat("x", ""), acme).refused(t, 401, codeKey)
}

func TestModels(t *testing.T) {
	r := setup(t, Config{})
	v := r.do("GET", "/v1/models", "").want(t, 200)
	if dig(v, "data", 0, "id") != "echo" || dig(v, "data", 0, "object") != "model" || dig(v, "data", 0, "created") != 1.0 {
		t.Errorf("%v", v)
	}
	if v := r.do("GET", "/v1/models/echo", "").want(t, 200); v["owned_by"] != "lorry" {
		t.Errorf("%v", v)
	}
	ok(t, r.models.Put(t.Context(), registry.Model{Name: "org/other:v1", Base: echo.Base}))
	r.do("GET", "/v1/models/org/other:v1", "").want(t, 200)
	r.post("/generate", `{"text":"a"}`).refused(t, 400, codeMissing)
}

func TestWebhookSecretTravels(t *testing.T) {
	r := setup(t, Config{})
	a := r.post(chats, chat("x", `"lorry":{"webhook":{"url":"https://example.com/h","secret":"0123456789012345678901234"}}`), later)
	a.want(t, 202)
	m, found, err := r.queue.Last(t.Context(), queue.StreamBacklog, queue.BacklogSubject(queue.Flex, engine.Model{Base: echo.Base}.B(), access.DefaultTenant, 1))
	if err != nil || !found {
		t.Fatal(err)
	}
	j, err := queue.DecodeJob(m.Data)
	ok(t, err)
	if j.Webhook == nil || j.Webhook.URL != "https://example.com/h" || j.Webhook.Secret == "" || j.ID != a.header.Get(headerJob) || j.Waited {
		t.Errorf("%+v", j)
	}
}
