package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"lorry/access"
	"lorry/webhook"
)

// hookRoutes are the page of webhooks, and what can be done there.
func (d *Dashboard) hookRoutes(mux *http.ServeMux) {
	mux.Handle("GET /dashboard/webhooks", d.guard(d.hooks))
	status := func(s webhook.Status) hookDo {
		return func(ctx context.Context, tenant, id string) error {
			_, err := d.desk.Endpoints.Update(ctx, tenant, id, webhook.Wish{Status: &s})
			return err
		}
	}
	for name, do := range map[string]hookDo{
		"pause":  status(webhook.Paused),
		"enable": status(webhook.Enabled),
		"test": func(ctx context.Context, tenant, id string) error {
			_, err := d.desk.Test(ctx, tenant, id, webhook.TestType)
			return err
		},
		"replay": func(ctx context.Context, tenant, id string) error {
			_, err := d.desk.Replay(ctx, tenant, "", id)
			return err
		},
	} {
		mux.Handle("POST /dashboard/webhooks/{hook}/"+name, d.guard(d.stepHook(name, do)))
	}
}

// hookDo does one thing to an endpoint, or to a delivery.
type hookDo func(ctx context.Context, tenant, id string) error

// newDesk is what endpoints are looked after with; their secrets stay sealed here.
func newDesk(c Config) *webhook.Desk {
	return &webhook.Desk{Endpoints: webhook.NewEndpoints(webhook.EndpointsConfig{JS: c.Queue.JS(), Log: c.Log}), Log: webhook.NewLog(c.Results.Redis()),
		Post: c.Queue.PostHook, Recorded: func(ctx context.Context, tenant, id string) (bool, error) {
			_, there, err := c.Results.Record(ctx, tenant, id)
			return there, err
		}}
}

// hookView is one row of the endpoints.
type hookView struct{ webhook.Endpoint }

// State is the status, or that it is failing.
func (h hookView) State() string {
	if h.Failing != nil {
		return "failing"
	}
	return string(h.Status)
}

// Wants is what it wants to hear of.
func (h hookView) Wants() string { return strings.Join(h.Events, ", ") }

// Why says what is wrong with it, to its owner; empty where nothing is.
func (h hookView) Why() string {
	if h.Failing == nil {
		return h.Reason
	}
	return "left alone until " + time.UnixMilli(h.Failing.Until).UTC().Format(time.DateTime) + " UTC: " + strings.TrimPrefix(h.Failing.Error, "webhook: ")
}

// hookProblems tell a tenant of its endpoints that get no events, on whatever page it looks at.
func (d *Dashboard) hookProblems(ctx context.Context, tenant string) (out []string) {
	page, err := d.book.Page(ctx)
	if err != nil {
		return nil // NATS is away, which is told of
	}
	for _, e := range page[tenant] {
		if why := (hookView{e}).Why(); why != "" {
			out = append(out, fmt.Sprintf("Webhook endpoint %s is %s: %s", shortID(e.ID), hookView{e}.State(), why))
		}
	}
	return out
}

// hooksView is the endpoints and the latest deliveries.
type hooksView struct {
	Scope      scope
	Hooks      []hookView
	Deliveries []webhook.Story
	Error      string
}

func (d *Dashboard) hookList(ctx context.Context, sc scope) hooksView {
	ctx, cancel := context.WithTimeout(ctx, askRedis)
	defer cancel()
	v := hooksView{Scope: sc}
	es, err := d.desk.Endpoints.List(ctx, sc.tenant)
	for _, e := range es {
		v.Hooks = append(v.Hooks, hookView{e})
	}
	if err == nil {
		v.Deliveries, err = d.desk.Log.Deliveries(ctx, sc.tenant, "")
	}
	if err != nil {
		v.Error = d.explain(err)
	}
	v.Deliveries = v.Deliveries[:min(perPage, len(v.Deliveries))]
	return v
}

type hooksData struct {
	shell
	Status status
	List   hooksView
}

func (d *Dashboard) hooks(w http.ResponseWriter, r *http.Request, p access.Principal) {
	sc, err := on(pageHooks, r, p)
	if err != nil {
		d.badAddress(w, r, err)
		return
	}
	s := d.fleet(r.Context())
	d.write(w, http.StatusOK, "webhooks", hooksData{d.shell("Webhooks", sc, p, s), d.status(r.Context(), s, sc), d.hookList(r.Context(), sc)})
}

// stepHook does one thing. A page gets its news by the stream; a form without scripts is sent back.
func (d *Dashboard) stepHook(name string, do hookDo) page {
	return func(w http.ResponseWriter, r *http.Request, p access.Principal) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		sc, err := on(pageHooks, r, p)
		if err != nil {
			d.badAddress(w, r, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 2*askRedis)
		defer cancel()
		id := r.PathValue("hook")
		if err := do(ctx, sc.tenant, id); err != nil {
			d.problem(w, r, statusOf(err), d.explain(err))
			return
		}
		d.cfg.Log.Info().Str("webhook", id).Str("tenant", sc.tenant).Str("key", p.KeyID).Str("step", name).Msg("webhook changed from the dashboard")
		d.hub.hint(sc.tenant)
		if r.Header.Get("HX-Request") != "" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		http.Redirect(w, r, "/dashboard/webhooks?tenant="+sc.tenant, http.StatusSeeOther)
	}
}

// hookStep is a button that does one thing to an endpoint or a delivery.
type hookStep struct{ ID, Tenant, Step, Label string }

// hookFault is what people are told of an error of webhooks, and its status; "" of any other.
func hookFault(err error) (text string, status int) {
	switch {
	case errors.Is(err, webhook.ErrNoEndpoint):
		return "There is no such endpoint here.", http.StatusNotFound
	case errors.Is(err, webhook.ErrNoDelivery):
		return "That delivery is not in the log any more.", http.StatusNotFound
	case errors.Is(err, webhook.ErrForgotten):
		return "The record of what that event tells of is gone: it can't be sent again.", http.StatusGone
	case errors.Is(err, webhook.ErrIdle):
		return "The endpoint is not enabled: enable it first.", http.StatusConflict
	case errors.Is(err, webhook.ErrLog):
		return "Redis does not answer. Events are safe in the streams.", http.StatusServiceUnavailable
	}
	return "", 0
}
