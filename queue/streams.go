package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Setup makes the streams, or brings them to these settings. It is the one admin step: workers only look things up.
func (q *Queue) Setup(ctx context.Context) error {
	for _, s := range q.streams() {
		s.Storage, s.Replicas, s.AllowDirect = jetstream.FileStorage, q.cfg.Replicas, true
		if _, err := q.js.CreateOrUpdateStream(ctx, s); err != nil {
			return fmt.Errorf("queue: set up stream %s: %w", s.Name, away(err))
		}
	}
	return nil
}

func (q *Queue) streams() []jetstream.StreamConfig {
	const day = 24 * time.Hour
	return []jetstream.StreamConfig{
		{Name: StreamBacklog, Subjects: []string{"backlog.>"}, Discard: jetstream.DiscardNew, MaxBytes: q.cfg.BacklogBytes, AllowAtomicPublish: true,
			Description: "accepted asynchronous jobs that are not yet in JOBS"},
		// No limit here: with schedules a stream must discard old messages, and a limit would silently drop accepted jobs.
		{Name: StreamLater, Subjects: []string{"later.*", "due.>"}, AllowMsgSchedules: true, AllowMsgTTL: true,
			Description: "retries that wait for their time"},
		{Name: StreamJobs, Subjects: []string{"jobs.>"}, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxBytes: q.cfg.JobsBytes,
			AllowAtomicPublish: true, Description: "deliveries that workers pull"},
		{Name: StreamResults, Subjects: []string{"results.>"}, MaxAge: 3 * day, AllowAtomicPublish: true, AllowMsgTTL: true,
			Description: "how each job ended; the first verdict stands"},
		{Name: StreamOutbox, Subjects: []string{"hook.>"}, Retention: jetstream.WorkQueuePolicy,
			Description: "events until they are delivered or given up"},
		{Name: StreamDead, Subjects: []string{"dead.>"}, MaxAge: 90 * day, Description: "jobs that ended at their attempt cap, with their history"},
	}
}

// SetupBase makes the consumers of a base, one a lane.
func (q *Queue) SetupBase(ctx context.Context, b string) error {
	for _, l := range Lanes {
		// BackOff stays empty: its first entry would silently replace AckWait. Attempts are counted in Redis, since
		// hand-backs would burn MaxDeliver (CONTRACTS section 4).
		c := jetstream.ConsumerConfig{Durable: Durable(l, b), FilterSubject: JobsSubject(l, b), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: q.cfg.AckWait, MaxDeliver: -1, MaxAckPending: q.cfg.MaxAckPending}
		if _, err := q.js.CreateOrUpdateConsumer(ctx, StreamJobs, c); err != nil {
			return fmt.Errorf("queue: set up consumer %s: %w", c.Durable, away(err))
		}
	}
	return nil
}

// DropBase deletes the consumers of a base that nothing waits for. SetupBase makes them again.
func (q *Queue) DropBase(ctx context.Context, b string) error {
	for _, l := range Lanes {
		err := q.js.DeleteConsumer(ctx, StreamJobs, Durable(l, b))
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("queue: drop consumer %s: %w", Durable(l, b), away(err))
		}
	}
	return nil
}

// Bases are the short digests of the bases that have consumers.
func (q *Queue) Bases(ctx context.Context) ([]string, error) {
	s, err := q.js.Stream(ctx, StreamJobs)
	if err != nil {
		return nil, fmt.Errorf("queue: list bases: %w", away(err))
	}
	var out []string
	names := s.ConsumerNames(ctx)
	prefix := string(Interactive) + "-"
	for n := range names.Name() {
		if len(n) > len(prefix) && n[:len(prefix)] == prefix {
			out = append(out, n[len(prefix):])
		}
	}
	return out, names.Err()
}
