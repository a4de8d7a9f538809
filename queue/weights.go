package queue

import (
	"context"
	"fmt"
)

// readAtOnce is how many messages one look at a stream reads.
const readAtOnce = 1000

// Weights are the digests of the models and adapters that accepted jobs name: those that wait, and those that run, which
// stay in JOBS until they have ended. It reads all of these streams: some ten thousand jobs a second.
func (q *Queue) Weights(ctx context.Context) (map[string]bool, error) {
	named := map[string]bool{}
	name := func(j Job) { named[j.Request.Model.Base], named[j.Request.Model.Adapter] = true, true }
	singles := func(data []byte) error {
		for one := range Bundled(data) {
			j, err := DecodeJob(one)
			if err != nil {
				return err
			}
			name(j)
		}
		return nil
	}
	deliveries := func(data []byte) error {
		d, err := DecodeDelivery(data)
		for _, j := range d.Jobs {
			name(j)
		}
		return err
	}
	// A job moves on from BACKLOG to JOBS, and between JOBS and LATER; it is in the next stream before it leaves the last.
	for _, s := range []struct {
		stream string
		read   func([]byte) error
	}{{StreamBacklog, singles}, {StreamLater, singles}, {StreamJobs, deliveries}, {StreamLater, singles}} {
		if err := q.readAll(ctx, s.stream, s.read); err != nil {
			return nil, fmt.Errorf("queue: weights of %s: %w", s.stream, err)
		}
	}
	delete(named, "")
	return named, nil
}

func (q *Queue) readAll(ctx context.Context, stream string, read func([]byte) error) error {
	for ms, err := range q.Pages(ctx, stream, ">", 0, readAtOnce) {
		if err != nil {
			return err
		}
		for _, m := range ms {
			if err := read(m.Data); err != nil {
				return err
			}
		}
	}
	return nil
}
