package batch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/queue"
	"lorry/resent"
)

const (
	// KeptFor is how long a batch that is over can be looked up.
	KeptFor = 90 * 24 * time.Hour
	// lateTime is how long results of lines that ran past their batch's end are looked for.
	lateTime = 3 * time.Hour
)

// Sweep forgets batches that ended long ago, and lets go of what dead processes left. It is to run now and then, in any
// process, also in two at once. It reads all records.
func (bs *Batches) Sweep(ctx context.Context) error {
	held, err := bs.cfg.Files.held(ctx) // before the batches: what is held for one comes first
	if err != nil {
		return err
	}
	kv, err := bs.bucket(ctx)
	if err != nil {
		return err
	}
	var errs []error
	err = scan(ctx, kv, ">", func(e jetstream.KeyValueEntry) {
		b, err := readBatch(e)
		switch {
		case resent.Named(e.Key()): // the server forgets it
			return
		case err == nil:
			err = bs.sweepBatch(ctx, kv, b)
			if !b.Announced {
				delete(held, b.ID)
			}
		default: // unreadable here: what it holds stays
			_, id, _ := strings.Cut(e.Key(), ".")
			delete(held, id)
		}
		errs = append(errs, err)
	})
	for id, since := range held {
		if err == nil && bs.cfg.Now().Sub(since) > settleTime {
			errs = append(errs, bs.cfg.Files.dropAll(ctx, id))
		}
	}
	return errors.Join(append(errs, err)...)
}

func (bs *Batches) sweepBatch(ctx context.Context, kv jetstream.KeyValue, b Batch) error {
	if !b.Purged {
		return nil
	}
	over := bs.cfg.Now().Sub(time.Unix(b.ended(), 0))
	if over < bs.cfg.KeepLines+lateTime { // a worker that was cut off may have committed since
		return bs.cfg.Queue.Purge(ctx, queue.StreamResults, queue.LinesSubject(b.Tenant, b.ID))
	}
	if over < KeptFor {
		return nil
	}
	return purgeKey(ctx, kv, b.key(), b.revision)
}

func purgeKey(ctx context.Context, kv jetstream.KeyValue, key string, revision uint64) error {
	err := kv.Purge(ctx, key, jetstream.LastRevision(revision), jetstream.PurgeTTL(markerTTL))
	if err != nil && !mismatch(err) {
		return fmt.Errorf("batch: forget %s: %w", key, err)
	}
	return nil
}
