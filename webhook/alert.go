package webhook

import (
	"strconv"
	"time"
)

// Types of alerts: what an owner's other endpoints are told of one that gets nothing.
const (
	// AlertPaused: the endpoint keeps failing and is left alone for a while.
	AlertPaused = "lorry.alert.endpoint_paused"
	// AlertDisabled: it answered 410, or failed for GiveUp, and gets nothing any more.
	AlertDisabled = "lorry.alert.endpoint_disabled"
)

// alertData is what an alert tells of. Times are unix seconds.
type alertData struct {
	ID     string `json:"id"`
	Object string `json:"object"` // "lorry.webhook"
	// Target is the URL's scheme and host: the rest may hold secrets of the receiver.
	Target string `json:"target"`
	Status Status `json:"status"`
	Reason string `json:"status_reason,omitempty"`
	Error  string `json:"error,omitempty"`
	// FailingSince and PausedUntil are of one that is left alone.
	FailingSince int64 `json:"failing_since,omitempty"`
	PausedUntil  int64 `json:"paused_until,omitempty"`
}

// NewAlert is the event by which an endpoint hears what became of another one of its owner's, at a moment. It has one ID
// for all who hear of it.
func NewAlert(about, to Endpoint, kind string, now time.Time) Outgoing {
	d := alertData{ID: about.ID, Object: "lorry.webhook", Target: target(about.URL), Status: about.Status, Reason: about.Reason}
	if f := about.Failing; f != nil {
		d.Error, d.FailingSince, d.PausedUntil = f.Error, f.Since/1000, f.Until/1000
	}
	o := Outgoing{V: V, ID: "evt_" + tail(about.ID) + "-" + strconv.FormatInt(now.UnixMilli(), 10), Tenant: about.Tenant, Endpoint: to.ID, Job: about.ID, Type: kind,
		Created: now.UnixMilli(), Ended: now.UnixMilli()}
	o.Delivery = DeliveryID(o.ID, to.ID)
	o.Body = encode(Event{ID: o.ID, Object: "event", CreatedAt: now.Unix(), Type: kind, Data: d})
	return o
}
