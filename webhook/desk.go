package webhook

import (
	"context"
	"fmt"
	"time"
)

// Desk does what owners of endpoints ask for. All of it is required.
type Desk struct {
	Endpoints *Endpoints
	Log       Log
	// Post puts an event into OUTBOX, on disk, and has it sent now.
	Post func(ctx context.Context, tenant, delivery string, data []byte) error
	// Recorded says whether the end of a job or batch can still be looked up.
	Recorded func(ctx context.Context, tenant, id string) (bool, error)
}

// Test sends an endpoint an event that tells of nothing: of TestType, or of a type that is given, with an ID that does
// not exist. It is ErrIdle while the endpoint is not enabled.
func (d *Desk) Test(ctx context.Context, tenant, id, kind string) (o Outgoing, err error) {
	e, err := d.Endpoints.Get(ctx, tenant, id)
	if err != nil {
		return o, err
	}
	if e.Status != Enabled {
		return o, fmt.Errorf("webhook: endpoint %s is %s: %w", id, e.Status, ErrIdle)
	}
	o = newTest(e, kind, time.Now())
	return o, d.Post(ctx, tenant, o.Delivery, o.Encode())
}

func newTest(e Endpoint, kind string, now time.Time) Outgoing {
	o := Outgoing{V: V, ID: newID("evt_"), Tenant: e.Tenant, Delivery: newID(deliveryPrefix), Endpoint: e.ID, Type: kind, Created: now.UnixMilli()}
	o.Body = encode(Event{ID: o.ID, Object: "event", CreatedAt: now.Unix(), Type: kind, Data: map[string]any{"id": sampleID(kind), "test": true}})
	return o
}

// sampleID is of the kind that an event of this type tells of.
func sampleID(kind string) string {
	for prefix, id := range map[string]string{"batch.": "batch_test", "response.": "resp_test", "lorry.job.": "job_test", "lorry.alert.": "we_test"} {
		if matches(prefix+"*", kind) {
			return id
		}
	}
	return "test"
}

// Replay sends an event of the log again, under its own ID: to its endpoint as that is now, or to the URL that it came
// with. ErrNoDelivery and ErrForgotten say that it can't be.
func (d *Desk) Replay(ctx context.Context, tenant, endpoint, delivery string) (o Outgoing, err error) {
	a, err := d.find(ctx, tenant, endpoint, delivery)
	if err != nil {
		return o, err
	}
	if a.Job == "" { // a test
		return d.Test(ctx, tenant, a.Endpoint, a.Type)
	}
	if there, err := d.Recorded(ctx, tenant, a.Job); err != nil || !there {
		return o, orForgotten(err, delivery)
	}
	o = Outgoing{V: V, ID: a.Event, Tenant: tenant, Delivery: newID(deliveryPrefix), Endpoint: a.Endpoint, Job: a.Job, Type: a.Type, Created: time.Now().UnixMilli()}
	return o, d.Post(ctx, tenant, o.Delivery, o.Encode())
}

func orForgotten(err error, delivery string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("webhook: delivery %.80q: %w", delivery, ErrForgotten)
}

func (d *Desk) find(ctx context.Context, tenant, endpoint, delivery string) (a Attempt, err error) {
	as, err := d.Log.Attempts(ctx, tenant, endpoint)
	for _, a := range as {
		if a.Delivery == delivery && delivery != "" {
			return a, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("webhook: delivery %.80q: %w", delivery, ErrNoDelivery)
	}
	return a, err
}
