package producer

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"lorry/webhook"
)

// endpointObject is a webhook endpoint as OpenAI's SDKs type it: client.webhooks.create, retrieve, update and list.
type endpointObject struct {
	ID         string   `json:"id"`
	Object     string   `json:"object"`     // "webhook_endpoint"
	CreatedAt  int64    `json:"created_at"` // unix seconds, as all times here
	UpdatedAt  int64    `json:"updated_at"`
	Name       string   `json:"name"`
	URL        string   `json:"url"`
	EventTypes []string `json:"event_types"`
	// Secret is shown once: where it is made.
	Secret string `json:"signing_secret,omitempty"`
	// Hint is the secret's beginning; null where it can't be opened here.
	Hint *string `json:"signing_secret_hint"`
	// Lorry is what OpenAI's shape has no place for.
	Lorry endpointHealth `json:"lorry"`
}

type endpointHealth struct {
	Status  webhook.Status `json:"status"`
	Reason  string         `json:"status_reason,omitempty"`
	Failing *hookFailing   `json:"failing"`
}

func (s *Server) showEndpoint(e webhook.Endpoint, secret string) any {
	h := showHook(e, secret)
	return endpointObject{ID: h.ID, Object: "webhook_endpoint", CreatedAt: h.CreatedAt, UpdatedAt: h.UpdatedAt, Name: h.Description, URL: h.URL, EventTypes: h.Events,
		Secret: secret, Hint: s.hint(&e), Lorry: endpointHealth{h.Status, h.Reason, h.Failing}}
}

// hint is as much of a secret as tells it from others, and is of no use to anyone.
func (s *Server) hint(e *webhook.Endpoint) *string {
	all, err := s.hooks.Signing(e)
	if err != nil {
		return nil
	}
	return new(all[0][:len("whsec_")+4] + "…")
}

// openaiHooks are endpoints as OpenAI's SDKs look after them. The same ones stand under /lorry/v1/webhooks.
func (s *Server) openaiHooks() hookDialect {
	return hookDialect{about: "name", events: "event_types", required: []string{"event_types", "name", "url"}, made: http.StatusOK, show: s.showEndpoint, deleted: "webhook_endpoint.deleted"}
}

func (s *Server) endpointRoutes(mux *http.ServeMux) {
	d := s.openaiHooks()
	for pattern, h := range map[string]handler{
		"POST /v1/webhook_endpoints":                    s.createHook(d),
		"GET /v1/webhook_endpoints":                     s.listEndpoints,
		"GET /v1/webhook_endpoints/{id}":                s.getHook(d),
		"POST /v1/webhook_endpoints/{id}":               s.changeHook(d),
		"DELETE /v1/webhook_endpoints/{id}":             s.deleteHook(d),
		"POST /v1/webhook_endpoints/{id}/rotate_secret": s.rotateEndpoint,
		"POST /v1/webhook_endpoints/{id}/test":          s.testEndpoint,
		"GET /v1/webhook_event_types":                   s.eventTypes,
	} {
		mux.Handle(pattern, s.answer(h))
	}
}

// listEndpoints pages over a tenant's endpoints, the newest first. A page goes on behind an endpoint that is deleted
// meanwhile, too: IDs are in the order of their making.
func (s *Server) listEndpoints(w http.ResponseWriter, r *http.Request) error {
	limit := defaultLimit
	after, err := readPage(r, &limit, maxLimit)
	if err != nil {
		return err
	}
	if after != "" && !webhook.ValidID(after) {
		return refuse(codeValue, "after", "Invalid 'after': '%s' is no webhook endpoint's ID.", clip(after))
	}
	return s.onHook(w, r, func(ctx context.Context, tenant, _ string) (int, any, error) {
		es, err := s.hooks.List(ctx, tenant)
		if err != nil {
			return 0, nil, err
		}
		slices.Reverse(es)
		es = slices.DeleteFunc(es, func(e webhook.Endpoint) bool { return after != "" && e.ID >= after })
		return http.StatusOK, pageOf(es[:min(limit, len(es))], len(es) > limit, func(e *webhook.Endpoint) any { return s.showEndpoint(*e, "") }, func(e *webhook.Endpoint) string { return e.ID }), nil
	})
}

// rotateEndpoint makes a new secret, shown this once. The one before stops at once unless the body says otherwise.
func (s *Server) rotateEndpoint(w http.ResponseWriter, r *http.Request) error {
	return s.onHook(w, r, func(ctx context.Context, tenant, id string) (int, any, error) {
		o, err := s.readHook(w, r)
		if err != nil {
			return 0, nil, err
		}
		var keep bool
		o.flag("keep_old_secret_active_for_24_hours", &keep)
		if err := o.done(); err != nil {
			return 0, nil, err
		}
		var overlap time.Duration
		if keep {
			overlap = 24 * time.Hour
		}
		e, secret, err := s.hooks.Rotate(ctx, tenant, id, overlap)
		return http.StatusOK, s.showEndpoint(e, secret), err
	})
}

// endpointTest is what a receiver answered to a sample.
type endpointTest struct {
	Object    string `json:"object"` // "webhook_endpoint.test"
	Endpoint  string `json:"webhook_endpoint_id"`
	EventType string `json:"event_type"`
	Status    int    `json:"status_code"`
	Success   bool   `json:"success"` // true: there was an answer, whatever its status
}

const (
	// testWait is how long the answer to a sample is waited for: an attempt may take 15 s.
	testWait = 20 * time.Second
	// testLook is how often the log is looked at for it.
	testLook = 25 * time.Millisecond
)

// testEndpoint sends a sample and waits for the receiver's answer. It goes by OUTBOX as every event does, so that what
// it shows is what events will meet; and it is tried again, as they are, where the receiver refuses it.
func (s *Server) testEndpoint(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	o, err := s.readHook(w, r)
	if err != nil {
		return err
	}
	var kind string
	if !o.oneOf("event_type", &kind, webhook.Types...) {
		o.missing("event_type")
	}
	if err := o.done(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), testWait)
	defer cancel()
	id := r.PathValue("id")
	a, err := s.sample(ctx, who.Tenant, id, kind)
	if err != nil {
		return noHook(err, id)
	}
	writeJSON(w, http.StatusOK, endpointTest{"webhook_endpoint.test", id, kind, a.Status, true})
	return nil
}

// sample is the first attempt to send an endpoint a sample: one that had an answer.
func (s *Server) sample(ctx context.Context, tenant, id, kind string) (a webhook.Attempt, err error) {
	e, err := s.hooks.Get(ctx, tenant, id)
	if err != nil {
		return a, err
	}
	if f := e.Failing; f != nil && time.Now().UnixMilli() < f.Until {
		return a, &apiError{Status: http.StatusConflict, Type: typeInvalid, Code: codeConflict, Final: true,
			Message: fmt.Sprintf(`The webhook endpoint keeps failing and is left alone for a while (%s). To try it now, enable it: PATCH /lorry/v1/webhooks/%s {"status": "enabled"}.`, reason(f.Error), id)}
	}
	desk := s.desk()
	out, err := desk.Test(ctx, tenant, id, kind)
	if err != nil {
		return a, err
	}
	a, err = desk.Log.Await(ctx, tenant, out.Delivery, testLook)
	if err == nil && a.Status == 0 || ctx.Err() != nil {
		return a, &apiError{Status: http.StatusUnprocessableEntity, Type: typeInvalid, Code: codeUnanswered, Message: fmt.Sprintf("The webhook endpoint did not answer (%s).", unanswered(a))}
	}
	return a, err
}

func unanswered(a webhook.Attempt) string {
	if a.Error == "" {
		return "no attempt was made within " + testWait.String()
	}
	return reason(a.Error)
}

// eventTypes are what endpoints may ask for by name.
func (s *Server) eventTypes(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.who(r); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": webhook.Types})
	return nil
}
