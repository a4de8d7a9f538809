package batch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"lorry/queue"
	"lorry/resent"
	"lorry/result"
	"lorry/watch"
)

// Announce tells of a terminal batch's end, once, and lets go of what it held. Each step is without effect the second
// time.
func (bs *Batches) Announce(ctx context.Context, b Batch) (Batch, error) {
	if err := bs.tell(ctx, b); err != nil {
		return b, err
	}
	// Deliveries that are still on their way are refused from now on.
	err := errors.Join(bs.cfg.Results.StopBatch(ctx, b.Tenant, b.ID, string(queue.Cancelled)),
		bs.cfg.Results.ForgetLines(ctx, b.Tenant, b.ID, b.Counts.Total), bs.cfg.Files.dropAll(ctx, b.ID))
	if err != nil {
		return b, fmt.Errorf("batch: close %s: %w", b.ID, err)
	}
	return bs.update(ctx, b.Tenant, b.ID, func(b *Batch) error { b.Announced = true; return nil })
}

func (bs *Batches) tell(ctx context.Context, b Batch) error {
	e := result.End{V: result.V, Batch: b.ID, Tenant: b.Tenant, Status: string(b.Status), Created: b.CreatedAt * 1000, Ended: b.ended() * 1000, Webhook: b.Webhook}
	m := nats.NewMsg(queue.EndSubject(b.Tenant, b.ID))
	m.Data = e.Encode()
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
	if _, errs := bs.cfg.Queue.PublishAll(ctx, []*nats.Msg{m}); errs[0] != nil && !errors.Is(errs[0], queue.ErrExists) {
		return fmt.Errorf("batch: tell of %s: %w", b.ID, errs[0])
	}
	return nil
}

// Purgeable says whether nobody can ask for single lines' results any more.
func (bs *Batches) Purgeable(b Batch) bool {
	return b.Announced && !b.Purged && bs.cfg.Now().Sub(time.Unix(b.ended(), 0)) >= bs.cfg.KeepLines
}

// Purge deletes the results of a batch's lines: its files have them.
func (bs *Batches) Purge(ctx context.Context, b Batch) (Batch, error) {
	if err := bs.cfg.Queue.Purge(ctx, queue.StreamResults, queue.LinesSubject(b.Tenant, b.ID)); err != nil {
		return b, err
	}
	return bs.update(ctx, b.Tenant, b.ID, func(b *Batch) error { b.Purged = true; return nil })
}

// Finalize says that all lines of a running batch have ended.
func (bs *Batches) Finalize(ctx context.Context, tenant, id string) (Batch, error) {
	return bs.update(ctx, tenant, id, func(b *Batch) error { return b.move(Finalizing, "finalize", bs.cfg.Now()) })
}

// Fresh is a batch's record as it is now, without what only Redis knows.
func (bs *Batches) Fresh(ctx context.Context, tenant, id string) (Batch, error) {
	return bs.get(ctx, tenant, id)
}

// Watch calls see with all batches that are there, then with each change, in order; of a batch that is forgotten only
// tenant and ID are told, and that it is Purged. From time to time, and when NATS was away, it calls see with all again. It
// ends with ctx.
func (bs *Batches) Watch(ctx context.Context, see func(Batch)) {
	each := func(e jetstream.KeyValueEntry) { bs.seen(e, see) }
	load := func(all []jetstream.KeyValueEntry) {
		for _, e := range all {
			each(e)
		}
	}
	_ = watch.Bucket{JS: bs.cfg.Queue.JS(), Name: Bucket, Load: load, See: each, Log: bs.cfg.Log}.Run(ctx) // nil always
}

func (bs *Batches) seen(e jetstream.KeyValueEntry, see func(Batch)) {
	switch {
	case resent.Named(e.Key()):
	case e.Operation() != jetstream.KeyValuePut:
		tenant, id, _ := strings.Cut(e.Key(), ".")
		see(Batch{Tenant: tenant, ID: id, Status: Cancelled, Announced: true, Purged: true})
	default:
		b, err := readBatch(e)
		if err != nil {
			bs.cfg.Log.Error().Err(err).Msg("batch is unreadable here")
			return
		}
		see(b)
	}
}

// AllEnded says whether every line has a verdict, by RESULTS, which has one message a line.
func (bs *Batches) AllEnded(ctx context.Context, b Batch) (bool, error) {
	n, err := bs.cfg.Queue.Count(ctx, queue.StreamResults, queue.LinesSubject(b.Tenant, b.ID))
	return n == b.Counts.Total, err
}

// Ended are the lines that have verdicts, by RESULTS.
func (bs *Batches) Ended(ctx context.Context, b Batch) (*Set, error) {
	subjects, err := bs.cfg.Queue.Subjects(ctx, queue.StreamResults, queue.LinesSubject(b.Tenant, b.ID))
	if err != nil {
		return nil, err
	}
	s := NewSet(b.Counts.Total)
	for name := range subjects {
		s.Add(queue.LineOf(name))
	}
	return s, nil
}
