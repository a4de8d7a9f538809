package producer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"lorry/resent"
	"lorry/result"
	"lorry/webhook"
)

// hook is a webhook endpoint as its owner sees it: never its secret, but once, in the answer that makes it.
type hook struct {
	ID          string         `json:"id"`
	Object      string         `json:"object"` // "lorry.webhook"
	URL         string         `json:"url"`
	Events      []string       `json:"events"`
	Description string         `json:"description"`
	Status      webhook.Status `json:"status"`
	// Reason is why it is disabled.
	Reason    string `json:"status_reason,omitempty"`
	CreatedAt int64  `json:"created_at"` // unix seconds, as all times here
	UpdatedAt int64  `json:"updated_at"`
	Secret    string `json:"secret,omitempty"`
	// PreviousUntil is when the secret before stops signing.
	PreviousUntil int64 `json:"previous_secret_until,omitempty"`
	// Failing is null while attempts succeed.
	Failing *hookFailing `json:"failing"`
}

// hookFailing says that no attempt succeeds, and when the next one is made.
type hookFailing struct {
	Since       int64  `json:"since"`
	PausedUntil int64  `json:"paused_until"`
	Error       string `json:"error"`
}

func showHook(e webhook.Endpoint, secret string) hook {
	h := hook{ID: e.ID, Object: "lorry.webhook", URL: e.URL, Events: e.Events, Description: e.Description, Status: e.Status, Reason: e.Reason,
		CreatedAt: e.Created / 1000, UpdatedAt: e.Updated / 1000, Secret: secret, PreviousUntil: e.Overlap(time.Now())}
	if f := e.Failing; f != nil {
		h.Failing = &hookFailing{f.Since / 1000, f.Until / 1000, f.Error}
	}
	return h
}

// hookDialect is how an interface to endpoints names things: Lorry's own, or the one that OpenAI's SDKs speak.
type hookDialect struct {
	about, events string   // the fields of the description and of the events
	required      []string // of a new endpoint
	status        bool     // whether it can be paused here
	made          int      // the status of the answer with a new endpoint
	show          func(e webhook.Endpoint, secret string) any
	deleted       string // the object that tells of a deletion
}

var ourHooks = hookDialect{about: "description", events: "events", required: []string{"url", "events"}, status: true, made: http.StatusCreated,
	show: func(e webhook.Endpoint, secret string) any { return showHook(e, secret) }, deleted: "lorry.webhook"}

func (s *Server) hookRoutes(mux *http.ServeMux) {
	s.endpointRoutes(mux)
	for pattern, h := range map[string]handler{
		"POST /lorry/v1/webhooks":                                   s.createHook(ourHooks),
		"GET /lorry/v1/webhooks":                                    s.listHooks,
		"GET /lorry/v1/webhooks/{id}":                               s.getHook(ourHooks),
		"PATCH /lorry/v1/webhooks/{id}":                             s.changeHook(ourHooks),
		"DELETE /lorry/v1/webhooks/{id}":                            s.deleteHook(ourHooks),
		"POST /lorry/v1/webhooks/{id}/rotate":                       s.rotateHook,
		"POST /lorry/v1/webhooks/{id}/test":                         s.testHook,
		"GET /lorry/v1/webhooks/{id}/deliveries":                    s.listDeliveries,
		"POST /lorry/v1/webhooks/{id}/deliveries/{delivery}/replay": s.replayDelivery,
		"GET /lorry/v1/webhooks/deliveries":                         s.listDeliveries,
		"POST /lorry/v1/webhooks/deliveries/{delivery}/replay":      s.replayDelivery,
	} {
		mux.Handle(pattern, s.answer(h))
	}
}

// desk is what endpoints are looked after with.
func (s *Server) desk() *webhook.Desk {
	return &webhook.Desk{Endpoints: s.hooks, Log: webhook.NewLog(s.cfg.Results.Redis()), Post: s.cfg.Queue.PostHook,
		Recorded: func(ctx context.Context, tenant, id string) (bool, error) {
			_, there, err := s.cfg.Results.Record(ctx, tenant, id)
			return there, err
		}}
}

// createHook makes an endpoint. Its secret is shown this once, and to who sends the same request again for want of the
// answer.
func (s *Server) createHook(d hookDialect) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.onHook(w, r, func(ctx context.Context, tenant, _ string) (int, any, error) {
			wish, repeat, err := s.readNewHook(w, r, d)
			if err != nil {
				return 0, nil, err
			}
			e, secret, err := s.hooks.Create(ctx, tenant, wish, repeat)
			return d.made, d.show(e, secret), err
		})
	}
}

func (s *Server) readNewHook(w http.ResponseWriter, r *http.Request, d hookDialect) (wish webhook.Wish, repeat resent.Repeat, err error) {
	body, err := s.hookBody(w, r)
	if err != nil {
		return wish, repeat, err
	}
	if repeat, err = repeated(r, r.URL.Path, body); err != nil {
		return wish, repeat, err
	}
	o, err := newObject(body)
	if err != nil {
		return wish, repeat, err
	}
	for _, name := range d.required {
		if !o.has(name) {
			o.missing(name)
		}
	}
	wish = s.readWish(o, d)
	return wish, repeat, o.done()
}

// readHook reads a body that may be missing.
func (s *Server) readHook(w http.ResponseWriter, r *http.Request) (*object, error) {
	body, err := s.hookBody(w, r)
	if err != nil {
		return nil, err
	}
	return newObject(body)
}

func (s *Server) hookBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 {
		return []byte("{}"), nil
	}
	return readBody(w, r, s.cfg.MaxBody)
}

const maxDescription = 512

// readWish reads what an owner may say of an endpoint.
func (s *Server) readWish(o *object, d hookDialect) (w webhook.Wish) {
	var url, description, status string
	if o.text("url", &url, math.MaxInt) {
		w.URL = &url
		if err := webhook.CheckURL(url, s.cfg.WebhookAllow...); err != nil {
			o.fail(refuse(codeValue, "url", "Invalid 'url': %s.", reason(err.Error())))
		}
	}
	if o.text(d.about, &description, maxDescription) {
		w.Description = &description
	}
	if vs, ok := o.list(d.events, 1, webhook.MaxEvents); ok {
		w.Events = readStrings(o, d.events, vs, maxName)
	}
	for i, name := range w.Events {
		if err := webhook.CheckEvent(name); err != nil {
			o.fail(refuse(codeValue, at(d.events, i), "Invalid '%s': '%s' is %s.", at(d.events, i), clip(name), reason(err.Error())))
		}
	}
	if d.status && o.oneOf("status", &status, string(webhook.Enabled), string(webhook.Paused)) {
		to := webhook.Status(status)
		w.Status = &to
	}
	return w
}

// reason is what a package says of an error as a part of a sentence.
func reason(text string) string { return strings.TrimPrefix(text, "webhook: ") }

// noHook is what clients are told of an endpoint that can't be worked on.
func noHook(err error, id string) error {
	switch {
	case errors.Is(err, webhook.ErrNoEndpoint):
		return &apiError{Status: http.StatusNotFound, Type: typeInvalid, Code: codeNotFound, Param: "id", Message: fmt.Sprintf("No webhook endpoint found with id '%s'.", clip(id))}
	case errors.Is(err, webhook.ErrManyEndpoints):
		return &apiError{Status: http.StatusConflict, Type: typeInvalid, Code: codeConflict, Final: true,
			Message: fmt.Sprintf("There are %d webhook endpoints already, which is the most. Delete one first.", webhook.MaxEndpoints)}
	case errors.Is(err, resent.ErrMismatch):
		return reusedKey()
	case errors.Is(err, webhook.ErrIdle):
		return &apiError{Status: http.StatusConflict, Type: typeInvalid, Code: codeConflict, Final: true,
			Message: `The webhook endpoint is not enabled. Enable it first: PATCH {"status": "enabled"}.`}
	case errors.Is(err, webhook.ErrNoDelivery):
		return &apiError{Status: http.StatusNotFound, Type: typeInvalid, Code: codeNotFound, Param: "delivery", Message: "No such delivery in the log, which keeps the last attempts of seven days."}
	case errors.Is(err, webhook.ErrForgotten):
		return &apiError{Status: http.StatusGone, Type: typeInvalid, Code: codeNotFound, Param: "delivery", Message: "The event can't be sent again: the record of what it tells of is gone. Records are kept for 72 hours."}
	case errors.Is(err, webhook.ErrLog):
		return errors.Join(result.ErrAway, err)
	}
	return store(err)
}

func (s *Server) listHooks(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	es, err := s.hooks.List(ctx, who.Tenant)
	if err != nil {
		return store(err)
	}
	data := []hook{}
	for _, e := range es {
		data = append(data, showHook(e, ""))
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": data})
	return nil
}

// onHook is a handler that works on the endpoint which the path names.
func (s *Server) onHook(w http.ResponseWriter, r *http.Request, do func(ctx context.Context, tenant, id string) (status int, answer any, err error)) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	status, answer, err := do(ctx, who.Tenant, r.PathValue("id"))
	if err != nil {
		return noHook(err, r.PathValue("id"))
	}
	writeJSON(w, status, answer)
	return nil
}

func (s *Server) getHook(d hookDialect) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.onHook(w, r, func(ctx context.Context, tenant, id string) (int, any, error) {
			e, err := s.hooks.Get(ctx, tenant, id)
			return http.StatusOK, d.show(e, ""), err
		})
	}
}

// changeHook changes what is given, and leaves the rest.
func (s *Server) changeHook(d hookDialect) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.onHook(w, r, func(ctx context.Context, tenant, id string) (int, any, error) {
			o, err := s.readHook(w, r)
			if err != nil {
				return 0, nil, err
			}
			wish := s.readWish(o, d)
			if err := o.done(); err != nil {
				return 0, nil, err
			}
			e, err := s.hooks.Update(ctx, tenant, id, wish)
			return http.StatusOK, d.show(e, ""), err
		})
	}
}

func (s *Server) deleteHook(d hookDialect) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.onHook(w, r, func(ctx context.Context, tenant, id string) (int, any, error) {
			if err := s.hooks.Delete(ctx, tenant, id); err != nil {
				return 0, nil, err
			}
			_ = webhook.NewLog(s.cfg.Results.Redis()).Forget(ctx, tenant, id) // it ends by itself
			return http.StatusOK, map[string]any{"id": id, "object": d.deleted, "deleted": true}, nil
		})
	}
}

// Bounds of a rotation's overlap, in seconds.
const (
	defaultOverlap = 24 * 3600
	maxOverlap     = 7 * 24 * 3600
)

// rotateHook makes a new secret, shown this once. For overlap_seconds (a day) the one before signs too.
func (s *Server) rotateHook(w http.ResponseWriter, r *http.Request) error {
	return s.onHook(w, r, func(ctx context.Context, tenant, id string) (int, any, error) {
		o, err := s.readHook(w, r)
		if err != nil {
			return 0, nil, err
		}
		overlap := defaultOverlap
		o.integer("overlap_seconds", &overlap, 0, maxOverlap)
		if err := o.done(); err != nil {
			return 0, nil, err
		}
		e, secret, err := s.hooks.Rotate(ctx, tenant, id, time.Duration(overlap)*time.Second)
		return http.StatusOK, showHook(e, secret), err
	})
}

// testHook sends the endpoint an event now: of a type that is given, or lorry.test.
func (s *Server) testHook(w http.ResponseWriter, r *http.Request) error {
	return s.onHook(w, r, func(ctx context.Context, tenant, id string) (int, any, error) {
		o, err := s.readHook(w, r)
		if err != nil {
			return 0, nil, err
		}
		kind := webhook.TestType
		o.oneOf("type", &kind, append(slices.Clone(webhook.Types), webhook.TestType)...)
		if err := o.done(); err != nil {
			return 0, nil, err
		}
		out, err := s.desk().Test(ctx, tenant, id, kind)
		return http.StatusAccepted, sentNow(out, ""), err
	})
}

// deliveryObject is an event on its way to one receiver.
type deliveryObject struct {
	ID       string `json:"id"`
	Object   string `json:"object"` // "lorry.webhook.delivery"
	Endpoint string `json:"endpoint,omitempty"`
	Event    string `json:"event"` // its ID: the header webhook-id
	Type     string `json:"type"`
	// Subject is the job or batch that it tells of.
	Subject string `json:"subject,omitempty"`
	Target  string `json:"target,omitempty"`
	// Status is queued, delivered, retrying, or how it ended: gone, broken, given up.
	Status   string          `json:"status"`
	ReplayOf string          `json:"replay_of,omitempty"`
	Attempts []attemptObject `json:"attempts"` // the newest first
}

type attemptObject struct {
	At     int64  `json:"at"`
	Result string `json:"result"`
	// StatusCode is the receiver's; 0 where there was no answer.
	StatusCode int    `json:"status_code"`
	TookMS     int64  `json:"took_ms"`
	Error      string `json:"error,omitempty"`
	Attempt    int    `json:"attempt"`
	// NextIn is how many seconds behind At the next one is made.
	NextIn int64 `json:"next_in,omitempty"`
}

func sentNow(o webhook.Outgoing, replayOf string) deliveryObject {
	return deliveryObject{ID: o.Delivery, Object: "lorry.webhook.delivery", Endpoint: o.Endpoint, Event: o.ID, Type: o.Type, Subject: o.Job,
		Status: "queued", ReplayOf: replayOf, Attempts: []attemptObject{}}
}

func showDelivery(s webhook.Story) deliveryObject {
	last := s.Last()
	d := deliveryObject{ID: s.ID, Object: "lorry.webhook.delivery", Endpoint: last.Endpoint, Event: last.Event, Type: last.Type, Subject: last.Job,
		Target: last.Target, Status: s.Status()}
	for _, a := range s.Attempts {
		d.Attempts = append(d.Attempts, attemptObject{a.At / 1000, a.Result, a.Status, a.TookMS, a.Error, a.Attempt, a.NextIn})
	}
	return d
}

// listDeliveries shows the log of an endpoint, or of all webhooks of the tenant: the last 200 attempts of seven days.
func (s *Server) listDeliveries(w http.ResponseWriter, r *http.Request) error {
	limit, err := readLimit(r)
	if err != nil {
		return err
	}
	return s.onHook(w, r, func(ctx context.Context, tenant, id string) (int, any, error) {
		if id != "" {
			if _, err := s.hooks.Get(ctx, tenant, id); err != nil {
				return 0, nil, err
			}
		}
		all, err := s.desk().Log.Deliveries(ctx, tenant, id)
		if err != nil {
			return 0, nil, err
		}
		data := []deliveryObject{}
		for _, story := range all[:min(limit, len(all))] {
			data = append(data, showDelivery(story))
		}
		return http.StatusOK, map[string]any{"object": "list", "data": data, "has_more": len(all) > limit}, nil
	})
}

func readLimit(r *http.Request) (limit int, err error) {
	q := r.URL.Query()
	if err := onlyQuery(q, "limit"); err != nil {
		return 0, err
	}
	if !q.Has("limit") {
		return defaultLimit, nil
	}
	return wholeNumber("limit", q.Get("limit"), 1, maxLimit)
}

// replayDelivery sends an event of the log again, under its own ID.
func (s *Server) replayDelivery(w http.ResponseWriter, r *http.Request) error {
	return s.onHook(w, r, func(ctx context.Context, tenant, id string) (int, any, error) {
		old := r.PathValue("delivery")
		out, err := s.desk().Replay(ctx, tenant, id, old)
		return http.StatusAccepted, sentNow(out, old), err
	})
}
