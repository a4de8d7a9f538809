package access

import (
	"cmp"
	"context"
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
}

const maxWeight = 1000

func (s Settings) check() error {
	switch {
	case s.Weight < 0 || s.Weight > maxWeight:
		return fmt.Errorf("access: weight %d: it is 1 to %d", s.Weight, maxWeight)
	case s.MaxWaiting < 0 || s.MaxReady < 0:
		return errors.New("access: a cap can't be negative; 0 means none")
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
	if err := cmp.Or(Slug(tenant), t.check()); err != nil {
		return err
	}
	kv, err := s.bucket(ctx)
	if err != nil {
		return err
	}
	t.V = 1
	for {
		revision, err := revisionOf(ctx, kv, tenantKeys+tenant)
		if err != nil {
			return err
		}
		err = s.put(ctx, kv, tenantKeys+tenant, revision, t)
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) && !errors.Is(err, jetstream.ErrKeyExists) {
			return err
		}
	}
}

// revisionOf is a record's revision; 0 where there is none.
func revisionOf(ctx context.Context, kv jetstream.KeyValue, key string) (uint64, error) {
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("access: read %s: %w", key, err)
	}
	return e.Revision(), nil
}
