package queue

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// scanMessages ends a page of Scan, as readBytes does.
	scanMessages = 512
	// scanIdle is after how long the server forgets a scan that nobody reads from.
	scanIdle = time.Minute
)

// Scan reads the messages of a filter that a stream holds now, in order, a page at a time. It costs a consumer, and then
// half of what Pages costs a message: it is for thousands. What is yielded has no sequences. It ends with the first error;
// a message that was lost on its way is one.
func (q *Queue) Scan(ctx context.Context, stream, filter string) iter.Seq2[[]Stored, error] {
	return func(yield func([]Stored, error) bool) {
		c, err := q.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy,
			MemoryStorage: true, Replicas: 1, InactiveThreshold: scanIdle})
		if err != nil {
			yield(nil, fmt.Errorf("queue: scan %s: %w", stream, away(err)))
			return
		}
		defer q.forget(stream, c)
		in, err := c.Messages(jetstream.PullMaxBytes(readBytes))
		if err != nil {
			yield(nil, fmt.Errorf("queue: scan %s: %w", stream, away(err)))
			return
		}
		defer in.Stop()
		for seen, all := 0, int(c.CachedInfo().NumPending); seen < all; {
			ms, err := q.page(ctx, in, &seen, all)
			if err != nil {
				yield(nil, fmt.Errorf("queue: scan %s: %w", stream, err))
				return
			}
			if !yield(ms, nil) {
				return
			}
		}
	}
}

// page reads on until it is full, or all are seen.
func (q *Queue) page(ctx context.Context, in jetstream.MessagesContext, seen *int, all int) (ms []Stored, err error) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	var last jetstream.Msg
	for bytes := 0; *seen < all && len(ms) < scanMessages && bytes < readBytes; *seen++ {
		if last, err = in.Next(jetstream.NextContext(ctx)); err != nil {
			return nil, away(err)
		}
		ms, bytes = append(ms, Stored{Subject: last.Subject(), Data: last.Data()}), bytes+len(last.Data())
	}
	md, err := last.Metadata()
	if err == nil && md.Sequence.Consumer != uint64(*seen) {
		err = fmt.Errorf("%w: message %d came as the %dth", ErrAway, md.Sequence.Consumer, *seen)
	}
	return ms, err
}

// forget lets go of a scan's consumer. One that stays ends by itself.
func (q *Queue) forget(stream string, c jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), q.cfg.Timeout)
	defer cancel()
	_ = q.js.DeleteConsumer(ctx, stream, c.CachedInfo().Name)
}
