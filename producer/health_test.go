package producer

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"lorry/engine/echo"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/result"
)

func TestReadyz(t *testing.T) {
	r := setup(t, Config{})
	r.do("GET", "/healthz", "").want(t, 200)
	r.do("GET", "/readyz", "").want(t, 200)
	ok(t, r.redis.FlushAll(t.Context()).Err())
	r.do("GET", "/readyz", "").refused(t, 503, codeAway)
	ok(t, r.store.Open(t.Context()))
	r.do("GET", "/readyz", "").want(t, 200)
	ok(t, r.queue.JS().DeleteStream(t.Context(), queue.StreamJobs))
	r.do("GET", "/readyz", "").refused(t, 503, "not_ready")
}

func TestReadyzOfMore(t *testing.T) {
	no := errors.New("no worker is there yet")
	r := setup(t, Config{Ready: func(context.Context) error { return no }})
	a := r.do("GET", "/readyz", "")
	a.refused(t, 503, "not_ready")
	if !strings.Contains(string(a.body), no.Error()) {
		t.Errorf("%s", a.body)
	}
}

func TestMetrics(t *testing.T) {
	r := setup(t, Config{}).echo(echo.Config{})
	r.post(chats, chat("x", `"temperature":0`)).want(t, 200)
	r.do("GET", "/nowhere", "")
	a := r.do("GET", "/metrics", "")
	for _, want := range []string{`lorry_http_requests_total{code="200",route="POST /v1/chat/completions"}`, `lorry_http_requests_total{code="404",route="none"}`,
		`lorry_cache_requests_total{result="miss"}`, "lorry_http_seconds_bucket", "lorry_http_waiting 0", `lorry_jobs_accepted_total{lane="interactive",road="waited"}`} {
		if !strings.Contains(string(a.body), want) {
			t.Errorf("no %s", want)
		}
	}
}

// Nothing hangs and nothing is a 500 when a store is away; all is well when it is back.
func TestStoresAway(t *testing.T) {
	requests := map[string]func(r *road) answer{
		"waited":    func(r *road) answer { return r.post(chats, chat("x", "")) },
		"cacheable": func(r *road) answer { return r.post(chats, chat("x", `"temperature":0`)) },
		"streamed":  func(r *road) answer { return r.post(chats, chat("x", `"stream":true`)) },
		"async":     func(r *road) answer { return r.post(chats, chat("x", ""), later) },
		"keyed":     func(r *road) answer { return r.post(chats, chat("x", ""), "Idempotency-Key: k") },
		"get":       func(r *road) answer { return r.do("GET", "/v1/jobs/job_1", "") },
		"list":      func(r *road) answer { return r.do("GET", "/v1/jobs", "") },
		"cancel":    func(r *road) answer { return r.post("/v1/jobs/job_1/cancel", "") },
		"ready":     func(r *road) answer { return r.do("GET", "/readyz", "") },
	}
	check := func(t *testing.T, r *road, but ...string) {
		t.Helper()
		var wg sync.WaitGroup
		for name, f := range requests {
			if strings.Contains(strings.Join(but, " "), name) {
				continue
			}
			wg.Go(func() {
				began := time.Now()
				a := f(r)
				if a.status != 503 || a.header.Get("Retry-After") == "" && name != "ready" || !strings.Contains(string(a.body), codeAway) {
					t.Errorf("%s: %d %s", name, a.status, a.body)
				}
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("%s took %s", name, took)
				}
			})
		}
		wg.Wait()
	}
	t.Run("epoch lost", func(t *testing.T) {
		r := setup(t, Config{}).echo(echo.Config{})
		ok(t, r.redis.FlushAll(t.Context()).Err())
		check(t, r, "list")
		ok(t, r.store.Open(t.Context()))
		r.post(chats, chat("x", "")).want(t, 200)
	})
	t.Run("Redis away", func(t *testing.T) {
		r := setup(t, Config{Timeout: 2 * time.Second})
		_ = r.redis.ShutdownNoSave(t.Context()).Err()
		check(t, r)
	})
	t.Run("NATS away", func(t *testing.T) {
		r := setup(t, Config{Timeout: 2 * time.Second})
		r.nats.Shutdown()
		r.nats.WaitForShutdown()
		wait(t, "the loss to be seen", func() bool { return !r.queue.Conn().IsConnected() })
		check(t, r, "get", "list", "cancel")
	})
}

func TestQueueFull(t *testing.T) {
	r := setup(t, Config{})
	q := queuetest.New(t, queue.Config{Conn: r.queue.Conn(), BacklogBytes: 4096, JobsBytes: 4096})
	r.queue, r.store = q, result.New(result.Config{Queue: q, Redis: r.redis})
	r.serve(Config{})
	var a answer
	for a.status != 429 {
		if a = r.post(chats, chat(strings.Repeat("x", 900), ""), later); a.status != 202 && a.status != 429 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	a.refused(t, 429, codeFull)
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if _, err := r.store.Get(t.Context(), "default", a.header.Get(headerJob)); !errors.Is(err, result.ErrNotFound) {
		t.Errorf("a refused job left something behind: %v", err)
	}
}

// A drain lets answers under way leave, and refuses new work.
func TestDrain(t *testing.T) {
	r := setup(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	s, web := r.second(Config{Grace: time.Minute}, ctx)
	started, let := make(chan string, 1), make(chan struct{})
	r.by(func(j *queue.Job, end func(*result.Verdict)) { started <- j.ID; <-let; end(says(j, "done")) })
	var a answer
	var wg sync.WaitGroup
	wg.Go(func() { a = web.post(chats, chat("x", "")) })
	<-started
	cancel()
	wait(t, "the drain", func() bool { return s.draining.Load() })
	web.post(chats, chat("y", "")).refused(t, 503, codeDraining)
	web.do("GET", "/readyz", "").refused(t, 503, codeDraining)
	close(let)
	wg.Wait()
	a.want(t, 200)
}

func TestDrainGivesUp(t *testing.T) {
	r := setup(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	s, web := r.second(Config{Grace: 50 * time.Millisecond}, ctx)
	var a answer
	var wg sync.WaitGroup
	wg.Go(func() { a = web.post(chats, chat("x", "")) })
	wait(t, "a request", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.held == 1 })
	cancel()
	wg.Wait()
	a.refused(t, http.StatusServiceUnavailable, codeDraining)
	if st := r.state(a.header.Get(headerJob)); st != queue.Cancelled {
		t.Error(st)
	}
}
