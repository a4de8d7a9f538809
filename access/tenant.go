package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

const tenantKeys = "tenant." // of the bucket

// Settings are a tenant's. The zero value has every default.
type Settings struct {
	V int `json:"v"`
	// Weight is the tenant's share beside the others', 1 to 1000; 0 is 1.
	Weight int `json:"weight,omitempty"`
	// MaxWaiting bounds the tenant's requests that wait on the line at one producer; 0 leaves it to the producer.
	MaxWaiting int `json:"max_waiting,omitempty"`
	// MaxReady bounds the tenant's jobs in the ready window of one base; 0: no bound of its own.
	MaxReady int `json:"max_ready,omitempty"`
	// Paused tenants' asynchronous jobs are accepted and wait.
	Paused bool `json:"paused,omitempty"`
	// RequestsPerMinute and TokensPerMinute bound what the tenant may have run, by all producers and batches together;
	// requests past them get 429, batches' lines wait. 0: no bound.
	RequestsPerMinute int `json:"requests_per_minute,omitempty"`
	TokensPerMinute   int `json:"tokens_per_minute,omitempty"`
	// EnqueuedTokens bounds the tokens of the tenant's running batches of one model; one more batch fails. 0: no bound.
	EnqueuedTokens int `json:"enqueued_tokens,omitempty"`
}

// Rate is what a tenant may have run in a minute; 0 is no bound.
type Rate struct{ Requests, Tokens int }

// Rate is the tenant's.
func (s Settings) Rate() Rate { return Rate{s.RequestsPerMinute, s.TokensPerMinute} }

// MaxWeight bounds a tenant's weight.
const MaxWeight = 1000

func (s Settings) check() error {
	switch {
	case s.Weight < 0 || s.Weight > MaxWeight:
		return fmt.Errorf("access: weight %d: it is 1 to %d", s.Weight, MaxWeight)
	case min(s.MaxWaiting, s.MaxReady, s.RequestsPerMinute, s.TokensPerMinute, s.EnqueuedTokens) < 0:
		return errors.New("access: a bound can't be negative; 0 means none")
	}
	return nil
}

// Tenant is a tenant's settings, defaults filled in, from memory.
func (s *Store) Tenant(tenant string) Settings {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := s.view.tenants[tenant]
	t.Weight = max(t.Weight, 1)
	return t
}

// Tenants are all tenants that have a working key or settings, and DefaultTenant, sorted, from memory.
func (s *Store) Tenants() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	set := map[string]bool{DefaultTenant: true}
	for t := range s.view.tenants {
		set[t] = true
	}
	for _, k := range s.view.keys {
		if k.Revoked == 0 {
			set[k.Tenant] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// PutTenant replaces a tenant's settings.
func (s *Store) PutTenant(ctx context.Context, tenant string, t Settings) error {
	_, err := s.ChangeTenant(ctx, tenant, func(old *Settings) { *old = t })
	return err
}

// ChangeTenant changes a tenant's settings, and returns what they are then. change may be called again, with what
// somebody else has set meanwhile.
func (s *Store) ChangeTenant(ctx context.Context, tenant string, change func(*Settings)) (t Settings, err error) {
	if err := Slug(tenant); err != nil {
		return t, err
	}
	kv, err := s.bucket(ctx)
	if err != nil {
		return t, err
	}
	for {
		t, revision, err := settingsOf(ctx, kv, tenant)
		if err != nil {
			return t, err
		}
		change(&t)
		t.V = 1
		if err := t.check(); err != nil {
			return t, err
		}
		err = s.put(ctx, kv, tenantKeys+tenant, revision, t)
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) && !errors.Is(err, jetstream.ErrKeyExists) {
			return t, err
		}
	}
}

// settingsOf are a tenant's settings as they stand, and their revision; 0 where there are none.
func settingsOf(ctx context.Context, kv jetstream.KeyValue, tenant string) (t Settings, revision uint64, err error) {
	e, err := kv.Get(ctx, tenantKeys+tenant)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return t, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(e.Value(), &t)
	}
	if err != nil {
		return t, 0, fmt.Errorf("access: read settings of %s: %w", tenant, err)
	}
	return t, e.Revision(), nil
}
