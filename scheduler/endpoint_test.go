package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"lorry/queue"
	"lorry/resent"
	"lorry/result"
	"lorry/webhook"
)

// endpoints is the tenant's side of the rig.
func (r *rig) endpoints() *webhook.Endpoints {
	r.t.Helper()
	if err := webhook.NewSecrets(webhook.SecretsConfig{JS: r.q.JS()}).Setup(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return webhook.NewEndpoints(webhook.EndpointsConfig{JS: r.q.JS(), Sealer: r.cfg.Sealer, Allow: r.cfg.WebhookAllow})
}

// endpoint makes one of tenant acme.
func (r *rig) endpoint(url string, events ...string) (webhook.Endpoint, string) {
	r.t.Helper()
	e, secret, err := r.endpoints().Create(r.t.Context(), "acme", webhook.Wish{URL: &url, Events: events}, resent.Repeat{})
	if err != nil {
		r.t.Fatal(err)
	}
	return e, secret
}

func (r *rig) find(id string) webhook.Endpoint {
	r.t.Helper()
	e, err := r.endpoints().Get(r.t.Context(), "acme", id)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// end commits a batch's end.
func (r *rig) end(e *result.End) {
	r.t.Helper()
	m := nats.NewMsg(queue.EndSubject(e.Tenant, e.Batch))
	m.Data = e.Encode()
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
	if _, err := r.q.JS().PublishMsg(r.t.Context(), m); err != nil {
		r.t.Fatal(err)
	}
}

func quiet(v *result.Verdict) { v.Webhook = nil }

func TestEndOfABatchIsToldToEndpoints(t *testing.T) {
	r := newRig(t)
	sealer, err := webhook.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	r.cfg.Sealer = sealer
	r.start()
	e, secret := r.endpoint(r.url, "batch.completed")
	r.end(&result.End{V: 1, Batch: "batch_7", Tenant: "acme", Status: "completed", Ended: 9000})
	r.end(&result.End{V: 1, Batch: "batch_8", Tenant: "acme", Status: "failed", Ended: 9000})
	eventually(t, "the event arrives", func() bool { return r.hits("evt_7") == 1 })
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
	r.signedBy(secret)
	if want := `{"id":"evt_7","object":"event","created_at":9,"type":"batch.completed","data":{"id":"batch_7"}}`; string(r.body) != want || r.hits("evt_8") != 0 {
		t.Errorf("%s, %d", r.body, r.hits("evt_8"))
	}
	a := r.attempts("acme")
	if len(a) != 1 || a[0].Endpoint != e.ID || a[0].Delivery != webhook.DeliveryID("evt_7", e.ID) || a[0].Job != "batch_7" {
		t.Errorf("%+v", a)
	}
	if own, err := webhook.NewLog(r.rdb).Attempts(t.Context(), "acme", e.ID); err != nil || len(own) != 1 {
		t.Errorf("the endpoint's own list: %+v, %v", own, err)
	}
}

// Each endpoint has its own delivery: one that is away holds up no other, and loses nothing.
func TestEndpointsAreToldApart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gate := make(chan int, 1)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case status := <-gate:
			w.WriteHeader(status)
		default:
		}
	}))
	t.Cleanup(other.Close)
	gate <- 503
	r.start()
	r.endpoint(r.url, "lorry.job.*")
	away, _ := r.endpoint(other.URL, "*")
	v := r.verdict(quiet)
	r.settle(v)
	eventually(t, "the first endpoint hears", func() bool { return r.hits(webhook.EventID(v.Job)) == 1 })
	eventually(t, "the other one too, at the second try", func() bool { return len(r.outbox()) == 0 })
	var results []string
	for _, a := range r.attempts("acme") {
		if a.Endpoint == away.ID {
			results = append(results, a.Result)
		}
	}
	if !slices.Equal(results, []string{"delivered", "failed"}) || r.hits(webhook.EventID(v.Job)) != 1 {
		t.Errorf("%v, %d", results, r.hits(webhook.EventID(v.Job)))
	}
}

// Behind the creation's answer nothing is missed, however quick the job.
func TestNewEndpointMissesNothing(t *testing.T) {
	r := newRig(t)
	r.start()
	for range 10 {
		e, _ := r.endpoint(r.url, "lorry.job.*")
		v := r.verdict(quiet)
		r.settle(v)
		eventually(t, "the event arrives", func() bool { return r.hits(webhook.EventID(v.Job)) == 1 })
		if err := r.endpoints().Delete(t.Context(), "acme", e.ID); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFlushedRedisLosesNoEndpointsEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.endpoint(r.url, "lorry.job.succeeded")
	r.endpoint(r.url, "lorry.job.*")
	v := r.verdict(quiet)
	h := (&Scheduler{cfg: r.cfg}).newHooks(newLater(r.rdb, r.cfg.Log))
	defer h.sender.Close()
	a := &announcer{q: r.q, later: newLater(r.rdb, r.cfg.Log), book: webhook.NewBook(h.endpoints), log: r.cfg.Log}
	page, err := a.page(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := fact{job: v}.outgoing(page, time.Now())
	if err != nil || len(out) != 2 {
		t.Fatalf("%d, %v", len(out), err)
	}
	for i := range out { // in OUTBOX, and asynq has never heard of it
		if _, err := r.q.JS().PublishMsg(t.Context(), outboxMsg(&out[i])); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
	if n := r.hits(webhook.EventID(v.Job)); n != 2 {
		t.Errorf("told %d times, want once an endpoint", n)
	}
}

// way is the handler alone, with an event for an endpoint in OUTBOX.
func (r *rig) way(e webhook.Endpoint, mods ...func(*webhook.Outgoing)) (h *hooks, o webhook.Outgoing, payload []byte) {
	r.t.Helper()
	return r.box(append([]func(*webhook.Outgoing){func(o *webhook.Outgoing) {
		o.URL, o.Endpoint, o.Delivery = "", e.ID, webhook.DeliveryID(o.ID, e.ID)
	}}, mods...)...)
}

// run is one run of an event's task.
func run(t *testing.T, h *hooks, o webhook.Outgoing, failed int) *again {
	t.Helper()
	payload, _ := json.Marshal(hookTask{1, o.Tenant, o.Name()})
	err := h.deliver(t.Context(), payload, failed)
	if err == nil {
		return nil
	}
	a, ok := errors.AsType[*again](err)
	if !ok {
		t.Fatal(err)
	}
	return a
}

func TestStateOfAnEndpointDecides(t *testing.T) {
	status := func(s webhook.Status) func(*rig, webhook.Endpoint) {
		return func(r *rig, e webhook.Endpoint) {
			if _, err := r.endpoints().Update(r.t.Context(), "acme", e.ID, webhook.Wish{Status: &s}); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	old := func(o *webhook.Outgoing) { o.Created = time.Now().Add(-webhook.GiveUp - time.Minute).UnixMilli() }
	for name, c := range map[string]struct {
		answer int
		before func(*rig, webhook.Endpoint)
		mod    func(*webhook.Outgoing)
		hits   int
		waits  bool // the event comes again
		result string
	}{
		"well":                {answer: 200, hits: 1, result: "delivered"},
		"paused":              {answer: 200, before: status(webhook.Paused), waits: true},
		"paused for too long": {answer: 200, before: status(webhook.Paused), mod: old, result: "given up"},
		"disabled":            {answer: 200, before: status(webhook.Disabled), result: "gone"},
		"gone":                {answer: 410, hits: 1, result: "gone"},
		"deleted": {answer: 200, before: func(r *rig, e webhook.Endpoint) {
			if err := r.endpoints().Delete(r.t.Context(), "acme", e.ID); err != nil {
				r.t.Fatal(err)
			}
		}},
		"failing, not yet": {answer: 200, before: func(r *rig, e webhook.Endpoint) {
			if err := r.endpoints().Fail(r.t.Context(), "acme", e.ID, time.Now(), "x"); err != nil {
				r.t.Fatal(err)
			}
		}, waits: true},
		"elsewhere by now": {answer: 200, before: func(r *rig, e webhook.Endpoint) {
			inside := "http://169.254.169.254/"
			if _, err := webhook.NewEndpoints(webhook.EndpointsConfig{JS: r.q.JS()}).Update(r.t.Context(), "acme", e.ID, webhook.Wish{URL: &inside}); !errors.Is(err, webhook.ErrURL) {
				r.t.Fatal(err)
			}
		}, hits: 1, result: "delivered"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.answer = func(string, int) int { return c.answer }
			e, _ := r.endpoint(r.url, "*")
			if c.before != nil {
				c.before(r, e)
			}
			mods := []func(*webhook.Outgoing){}
			if c.mod != nil {
				mods = append(mods, c.mod)
			}
			h, o, _ := r.way(e, mods...)
			a := run(t, h, o, 0)
			if (a != nil) != c.waits || a != nil && (!a.quiet || a.after <= 0) {
				t.Errorf("%+v", a)
			}
			if n := r.hits(o.ID); n != c.hits || (len(r.outbox()) == 0) == c.waits {
				t.Errorf("%d hits, outbox %v", n, r.outbox())
			}
			got := ""
			if as := r.attempts("acme"); len(as) > 0 {
				got = as[0].Result
			}
			if got != c.result {
				t.Errorf("listed as %q, want %q", got, c.result)
			}
			if c.answer == 410 && r.find(e.ID).Status != webhook.Disabled {
				t.Error("410 did not disable the endpoint")
			}
		})
	}
}

// An endpoint that keeps failing is left alone, one event tries it, and a success lets all the others go.
func TestBreakerOfAnEndpoint(t *testing.T) {
	r := newRig(t)
	status := 500
	r.answer = func(string, int) int { return status }
	e, _ := r.endpoint(r.url, "*")
	h, o, _ := r.way(e)
	for n := range breakAt {
		if f := r.find(e.ID).Failing; f != nil {
			t.Fatalf("the breaker opened behind %d failures", n)
		}
		if a := run(t, h, o, n); a == nil || a.quiet {
			t.Fatalf("attempt %d: %+v", n, a)
		}
	}
	f := r.find(e.ID).Failing
	if f == nil || f.Until <= time.Now().UnixMilli() || !strings.Contains(f.Error, "500") {
		t.Fatalf("%+v", f)
	}
	if a := run(t, h, o, breakAt); a == nil || !a.quiet || a.after < 30*time.Second || r.hits(o.ID) != breakAt {
		t.Errorf("%+v, %d hits", a, r.hits(o.ID))
	}
	enabled := webhook.Enabled // by its owner: the pause's end would do the same
	status = 204
	if _, err := r.endpoints().Update(t.Context(), "acme", e.ID, webhook.Wish{Status: &enabled}); err != nil {
		t.Fatal(err)
	}
	if a := run(t, h, o, breakAt); a != nil || r.find(e.ID).Failing != nil || r.hits(o.ID) != breakAt+1 {
		t.Errorf("%+v, %+v", a, r.find(e.ID).Failing)
	}
}

func TestStreaks(t *testing.T) {
	now := time.Unix(1e9, 0)
	failing := &webhook.Endpoint{ID: "we_1", Status: webhook.Enabled, Failing: &webhook.Failing{Until: now.UnixMilli()}}
	var s streaks
	done, _ := s.enter(failing, now)
	if done == nil {
		t.Fatal("nobody may try whether it is well again")
	}
	if other, wait := s.enter(failing, now); other != nil || wait <= 0 {
		t.Error("two try at the same moment")
	}
	done()
	if _, _, sick := s.note("we_1", now, true); !sick {
		t.Error("the record is not to be healed")
	}
	if done, _ := s.enter(failing, now.Add(-time.Minute)); done != nil {
		t.Error("it is tried before its time")
	}
	for i := range 3 {
		if n, since, _ := s.note("we_2", now.Add(time.Duration(i)*time.Second), false); n != i+1 || !since.Equal(now) {
			t.Errorf("%d since %s", n, since)
		}
	}
	if n, _, _ := s.note("we_2", now, true); n != 0 {
		t.Errorf("a success left %d failures", n)
	}
}

// A replay is made again from the record, and keeps the event's ID.
func TestReplayAndHint(t *testing.T) {
	r := newRig(t)
	e, _ := r.endpoint(r.url, "lorry.job.*")
	r.start()
	v := r.verdict(quiet)
	r.settle(v)
	evt := webhook.EventID(v.Job)
	eventually(t, "the event arrives", func() bool { return r.hits(evt) == 1 && len(r.outbox()) == 0 })
	first := string(r.body)
	desk := webhook.Desk{Endpoints: r.endpoints(), Log: webhook.NewLog(r.rdb), Post: r.q.PostHook, Recorded: r.recorded}
	if _, err := desk.Replay(t.Context(), "acme", e.ID, webhook.DeliveryID(evt, e.ID)); err != nil {
		t.Fatal(err)
	}
	// One whose record went away on its way.
	o := webhook.Outgoing{V: webhook.V, ID: evt, Tenant: "acme", Delivery: "dlv_x", Endpoint: e.ID, Job: "job_unknown", Type: "lorry.job.succeeded", Created: time.Now().UnixMilli()}
	if err := r.q.PostHook(t.Context(), "acme", o.Delivery, o.Encode()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replay arrives, and the other one is given up", func() bool { return r.hits(evt) == 2 && len(r.outbox()) == 0 })
	if again := string(r.body); again != first {
		t.Errorf("first %s\nthen %s", first, again)
	}
	var results []string
	for _, a := range r.attempts("acme") {
		results = append(results, a.Result)
	}
	if slices.Sort(results); !slices.Equal(results, []string{"broken", "delivered", "delivered"}) {
		t.Errorf("%v", results)
	}
}

func (r *rig) recorded(ctx context.Context, tenant, id string) (bool, error) {
	_, ok, err := r.results.Record(ctx, tenant, id)
	return ok, err
}
