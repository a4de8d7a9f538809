// Package webhook signs events by the Standard Webhooks scheme and sends them: once under one ID for each end of a job,
// again and again for up to 72 hours until the receiver takes it, and never to an address inside the operator's network.
package webhook

import (
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
	_, rest, ok := strings.Cut(id, "_")
	if !ok {
		rest = id
	}
	return "evt_" + rest
}

// Outgoing is a message of the stream OUTBOX: an event on its way. The body is frozen: every attempt sends these bytes.
type Outgoing struct {
	V      int    `json:"v"`
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Job    string `json:"job,omitempty"`
	Type   string `json:"type"`
	URL    string `json:"url"`
	// Secret is sealed for TenantContext; empty means the instance's own.
	Secret string `json:"secret,omitempty"`
	// Created is when the event was made, Ended when what it tells of happened. Unix milliseconds.
	Created int64           `json:"created"`
	Ended   int64           `json:"ended,omitempty"`
	Body    json.RawMessage `json:"body"`
}

// Attempt is one try to deliver an event, as it is shown to people.
type Attempt struct {
	V      int    `json:"v"`
	At     int64  `json:"at"` // unix milliseconds
	Event  string `json:"event"`
	Type   string `json:"type"`
	Job    string `json:"job,omitempty"`
	Target string `json:"target"` // the URL's scheme and host: the rest may hold secrets
	// Result is a Kind's name, or "given up".
	Result  string `json:"result"`
	Status  int    `json:"status,omitempty"`
	Error   string `json:"error,omitempty"`
	TookMS  int64  `json:"took_ms"`
	Attempt int    `json:"attempt"`
	// NextIn is the seconds until the next attempt, 0 for none.
	NextIn int64 `json:"next_in,omitempty"`
}

// AttemptsKey is the Redis list of a tenant's latest attempts, the newest first.
func AttemptsKey(tenant string) string { return "{" + tenant + "}:hooks" }
