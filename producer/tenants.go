package producer

import (
	"math"
	"net/http"

	"lorry/access"
)

// tenantObject is a tenant's settings as admins see them; 0 is the default, or no bound.
type tenantObject struct {
	Tenant            string `json:"tenant"`
	Object            string `json:"object"` // "lorry.tenant"
	Weight            int    `json:"weight"`
	MaxWaiting        int    `json:"max_waiting"`
	MaxReady          int    `json:"max_ready"`
	RequestsPerMinute int    `json:"requests_per_minute"`
	TokensPerMinute   int    `json:"tokens_per_minute"`
	EnqueuedTokens    int    `json:"enqueued_tokens"`
	Paused            bool   `json:"paused"`
}

func showTenant(name string, t access.Settings) tenantObject {
	return tenantObject{name, "lorry.tenant", max(t.Weight, 1), t.MaxWaiting, t.MaxReady, t.RequestsPerMinute, t.TokensPerMinute, t.EnqueuedTokens, t.Paused}
}

// listTenants shows all tenants that have a key or settings.
func (s *Server) listTenants(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.admin(r); err != nil {
		return err
	}
	data := []tenantObject{}
	for _, name := range s.cfg.Access.Tenants() {
		data = append(data, showTenant(name, s.cfg.Access.Tenant(name)))
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": data})
	return nil
}

// changeTenant changes the settings that the body gives, and shows all.
func (s *Server) changeTenant(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.admin(r); err != nil {
		return err
	}
	name := r.PathValue("tenant")
	if access.Slug(name) != nil {
		return refuse(codeValue, "tenant", "Invalid 'tenant': %v.", access.ErrSlug)
	}
	body, err := readBody(w, r, s.cfg.MaxBody)
	if err != nil {
		return err
	}
	change, err := readSettings(body)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	t, err := s.cfg.Access.ChangeTenant(ctx, name, change)
	if err != nil {
		return store(err)
	}
	s.cfg.Log.Info().Str("tenant", name).RawJSON("change", body).Msg("tenant changed")
	writeJSON(w, http.StatusOK, showTenant(name, t))
	return nil
}

// readSettings reads {"weight", "max_waiting", …}: what is not there stays.
func readSettings(body []byte) (change func(*access.Settings), err error) {
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	var sets []func(*access.Settings)
	bound := func(name string, lo, hi int, field func(*access.Settings) *int) {
		if n := 0; o.integer(name, &n, lo, hi) {
			sets = append(sets, func(t *access.Settings) { *field(t) = n })
		}
	}
	bound("weight", 1, access.MaxWeight, func(t *access.Settings) *int { return &t.Weight })
	for name, field := range bounds {
		bound(name, 0, math.MaxInt32, field)
	}
	if on := false; o.flag("paused", &on) {
		sets = append(sets, func(t *access.Settings) { t.Paused = on })
	}
	return func(t *access.Settings) {
		for _, set := range sets {
			set(t)
		}
	}, o.done()
}

// bounds are the settings of which 0 is no bound, or the default.
var bounds = map[string]func(*access.Settings) *int{
	"max_waiting":         func(t *access.Settings) *int { return &t.MaxWaiting },
	"max_ready":           func(t *access.Settings) *int { return &t.MaxReady },
	"requests_per_minute": func(t *access.Settings) *int { return &t.RequestsPerMinute },
	"tokens_per_minute":   func(t *access.Settings) *int { return &t.TokensPerMinute },
	"enqueued_tokens":     func(t *access.Settings) *int { return &t.EnqueuedTokens },
}
