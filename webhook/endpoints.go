package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"github.com/rs/zerolog"

	"lorry/resent"
)

// EndpointsConfig says where endpoints are. JS is required; Secrets.Setup makes the bucket.
type EndpointsConfig struct {
	JS jetstream.JetStream
	// Sealer keeps secrets unreadable at rest; nil keeps them as they are.
	Sealer *Sealer
	// Allow opens private addresses.
	Allow []netip.Prefix
	// Alert is told of an endpoint that gets nothing from now on: AlertPaused once for each time that it fails, or
	// AlertDisabled. Nil: nobody is.
	Alert func(ctx context.Context, about Endpoint, kind string)
	Log   zerolog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Endpoints are all tenants'. Its methods may be called from many goroutines and processes; they ask the server.
type Endpoints struct{ cfg EndpointsConfig }

// NewEndpoints makes an Endpoints. It asks nobody anything.
func NewEndpoints(c EndpointsConfig) *Endpoints {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Alert == nil {
		c.Alert = func(context.Context, Endpoint, string) {}
	}
	return &Endpoints{c}
}

// Wish is what an owner may say of an endpoint. Nil fields stay as they are.
type Wish struct {
	URL, Description *string
	Events           []string
	// Status is Enabled or Paused. Enabling also ends a pause of the breaker.
	Status *Status
}

// check refuses what no endpoint can have: ErrURL, ErrEvent.
func (s *Endpoints) check(w Wish) error {
	if w.URL != nil {
		if err := CheckURL(*w.URL, s.cfg.Allow...); err != nil {
			return err
		}
	}
	for _, e := range w.Events {
		if err := CheckEvent(e); err != nil {
			return err
		}
	}
	return nil
}

// apply makes the wish come true.
func (e *Endpoint) apply(w Wish) {
	if w.URL != nil {
		e.URL = *w.URL
	}
	if w.Description != nil {
		e.Description = *w.Description
	}
	if w.Events != nil {
		e.Events = slices.Compact(slices.Sorted(slices.Values(w.Events)))
	}
	if w.Status != nil {
		e.Status, e.Reason, e.Failing = *w.Status, "", nil
	}
}

// Create makes an endpoint and its secret, which nobody can read again. A request that is sent again (repeat) gets the
// endpoint that it has made, and its secret as it is now: the first answer may have been lost.
func (s *Endpoints) Create(ctx context.Context, tenant string, w Wish, repeat resent.Repeat) (e Endpoint, secret string, err error) {
	if err := s.check(w); err != nil {
		return e, "", err
	}
	id, err := resent.Names{JS: s.cfg.JS, Bucket: Bucket}.Name(ctx, tenant, newID(endpointPrefix), repeat)
	if err != nil {
		return e, "", err
	}
	all, err := s.List(ctx, tenant)
	if err != nil {
		return e, "", err
	}
	if i := slices.IndexFunc(all, func(e Endpoint) bool { return e.ID == id }); i >= 0 {
		return s.shown(all[i])
	}
	if len(all) >= MaxEndpoints {
		return e, "", fmt.Errorf("webhook: %w", ErrManyEndpoints)
	}
	return s.make(ctx, tenant, id, w)
}

// shown is an endpoint with its secret.
func (s *Endpoints) shown(e Endpoint) (Endpoint, string, error) {
	secrets, err := s.Signing(&e)
	if err != nil {
		return e, "", err
	}
	return e, secrets[0], nil
}

// make writes a new endpoint down. One of the same ID that was quicker is this one: they were meant to be the same.
func (s *Endpoints) make(ctx context.Context, tenant, id string, w Wish) (e Endpoint, secret string, err error) {
	kv, err := bucket(ctx, s.cfg.JS)
	if err != nil {
		return e, "", err
	}
	now := s.cfg.Now()
	e = Endpoint{V: V, ID: id, Tenant: tenant, Status: Enabled, Created: now.UnixMilli(), Updated: now.UnixMilli()}
	e.apply(w)
	secret = NewSecret()
	e.Secrets = e.Secrets.rotated(s.cfg.Sealer.Seal(e.context(), secret), now, 0)
	if _, err := kv.Create(ctx, e.key(), encode(e)); errors.Is(err, jetstream.ErrKeyExists) {
		if e, err = s.Get(ctx, tenant, id); err != nil {
			return e, "", err
		}
		return s.shown(e)
	} else if err != nil {
		return e, "", fmt.Errorf("webhook: write endpoint: %w", err)
	}
	s.cfg.Log.Info().Str("endpoint", e.ID).Str("tenant", tenant).Str("target", target(e.URL)).Strs("events", e.Events).Msg("webhook endpoint made")
	return e, secret, nil
}

func newID(prefix string) string { return prefix + strings.ToLower(ulid.Make().String()) }

// Get is a tenant's endpoint. ErrNoEndpoint says that it has none of that ID.
func (s *Endpoints) Get(ctx context.Context, tenant, id string) (Endpoint, error) {
	e, _, err := s.get(ctx, tenant, id)
	return e, err
}

func (s *Endpoints) get(ctx context.Context, tenant, id string) (e Endpoint, revision uint64, err error) {
	if !ValidID(id) {
		return e, 0, noEndpoint(id)
	}
	kv, err := bucket(ctx, s.cfg.JS)
	if err != nil {
		return e, 0, err
	}
	x, err := kv.Get(ctx, endpointKey(tenant, id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return e, 0, noEndpoint(id)
	}
	if err == nil {
		err = decodeEndpoint(x.Value(), &e)
	}
	if err != nil {
		return e, 0, fmt.Errorf("webhook: read endpoint %s: %w", id, err)
	}
	return e, x.Revision(), nil
}

func noEndpoint(id string) error { return fmt.Errorf("webhook: endpoint %.60q: %w", id, ErrNoEndpoint) }

func decodeEndpoint(b []byte, e *Endpoint) error {
	if err := json.Unmarshal(b, e); err != nil {
		return err
	}
	if e.V > V || e.V < V-1 {
		return fmt.Errorf("version %d, this program reads %d", e.V, V)
	}
	return nil
}

// List are a tenant's endpoints, the oldest first. Those that can't be read here are left out, and told of.
func (s *Endpoints) List(ctx context.Context, tenant string) ([]Endpoint, error) {
	return s.scan(ctx, endpointKey(tenant, "*"))
}

func (s *Endpoints) scan(ctx context.Context, keys string) (out []Endpoint, err error) {
	kv, err := bucket(ctx, s.cfg.JS)
	if err != nil {
		return nil, err
	}
	w, err := kv.Watch(ctx, keys, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("webhook: list endpoints: %w", err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case x, ok := <-w.Updates():
			switch {
			case !ok:
				return nil, errors.New("webhook: list endpoints: the watch ended")
			case x == nil:
				slices.SortFunc(out, func(a, b Endpoint) int { return strings.Compare(a.ID, b.ID) })
				return out, nil
			}
			var e Endpoint
			if err := decodeEndpoint(x.Value(), &e); err != nil {
				s.cfg.Log.Error().Err(err).Str("record", x.Key()).Msg("webhook endpoint is unreadable")
				continue
			}
			out = append(out, e)
		case <-ctx.Done():
			return nil, fmt.Errorf("webhook: list endpoints: %w", context.Cause(ctx))
		}
	}
}

// Update changes what the wish names. A wish for what is so already changes nothing, not the time of the change either.
func (s *Endpoints) Update(ctx context.Context, tenant, id string, w Wish) (Endpoint, error) {
	if err := s.check(w); err != nil {
		return Endpoint{}, err
	}
	return s.change(ctx, tenant, id, func(e *Endpoint) bool {
		before := encode(e)
		if e.apply(w); bytes.Equal(before, encode(e)) {
			return false
		}
		e.Updated = s.cfg.Now().UnixMilli()
		return true
	})
}

// Rotate gives an endpoint a new secret and returns it. For overlap the one before signs too.
func (s *Endpoints) Rotate(ctx context.Context, tenant, id string, overlap time.Duration) (e Endpoint, secret string, err error) {
	secret = NewSecret()
	e, err = s.change(ctx, tenant, id, func(e *Endpoint) bool {
		now := s.cfg.Now()
		e.Secrets, e.Updated = e.Secrets.rotated(s.cfg.Sealer.Seal(e.context(), secret), now, overlap), now.UnixMilli()
		return true
	})
	if err == nil {
		s.cfg.Log.Info().Str("endpoint", id).Str("tenant", tenant).Dur("overlap", overlap).Msg("webhook endpoint's secret rotated")
	}
	return e, secret, err
}

// change rewrites a record unless do says that nothing changed, again and again while others do.
func (s *Endpoints) change(ctx context.Context, tenant, id string, do func(*Endpoint) bool) (Endpoint, error) {
	for {
		e, revision, err := s.get(ctx, tenant, id)
		if err != nil || !do(&e) {
			return e, err
		}
		kv, err := bucket(ctx, s.cfg.JS)
		if err != nil {
			return e, err
		}
		e.V = V
		_, err = kv.Update(ctx, e.key(), encode(e), revision)
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue
		}
		if err != nil {
			return e, fmt.Errorf("webhook: write endpoint %s: %w", id, err)
		}
		return e, nil
	}
}

// Delete forgets an endpoint, and its events that are on their way.
func (s *Endpoints) Delete(ctx context.Context, tenant, id string) error {
	e, revision, err := s.get(ctx, tenant, id)
	if err != nil {
		return err
	}
	kv, err := bucket(ctx, s.cfg.JS)
	if err != nil {
		return err
	}
	err = kv.Purge(ctx, e.key(), jetstream.LastRevision(revision))
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return s.Delete(ctx, tenant, id)
	}
	if err != nil {
		return fmt.Errorf("webhook: delete endpoint %s: %w", id, err)
	}
	return nil
}

// Signing are the secrets that sign an endpoint's events now.
func (s *Endpoints) Signing(e *Endpoint) ([]string, error) {
	out, err := e.Secrets.open(s.cfg.Sealer, e.context(), s.cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("webhook: secret of endpoint %s: %w", e.ID, err)
	}
	return out, nil
}

// Gone disables an endpoint that wants no more.
func (s *Endpoints) Gone(ctx context.Context, tenant, id string) error {
	disabled := false
	e, err := s.change(ctx, tenant, id, func(e *Endpoint) bool {
		disabled = e.Status != Disabled
		if disabled {
			e.disable("it answered 410 Gone")
		}
		return disabled
	})
	if err == nil && disabled {
		s.cfg.Log.Warn().Str("endpoint", id).Str("tenant", tenant).Msg("webhook endpoint answered 410 and is disabled")
		s.cfg.Alert(ctx, e, AlertDisabled)
	}
	return err
}

// Fail opens an endpoint's breaker, or keeps it open for longer. since is the first failure.
func (s *Endpoints) Fail(ctx context.Context, tenant, id string, since time.Time, why string) error {
	opened := false
	e, err := s.change(ctx, tenant, id, func(e *Endpoint) bool {
		opened = e.fail(s.cfg.Now(), since, why)
		return opened
	})
	switch {
	case err != nil || !opened:
	case e.Status == Disabled:
		s.cfg.Log.Warn().Str("endpoint", id).Str("tenant", tenant).Str("reason", e.Reason).Msg("webhook endpoint is disabled")
		s.cfg.Alert(ctx, e, AlertDisabled)
	default:
		s.cfg.Log.Warn().Str("endpoint", id).Str("tenant", tenant).Time("until", time.UnixMilli(e.Failing.Until)).Str("error", why).Msg("webhook endpoint keeps failing and is left alone for a while")
		if e.Failing.Opened == 1 { // else it is paused for longer
			s.cfg.Alert(ctx, e, AlertPaused)
		}
	}
	return err
}

// Heal closes an endpoint's breaker.
func (s *Endpoints) Heal(ctx context.Context, tenant, id string) error {
	healed := false
	_, err := s.change(ctx, tenant, id, func(e *Endpoint) bool {
		healed = e.Failing != nil
		e.Failing = nil
		return healed
	})
	if err == nil && healed {
		s.cfg.Log.Info().Str("endpoint", id).Str("tenant", tenant).Msg("webhook endpoint is well again")
	}
	return err
}
