// Package webhook signs events by the Standard Webhooks scheme and sends them: once under one ID for each end of a job,
// again and again for up to 72 hours until the receiver takes it, and never to an address inside the operator's network.
package webhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"
)

// V is the version of the records that this package writes. A reader takes V and V−1.
const V = 1

// Event is what a receiver gets as the body, in the shape of OpenAI's events. Its ID stays the same on every attempt.
type Event struct {
	ID     string `json:"id"`
	Object string `json:"object"` // "event"
	// CreatedAt is in unix seconds.
	CreatedAt int64  `json:"created_at"`
	Type      string `json:"type"`
	Data      any    `json:"data"`
}

// EventID is the ID of the one event that tells of a job's (or a batch's) end: the same whoever announces it, however
// often.
func EventID(id string) string {
	return "evt_" + tail(id)
}

// ResponseEventID is the ID of the event that tells of a response's end. Its job's own event has another one.
func ResponseEventID(job string) string { return "evt_resp_" + tail(job) }

// DeliveryID names an event's way to an endpoint: the same whoever announces it.
func DeliveryID(event, endpoint string) string {
	return deliveryPrefix + tail(event) + "-" + tail(endpoint)
}

const deliveryPrefix = "dlv_"

// tail is an ID without its prefix.
func tail(id string) string {
	_, rest, ok := strings.Cut(id, "_")
	if !ok {
		return id
	}
	return rest
}

// TestType is the type of an event that its owner asked for, to see whether an endpoint takes it.
const TestType = "lorry.test"

// Outgoing is a message of the stream OUTBOX: an event on its way to one receiver. The body is frozen: every attempt
// sends these bytes.
type Outgoing struct {
	V      int    `json:"v"`
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	// Delivery names this way of the event, which may have several; empty: the event's ID.
	Delivery string `json:"delivery,omitempty"`
	// Endpoint is where to: its URL and secrets are looked up at each attempt. Empty: URL and Secret say it.
	Endpoint string `json:"endpoint,omitempty"`
	// Job is the job, batch or endpoint that the event tells of.
	Job  string `json:"job,omitempty"`
	Type string `json:"type"`
	URL  string `json:"url,omitempty"`
	// Secret is sealed for TenantContext; empty means the instance's own.
	Secret string `json:"secret,omitempty"`
	// Created is when the event was made, Ended when what it tells of happened. Unix milliseconds.
	Created int64 `json:"created"`
	Ended   int64 `json:"ended,omitempty"`
	// Body is what is sent; without one, a replay, it is made again from the record of what the event tells of.
	Body json.RawMessage `json:"body,omitempty"`
}

// Name is what the message's subject ends with.
func (o *Outgoing) Name() string { return cmp.Or(o.Delivery, o.ID) }

// Encode is the message's bytes.
func (o *Outgoing) Encode() []byte { return encode(o) }

// Attempt is one try to deliver an event, as it is shown to people.
type Attempt struct {
	V     int    `json:"v"`
	At    int64  `json:"at"` // unix milliseconds
	Event string `json:"event"`
	Type  string `json:"type"`
	Job   string `json:"job,omitempty"`
	// Delivery and Endpoint are the Outgoing's.
	Delivery string `json:"delivery,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Target   string `json:"target"` // the URL's scheme and host: the rest may hold secrets
	// Result is a Kind's name, or "given up".
	Result  string `json:"result"`
	Status  int    `json:"status,omitempty"`
	Error   string `json:"error,omitempty"`
	TookMS  int64  `json:"took_ms"`
	Attempt int    `json:"attempt"`
	// NextIn is the seconds until the next attempt, 0 for none.
	NextIn int64 `json:"next_in,omitempty"`
}

// encode is JSON without HTML escapes, which would blow answers up.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("webhook: " + err.Error()) // our own types, and bodies that are JSON: a bug
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
