package queue

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Depths is how much waits where.
type Depths struct {
	// Backlog counts accepted jobs of each subject that are not in the window yet, retries that are due included.
	Backlog []BacklogDepth `json:"backlog"`
	// Windows are the consumers of JOBS.
	Windows []WindowDepth `json:"windows"`
	Later   uint64        `json:"later"`  // retries that wait for their time
	Dead    uint64        `json:"dead"`   // dead letters
	Outbox  uint64        `json:"outbox"` // events not delivered yet
	Results uint64        `json:"results"`
}

// BacklogDepth is one subject of the backlog.
type BacklogDepth struct {
	Lane   Lane   `json:"lane"`
	Base   string `json:"base"`
	Tenant string `json:"tenant"`
	Jobs   uint64 `json:"jobs"`
}

// WindowDepth is the ready window of a lane and base, in deliveries.
type WindowDepth struct {
	Lane  Lane   `json:"lane"`
	Base  string `json:"base"`
	Ready uint64 `json:"ready"`
	Held  int    `json:"held"`
}

// Depths asks the server. It costs a round trip a stream and one a base and lane.
func (q *Queue) Depths(ctx context.Context) (d Depths, err error) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	backlog, err := q.Subjects(ctx, StreamBacklog, "backlog.>")
	if err != nil {
		return d, err
	}
	due, err := q.Subjects(ctx, StreamLater, ">")
	if err != nil {
		return d, err
	}
	for s, n := range due {
		if strings.HasPrefix(s, "later.") {
			d.Later += n
		}
	}
	d.Backlog = append(backlogDepths(backlog), backlogDepths(due)...)
	for name, to := range map[string]*uint64{StreamDead: &d.Dead, StreamOutbox: &d.Outbox, StreamResults: &d.Results} {
		s, err := q.js.Stream(ctx, name)
		if err != nil {
			return d, fmt.Errorf("queue: stream %s: %w", name, away(err))
		}
		*to = s.CachedInfo().State.Msgs
	}
	d.Windows, err = q.windows(ctx)
	return d, err
}

// Subjects counts the messages of each subject that matches filter.
func (q *Queue) Subjects(ctx context.Context, stream, filter string) (map[string]uint64, error) {
	s, err := q.js.Stream(ctx, stream)
	if err == nil {
		var i *jetstream.StreamInfo
		if i, err = s.Info(ctx, jetstream.WithSubjectFilter(filter)); err == nil {
			return i.State.Subjects, nil
		}
	}
	return nil, fmt.Errorf("queue: subjects of %s: %w", stream, away(err))
}

// backlogDepths sums what waits in each place.
func backlogDepths(subjects map[string]uint64) (out []BacklogDepth) {
	sums := map[BacklogDepth]uint64{}
	for s, n := range subjects {
		if p, jobs, ok := ParsePlace(s); ok {
			sums[BacklogDepth{Lane: p.Lane, Base: p.B, Tenant: p.Tenant}] += n * uint64(jobs)
		}
	}
	for d, n := range sums {
		d.Jobs = n
		out = append(out, d)
	}
	return out
}

func (q *Queue) windows(ctx context.Context) (out []WindowDepth, err error) {
	s, err := q.js.Stream(ctx, StreamJobs)
	if err != nil {
		return nil, fmt.Errorf("queue: windows: %w", away(err))
	}
	cs := s.ListConsumers(ctx)
	for c := range cs.Info() {
		l, b, _ := strings.Cut(c.Name, "-")
		if lane, ok := ParseLane(l); ok {
			out = append(out, WindowDepth{lane, b, c.NumPending, c.NumAckPending})
		}
	}
	if err := cs.Err(); err != nil {
		return nil, fmt.Errorf("queue: windows: %w", away(err))
	}
	return out, nil
}

// PurgeBelow deletes a subject's messages with a sequence under seq.
func (q *Queue) PurgeBelow(ctx context.Context, stream, subject string, seq uint64) error {
	return q.purge(ctx, stream, subject, jetstream.WithPurgeSequence(seq))
}

// Purge deletes all messages of the subjects that match.
func (q *Queue) Purge(ctx context.Context, stream, subject string) error {
	return q.purge(ctx, stream, subject)
}

func (q *Queue) purge(ctx context.Context, stream, subject string, opts ...jetstream.StreamPurgeOpt) error {
	s, err := q.js.Stream(ctx, stream)
	if err == nil {
		err = s.Purge(ctx, append(opts, jetstream.WithPurgeSubject(subject))...)
	}
	if err != nil {
		return fmt.Errorf("queue: purge %s: %w", subject, away(err))
	}
	return nil
}
