package batch

import (
	"cmp"
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// Weights adds to named the digests of the models and adapters that batches need which are not over: their lines are fed
// until then. A record that can't be read here is an error, for it may need any.
func (bs *Batches) Weights(ctx context.Context, named map[string]bool) error {
	kv, err := bs.bucket(ctx)
	if err != nil {
		return err
	}
	var bad error
	err = scan(ctx, kv, "*.*", func(e jetstream.KeyValueEntry) {
		b, err := readBatch(e)
		switch {
		case err != nil:
			bad = err
		case !b.Status.Terminal():
			named[b.Resolved.Base], named[b.Resolved.Adapter] = true, true
		}
	})
	delete(named, "")
	return cmp.Or(err, bad)
}
