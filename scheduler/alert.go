package scheduler

import (
	"context"
	"errors"
	"time"

	"lorry/webhook"
)

// alert tells a tenant's other endpoints that want to hear of it what became of one. An alert is sent as any event once it
// is in OUTBOX; one that can't be put there now is not made up for: the endpoint's record and the log say the same.
func (h *hooks) alert(ctx context.Context, about webhook.Endpoint, kind string) {
	all, err := h.endpoints.List(ctx, about.Tenant)
	now := time.Now()
	for _, to := range all {
		if to.ID == about.ID || !to.Wants(kind) {
			continue
		}
		o := webhook.NewAlert(about, to, kind, now)
		if perr := h.q.PostHook(ctx, o.Tenant, o.Name(), o.Encode()); perr != nil {
			err = errors.Join(err, perr)
			continue
		}
		announcedTotal.WithLabelValues(kind).Inc()
	}
	if err != nil {
		h.log.Warn().Err(err).Str("endpoint", about.ID).Str("tenant", about.Tenant).Str("type", kind).Msg("not all endpoints are told of this one")
	}
}
