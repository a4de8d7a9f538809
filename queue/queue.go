package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// Sentinels for errors.Is.
var (
	// ErrFull is a stream at its limit: the job was not accepted, try later.
	ErrFull = errors.New("the queue is full")
	// ErrAway is a NATS server that does not answer. Whether a message arrived is unknown.
	ErrAway = errors.New("the queue's server does not answer")
	// ErrExists is a publish under an expected sequence that another message has taken.
	ErrExists = errors.New("another message stands there")
)

// Config says where the queue is. Conn is required.
type Config struct {
	Conn *nats.Conn
	// Replicas of each stream; 0 is 1. Three in a cluster.
	Replicas int
	// BacklogBytes and JobsBytes bound the streams of the same name; past them submissions get ErrFull. 0: 8 GiB, 1 GiB.
	BacklogBytes, JobsBytes int64
	// AckWait is a delivery's lease; a worker extends it every third of that. 0: 30 s.
	AckWait time.Duration
	// MaxAckPending bounds the deliveries that the fleet holds of one lane and base. 0: 8192.
	MaxAckPending int
	// Timeout bounds one exchange with the server. 0: 5 s.
	Timeout time.Duration
	Log     zerolog.Logger
}

// Queue is the road's JetStream side. Its methods may be called from many goroutines.
type Queue struct {
	cfg     Config
	js      jetstream.JetStream
	backlog *Committer
	jobs    *Committer
}

// New makes a Queue over a connection. It asks the server nothing.
func New(c Config) (*Queue, error) {
	c.Replicas = cmp.Or(c.Replicas, 1)
	c.BacklogBytes = cmp.Or(c.BacklogBytes, 8<<30)
	c.JobsBytes = cmp.Or(c.JobsBytes, 1<<30)
	c.AckWait = cmp.Or(c.AckWait, 30*time.Second)
	c.MaxAckPending = cmp.Or(c.MaxAckPending, 8192)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	js, err := jetstream.New(c.Conn, jetstream.WithDefaultTimeout(c.Timeout), jetstream.WithPublishAsyncTimeout(c.Timeout),
		jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q := &Queue{cfg: c, js: js}
	q.backlog, q.jobs = newCommitter(q.publishBundled), newCommitter(q.PublishAll)
	return q, nil
}

// Conn is the connection, for hints.
func (q *Queue) Conn() *nats.Conn { return q.cfg.Conn }

// JS is the JetStream context.
func (q *Queue) JS() jetstream.JetStream { return q.js }

// AckWait is a delivery's lease.
func (q *Queue) AckWait() time.Duration { return q.cfg.AckWait }

// Replicas is how many copies each stream and bucket has.
func (q *Queue) Replicas() int { return q.cfg.Replicas }

// Run drives the group commits of Submit and Push until ctx ends; what was handed in before is still committed.
func (q *Queue) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() { defer close(done); q.backlog.Run(ctx) }()
	q.jobs.Run(ctx)
	<-done
	return nil
}

// Push puts a job someone waits for straight into the ready window of its lane, past the dispatcher.
func (q *Queue) Push(ctx context.Context, j *Job) error {
	d := Delivery{V: V, Jobs: []Job{*j}}
	m := message(JobsSubject(j.Lane, j.Request.Model.B()), encode(d), HeaderJob, j.ID, jetstream.MsgIDHeader, j.ID)
	if _, err := q.jobs.Publish(ctx, m); err != nil {
		return fmt.Errorf("queue: push %s: %w", j.ID, err)
	}
	return nil
}

// wake is a hint: a lost one costs a second, the time of the dispatcher's own look.
func (q *Queue) wake(b, subject string) {
	_ = q.cfg.Conn.Publish(WakeSubject(b), []byte(subject))
}

func message(subject string, data []byte, headers ...string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = data
	for i := 0; i+1 < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	return m
}
