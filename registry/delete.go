package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Delete forgets what a name stands for, if may agrees. Jobs that were accepted keep what they resolved: an adapter's file
// stays until Sweep finds that nothing needs it. may is asked anew where somebody else changes the name meanwhile, and its
// error is Delete's; ErrNotFound is a name that stands for nothing. When Delete returns, Resolve here knows the name no
// more; elsewhere after the watch's delay.
func (r *Registry) Delete(ctx context.Context, name string, may func(Model) error) error {
	n, err := ParseName(name)
	if err != nil {
		return err
	}
	kv, err := r.bucket(ctx)
	if err != nil {
		return err
	}
	for {
		old, err := get(ctx, kv, name)
		switch {
		case err != nil:
			return err
		case old.revision == 0 || old.gone:
			return fmt.Errorf("registry: model %s: %w", n, ErrNotFound)
		}
		if err := may(old.Model); err != nil {
			return err
		}
		err = kv.Purge(ctx, n.key(), jetstream.LastRevision(old.revision), jetstream.PurgeTTL(markerTTL))
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue
		}
		if err != nil {
			return fmt.Errorf("registry: delete model %s: %w", n, err)
		}
		r.apply(n.key(), entry{gone: true, revision: old.revision + 1})
		return nil
	}
}
