package webhook

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"lorry/queue/queuetest"
	"lorry/resent"
)

func TestCheckEvent(t *testing.T) {
	for name, ok := range map[string]bool{"batch.completed": true, "response.incomplete": true, "lorry.job.failed": true, "lorry.alert.drift": true, "*": true,
		"batch.*": true, "lorry.alert.*": true, "": false, "batch": false, "batch.done": false, "lorry.*": false, "lorry.alert.": false, "lorry.alert.a.b": false,
		"**": false, "fine_tuning.job.succeeded": false, "lorry.test": false} {
		if err := CheckEvent(name); (err == nil) != ok || err != nil && !errors.Is(err, ErrEvent) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range Types {
		if err := CheckEvent(name); err != nil {
			t.Error(err)
		}
	}
}

func TestWants(t *testing.T) {
	for name, c := range map[string]struct {
		events     []string
		status     Status
		kind       string
		want, some bool // some: of the kind's group
	}{
		"by name":          {[]string{"batch.completed", "response.failed"}, Enabled, "response.failed", true, true},
		"another":          {[]string{"batch.completed"}, Enabled, "batch.failed", false, true},
		"another group":    {[]string{"batch.*"}, Enabled, "response.failed", false, false},
		"by group":         {[]string{"lorry.job.*"}, Enabled, "lorry.job.expired", true, true},
		"all":              {[]string{"*"}, Enabled, "lorry.alert.drift", true, true},
		"paused: it waits": {[]string{"*"}, Paused, "batch.failed", true, true},
		"disabled":         {[]string{"*"}, Disabled, "batch.failed", false, false},
		"none":             {nil, Enabled, "batch.failed", false, false},
	} {
		e := Endpoint{Events: c.events, Status: c.status, Tenant: "acme"}
		if got := e.Wants(c.kind); got != c.want {
			t.Errorf("%s: wants: %t", name, got)
		}
		group := c.kind[:strings.LastIndex(c.kind, ".")+1]
		if got := (Page{"acme": {e}}).Heard("acme", group); got != c.some {
			t.Errorf("%s: heard: %t", name, got)
		}
	}
}

func TestBreaker(t *testing.T) {
	start := time.Unix(1e9, 0)
	e := Endpoint{Status: Enabled}
	if !e.fail(start, start.Add(-time.Second), "first") || e.Failing.Until != start.Add(time.Minute).UnixMilli() || e.Failing.Since != start.Add(-time.Second).UnixMilli() {
		t.Errorf("%+v", e.Failing)
	}
	if e.fail(start.Add(time.Second), start, "beside") {
		t.Error("an attempt that failed at the same time made the pause longer")
	}
	now, last := start.Add(time.Minute), time.Minute
	for e.Status == Enabled {
		if !e.fail(now, now, "again") {
			t.Fatal("the pause did not grow")
		}
		if e.Failing == nil {
			break
		}
		pause := time.UnixMilli(e.Failing.Until).Sub(now)
		if pause < last || pause > longPause {
			t.Fatalf("a pause of %s behind one of %s", pause, last)
		}
		now, last = now.Add(pause), pause
	}
	if age := now.Sub(start); e.Status != Disabled || age < GiveUp-longPause || age > GiveUp+longPause || !strings.Contains(e.Reason, "again") {
		t.Errorf("%s after %s: %s", e.Status, age, e.Reason)
	}
	if e.fail(now.Add(time.Hour), now, "late") {
		t.Error("a disabled endpoint failed once more")
	}
}

func endpoints(t *testing.T, sealer *Sealer) *Endpoints {
	t.Helper()
	js := queuetest.JetStream(t)
	if err := NewSecrets(SecretsConfig{JS: js}).Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	return NewEndpoints(EndpointsConfig{JS: js, Sealer: sealer})
}

func wish(url string, events ...string) Wish { return Wish{URL: &url, Events: events} }

func TestLifeOfAnEndpoint(t *testing.T) {
	sealer, _ := NewSealer(bytes.Repeat([]byte{7}, 32))
	s, ctx := endpoints(t, sealer), t.Context()
	e, secret, err := s.Create(ctx, "acme", wish("https://example.com/hook", "batch.*", "batch.*"), resent.Repeat{})
	if err != nil || CheckSecret(secret) != nil || !slices.Equal(e.Events, []string{"batch.*"}) || e.Status != Enabled {
		t.Fatalf("%+v, %v", e, err)
	}
	if got, err := s.Signing(&e); err != nil || !slices.Equal(got, []string{secret}) || strings.Contains(string(encode(e)), secret) {
		t.Errorf("signing: %q, %v", got, err)
	}
	if _, err := s.Get(ctx, "other", e.ID); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("another tenant's look: %v", err)
	}
	e, fresh, err := s.Rotate(ctx, "acme", e.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Signing(&e); err != nil || !slices.Equal(got, []string{fresh, secret}) {
		t.Errorf("behind the rotation: %q, %v", got, err)
	}
	paused, words := Paused, "for the nights"
	if e, err = s.Update(ctx, "acme", e.ID, Wish{Status: &paused, Description: &words}); err != nil || e.Status != Paused || e.Description != words || e.URL != "https://example.com/hook" {
		t.Errorf("%+v, %v", e, err)
	}
	if all, err := s.List(ctx, "acme"); err != nil || len(all) != 1 || all[0].Status != Paused {
		t.Errorf("%+v, %v", all, err)
	}
	if err := s.Delete(ctx, "acme", e.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "acme", e.ID); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("deleted twice: %v", err)
	}
}

// TestCreateAgain: a request whose answer was lost finds the endpoint that it made, also one that died before making it.
func TestCreateAgain(t *testing.T) {
	s, ctx := endpoints(t, nil), t.Context()
	w, key := wish("https://example.com", "*"), resent.Repeat{Body: "d", IdempotencyKey: "k"}
	first, secret, err := s.Create(ctx, "acme", w, key)
	if err != nil {
		t.Fatal(err)
	}
	if e, again, err := s.Create(ctx, "acme", w, key); err != nil || e.ID != first.ID || again != secret {
		t.Errorf("the same request: %s, %v", e.ID, err)
	}
	if _, _, err := s.Create(ctx, "acme", w, resent.Repeat{Body: "another", IdempotencyKey: "k"}); !errors.Is(err, resent.ErrMismatch) {
		t.Errorf("another body: %v", err)
	}
	if e, _, err := s.Create(ctx, "other", w, key); err != nil || e.ID == first.ID {
		t.Errorf("another tenant's: %s, %v", e.ID, err)
	}
	named := resent.Names{JS: s.cfg.JS, Bucket: Bucket}
	id, err := named.Name(ctx, "acme", newID(endpointPrefix), resent.Repeat{Body: "d2", Retried: true})
	if err != nil {
		t.Fatal(err)
	}
	if e, _, err := s.Create(ctx, "acme", w, resent.Repeat{Body: "d2", Retried: true}); err != nil || e.ID != id {
		t.Errorf("one that was named, not made: %s, %v", e.ID, err)
	}
	if all, err := s.List(ctx, "acme"); err != nil || len(all) != 2 {
		t.Errorf("%d endpoints, %v", len(all), err)
	}
}

func TestWhatNoEndpointCanBe(t *testing.T) {
	s, ctx := endpoints(t, nil), t.Context()
	for name, c := range map[string]struct {
		wish Wish
		want error
	}{
		"inside":   {wish("http://127.0.0.1/", "*"), ErrURL},
		"no event": {wish("https://example.com", "batch.done"), ErrEvent},
	} {
		if _, _, err := s.Create(ctx, "acme", c.wish, resent.Repeat{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []string{"", "*", "we_*", ">", "we_" + strings.Repeat("a", 27), "../instance"} {
		if _, err := s.Get(ctx, "acme", id); !errors.Is(err, ErrNoEndpoint) {
			t.Errorf("%q: %v", id, err)
		}
	}
	for range MaxEndpoints {
		if _, _, err := s.Create(ctx, "acme", wish("https://example.com", "*"), resent.Repeat{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Create(ctx, "acme", wish("https://example.com", "*"), resent.Repeat{}); !errors.Is(err, ErrManyEndpoints) {
		t.Errorf("one too many: %v", err)
	}
}

// What is made a moment ago is on the page: an event behind it is not missed.
func TestBookIsFresh(t *testing.T) {
	s, ctx := endpoints(t, nil), t.Context()
	b := NewBook(s)
	for range 20 {
		e, _, err := s.Create(ctx, "acme", wish("https://example.com", "batch.*"), resent.Repeat{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := b.Page(ctx)
		if err != nil || len(p.Wanting("acme", "batch.completed")) != 1 || len(p.Wanting("other", "batch.completed")) != 0 || len(p.Wanting("acme", "response.failed")) != 0 {
			t.Fatalf("%v, %v", p, err)
		}
		if err := s.Delete(ctx, "acme", e.ID); err != nil {
			t.Fatal(err)
		}
		if p, err = b.Page(ctx); err != nil || len(p.Wanting("acme", "batch.completed")) != 0 {
			t.Fatalf("%v, %v", p, err)
		}
	}
}

func TestHealthOfAnEndpoint(t *testing.T) {
	s, ctx := endpoints(t, nil), t.Context()
	e, _, err := s.Create(ctx, "acme", wish("https://example.com", "*"), resent.Repeat{})
	if err != nil {
		t.Fatal(err)
	}
	look := func() Endpoint {
		e, err := s.Get(ctx, "acme", e.ID)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if err := s.Fail(ctx, "acme", e.ID, time.Now(), "status 500"); err != nil || look().Failing == nil || look().Failing.Error != "status 500" {
		t.Errorf("%v, %+v", err, look())
	}
	if err := s.Heal(ctx, "acme", e.ID); err != nil || look().Failing != nil {
		t.Errorf("%v, %+v", err, look())
	}
	if err := s.Gone(ctx, "acme", e.ID); err != nil || look().Status != Disabled || look().Reason == "" {
		t.Errorf("%v, %+v", err, look())
	}
	enabled := Enabled
	if e, err := s.Update(ctx, "acme", e.ID, Wish{Status: &enabled}); err != nil || e.Status != Enabled || e.Reason != "" {
		t.Errorf("%v, %+v", err, e)
	}
}
