package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/record"
)

// RetryAt stores a job until then, when the server itself moves it to the due subject of its lane, which the dispatcher
// reads like the backlog. A second call for the same job replaces the first.
func (q *Queue) RetryAt(ctx context.Context, j *Job, at time.Time) error {
	target := DueSubject(j.Lane, j.Request.Model.B(), j.Tenant)
	m := message(LaterSubject(j.ID), j.Encode(), HeaderJob, j.ID, jetstream.ScheduleHeader, "@at "+at.UTC().Format(time.RFC3339Nano),
		jetstream.ScheduleTargetHeader, target)
	if _, err := q.request(ctx, m); err != nil {
		return fmt.Errorf("queue: retry %s later: %w", j.ID, err)
	}
	return nil
}

// Letter is a dead letter: a job, what happened to it, and the verdict that was committed.
type Letter struct {
	V      int    `json:"v"`
	Job    Job    `json:"job"`
	Reason string `json:"reason"`
	At     int64  `json:"at"` // unix milliseconds
}

// Bury writes a dead letter. The caller then commits the job's verdict.
func (q *Queue) Bury(ctx context.Context, j *Job, reason string, at time.Time) error {
	b := encode(Letter{V: V, Job: *j, Reason: reason, At: at.UnixMilli()})
	if _, err := q.request(ctx, message(DeadSubject(j), b, HeaderJob, j.ID, jetstream.MsgIDHeader, "dead-"+j.ID)); err != nil {
		return fmt.Errorf("queue: bury %s: %w", j.ID, err)
	}
	return nil
}

// DecodeJob reads a message of BACKLOG or LATER.
func DecodeJob(b []byte) (Job, error) {
	var j Job
	if err := record.Unmarshal(b, &j); err != nil {
		return j, fmt.Errorf("queue: read job: %w", err)
	}
	if j.V > V || j.V < V-1 {
		return j, fmt.Errorf("queue: read job %s: version %d, this program reads %d", j.ID, j.V, V)
	}
	return j, nil
}

// DecodeDelivery reads a message of JOBS.
func DecodeDelivery(b []byte) (Delivery, error) {
	var d Delivery
	if err := record.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("queue: read delivery: %w", err)
	}
	if d.V > V || d.V < V-1 {
		return d, fmt.Errorf("queue: read delivery: version %d, this program reads %d", d.V, V)
	}
	return d, nil
}
