package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	leaseBucket = "lease"
	// leaseTTL is leases' ttl, but in tests.
	leaseTTL = 15 * time.Second
)

// leases grants names to one holder at a time, by revision: an update by an old holder is refused. The bucket has
// history 1 and a TTL of its own (a key's own TTL is lost at the first update, CONTRACTS 3.5).
type leases struct {
	kv jetstream.KeyValue
	// ttl is how long a dead holder's lease stands.
	ttl time.Duration
	// holder is this instance's name. One that starts again under the same name takes its own leases over at once.
	holder string
}

func openLeases(ctx context.Context, js jetstream.JetStream, replicas int, holder string, ttl time.Duration) (*leases, error) {
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: leaseBucket, History: 1, TTL: ttl, Replicas: replicas,
		Description: "who dispatches a base"})
	if err != nil {
		return nil, fmt.Errorf("scheduler: set up leases: %w", err)
	}
	return &leases{kv, ttl, holder}, nil
}

// by is the same for another holder.
func (l *leases) by(holder string) *leases { return &leases{l.kv, l.ttl, holder} }

// take tries once. revision fences: it is what renew and give need.
func (l *leases) take(ctx context.Context, name string) (revision uint64, ok bool, err error) {
	revision, err = l.kv.Create(ctx, name, []byte(l.holder))
	if err == nil {
		return revision, true, nil
	}
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return 0, false, err
	}
	e, err := l.kv.Get(ctx, name)
	if err != nil || string(e.Value()) != l.holder {
		return 0, false, nil
	}
	revision, err = l.kv.Update(ctx, name, []byte(l.holder), e.Revision())
	return revision, err == nil, nil
}

// keep runs work while the lease is held: it ends work's context when the lease is lost, and gives the lease back when
// work ends.
func (l *leases) keep(ctx context.Context, name string, revision uint64, work func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); work(ctx) }()
	t := time.NewTicker(l.ttl / 3)
	defer t.Stop()
	good := time.Now()
	for {
		select {
		case <-done:
			give, end := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer end()
			_ = l.kv.Delete(give, name, jetstream.LastRevision(revision))
			return
		case <-t.C:
			r, err := l.kv.Update(ctx, name, []byte(l.holder), revision)
			if err == nil {
				revision, good = r, time.Now()
			} else if time.Since(good) > l.ttl {
				cancel()
			}
		}
	}
}
