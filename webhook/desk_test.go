package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"lorry/resent"
	"lorry/result/resulttest"
)

// posted is a desk over real servers, and what it posted.
func posted(t *testing.T) (*Desk, *[]Outgoing, map[string]bool) {
	t.Helper()
	var out []Outgoing
	records := map[string]bool{}
	return &Desk{Endpoints: endpoints(t, nil), Log: NewLog(resulttest.Client(t, resulttest.Server(t))),
		Post: func(_ context.Context, tenant, delivery string, data []byte) error {
			var o Outgoing
			if err := json.Unmarshal(data, &o); err != nil || o.Tenant != tenant || o.Delivery != delivery {
				return fmt.Errorf("posted %s: %w", data, err)
			}
			out = append(out, o)
			return nil
		},
		Recorded: func(_ context.Context, tenant, id string) (bool, error) { return records[tenant+"/"+id], nil },
	}, &out, records
}

func TestTestEvents(t *testing.T) {
	d, out, _ := posted(t)
	e, _, err := d.Endpoints.Create(t.Context(), "acme", wish("https://example.com", "*"), resent.Repeat{})
	if err != nil {
		t.Fatal(err)
	}
	for kind, id := range map[string]string{TestType: "test", "batch.failed": "batch_test", "response.completed": "resp_test", "lorry.job.failed": "job_test"} {
		o, err := d.Test(t.Context(), "acme", e.ID, kind)
		var body struct {
			ID, Object, Type string
			Data             struct {
				ID   string
				Test bool
			}
		}
		if err != nil || json.Unmarshal(o.Body, &body) != nil || body.ID != o.ID || body.Object != "event" || body.Type != kind || body.Data.ID != id || !body.Data.Test || o.Endpoint != e.ID {
			t.Errorf("%+v, %v", o, err)
		}
	}
	if len(*out) != 4 {
		t.Errorf("%d were posted", len(*out))
	}
	paused := Paused
	if _, err := d.Endpoints.Update(t.Context(), "acme", e.ID, Wish{Status: &paused}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Test(t.Context(), "acme", e.ID, TestType); !errors.Is(err, ErrIdle) {
		t.Errorf("a paused endpoint: %v", err)
	}
	if _, err := d.Test(t.Context(), "other", e.ID, TestType); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("another tenant's: %v", err)
	}
}

func TestReplay(t *testing.T) {
	d, out, records := posted(t)
	ctx := t.Context()
	e, _, err := d.Endpoints.Create(ctx, "acme", wish("https://example.com", "*"), resent.Repeat{})
	if err != nil {
		t.Fatal(err)
	}
	records["acme/batch_1"] = true
	for _, a := range []Attempt{
		{Event: "evt_1", Type: "batch.failed", Job: "batch_1", Delivery: "dlv_1-1", Endpoint: e.ID, Result: "failed", NextIn: 5, Attempt: 1},
		{Event: "evt_2", Type: "batch.failed", Job: "batch_2", Delivery: "dlv_2-1", Endpoint: e.ID, Result: "delivered", Attempt: 1},
		{Event: "evt_3", Type: TestType, Delivery: "dlv_3", Endpoint: e.ID, Result: "delivered", Attempt: 1},
		{Event: "evt_1", Type: "batch.failed", Job: "batch_1", Delivery: "dlv_1-1", Endpoint: e.ID, Result: "given up", Attempt: 2},
		{Event: "evt_4", Type: "lorry.job.failed", Job: "job_4", Delivery: "evt_4", Result: "failed", NextIn: 5, Attempt: 1},
	} {
		if err := d.Log.Keep(ctx, "acme", a); err != nil {
			t.Fatal(err)
		}
	}
	stories, err := d.Log.Deliveries(ctx, "acme", e.ID)
	if err != nil || len(stories) != 3 || stories[0].ID != "dlv_1-1" || len(stories[0].Attempts) != 2 || stories[0].Status() != "given up" {
		t.Errorf("%+v, %v", stories, err)
	}
	if all, err := d.Log.Deliveries(ctx, "acme", ""); err != nil || len(all) != 4 || all[0].Status() != "retrying" {
		t.Errorf("%+v, %v", all, err)
	}
	for id, want := range map[string]error{"dlv_1-1": nil, "dlv_3": nil, "dlv_2-1": ErrForgotten, "dlv_9": ErrNoDelivery, "": ErrNoDelivery, "evt_4": ErrNoDelivery} {
		if _, err := d.Replay(ctx, "acme", e.ID, id); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", id, err, want)
		}
	}
	for _, o := range *out {
		if o.Type == TestType && o.ID == "evt_3" || o.Type != TestType && (o.ID != "evt_1" || o.Job != "batch_1" || o.Endpoint != e.ID || o.Delivery == "dlv_1-1" || o.Body != nil) {
			t.Errorf("%+v", o)
		}
	}
	if err := d.Log.Forget(ctx, "acme", e.ID); err != nil {
		t.Fatal(err)
	}
	if left, err := d.Log.Attempts(ctx, "acme", e.ID); err != nil || len(left) != 0 {
		t.Errorf("%+v, %v", left, err)
	}
}

func TestLogIsBounded(t *testing.T) {
	l := NewLog(resulttest.Client(t, resulttest.Server(t)))
	for i := range keptAttempts + 10 {
		if err := l.Keep(t.Context(), "acme", Attempt{Attempt: i}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := l.Attempts(t.Context(), "acme", ""); err != nil || len(got) != keptAttempts || got[0].Attempt != keptAttempts+9 {
		t.Errorf("%d, %v", len(got), err)
	}
}
