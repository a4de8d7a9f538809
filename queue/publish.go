package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// minAtomic is from how many messages on an atomic batch is cheaper than single publishes: one costs 6 to 10
	// single fsyncs up to 32 messages, 11 to 16 at 128 (DESIGN section 5).
	minAtomic = 12
	// maxAtomic is the server's limit for one atomic batch.
	maxAtomic = 1000
	// maxAtomicBytes keeps one commit from holding the stream for long.
	maxAtomicBytes = 8 << 20
)

// Headers of an atomic batch (nats-server ADR-50; nats.go has no helper for it).
const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// PublishAll publishes messages of one stream and waits until each is stored: as atomic batches where that pays, else,
// and where a batch was refused, one by one. seqs and errs are by index. An error that is not ErrExists or ErrFull
// leaves unknown whether the message arrived.
func (q *Queue) PublishAll(ctx context.Context, ms []*nats.Msg) (seqs []uint64, errs []error) {
	seqs, errs = make([]uint64, len(ms)), make([]error, len(ms))
	for from := 0; from < len(ms); {
		to := from + atomicPrefix(ms[from:])
		if to-from < minAtomic || !q.atomic(ctx, ms[from:to], seqs[from:to]) {
			q.singly(ctx, ms[from:to], seqs[from:to], errs[from:to])
		}
		from = to
	}
	return seqs, errs
}

// atomicPrefix is how many of ms one atomic batch may hold, at least one.
func atomicPrefix(ms []*nats.Msg) int {
	bytes := 0
	for i, m := range ms {
		bytes += len(m.Data)
		if i > 0 && (i == maxAtomic || bytes > maxAtomicBytes) {
			return i
		}
	}
	return len(ms)
}

// atomic publishes all or nothing. False means that the caller must publish singly, where each message gets its own
// answer: one conflict refuses a whole batch.
func (q *Queue) atomic(ctx context.Context, ms []*nats.Msg, seqs []uint64) bool {
	id := nuid.Next()
	for i, m := range ms {
		b := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{}}
		maps.Copy(b.Header, m.Header)
		b.Header.Set(headerBatchID, id)
		b.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
		if i < len(ms)-1 {
			if q.cfg.Conn.PublishMsg(b) != nil {
				return false
			}
			continue
		}
		b.Header.Set(headerBatchCommit, "1")
		ack, err := q.request(ctx, b)
		if err != nil {
			return false
		}
		for k := range seqs { // the last one's sequence is answered; the others precede it without a gap
			seqs[k] = ack.Sequence - uint64(len(seqs)-1-k)
		}
	}
	return true
}

// singly publishes one by one, in order, without waiting in between.
func (q *Queue) singly(ctx context.Context, ms []*nats.Msg, seqs []uint64, errs []error) {
	if len(ms) == 1 {
		ack, err := q.request(ctx, ms[0])
		seqs[0], errs[0] = ack.Sequence, err
		return
	}
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	futures := make([]jetstream.PubAckFuture, len(ms))
	for i, m := range ms {
		futures[i], errs[i] = q.js.PublishMsgAsync(m)
	}
	for i, f := range futures {
		if errs[i] == nil {
			seqs[i], errs[i] = settled(ctx, f)
		}
		if errs[i] != nil {
			errs[i] = fmt.Errorf("publish %s: %w", ms[i].Subject, errs[i])
		}
	}
}

func settled(ctx context.Context, f jetstream.PubAckFuture) (uint64, error) {
	select {
	case a := <-f.Ok():
		return a.Sequence, nil
	case err := <-f.Err():
		if api, ok := errors.AsType[*jetstream.APIError](err); ok {
			return 0, refused(api)
		}
		return 0, away(err)
	case <-ctx.Done():
		return 0, away(ctx.Err())
	}
}

// pubAck is the server's answer to a publish.
type pubAck struct {
	Sequence  uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Error     *jetstream.APIError `json:"error"`
}

func (q *Queue) request(ctx context.Context, m *nats.Msg) (pubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	r, err := q.cfg.Conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return pubAck{}, fmt.Errorf("publish %s: %w", m.Subject, away(err))
	}
	var a pubAck
	if err := json.Unmarshal(r.Data, &a); err != nil {
		return a, fmt.Errorf("publish %s: %w", m.Subject, err)
	}
	if a.Error != nil {
		return a, fmt.Errorf("publish %s: %w", m.Subject, refused(a.Error))
	}
	return a, nil
}

// away marks the errors of a server that can't be reached.
func away(err error) error {
	for _, e := range []error{nats.ErrNoResponders, nats.ErrTimeout, nats.ErrConnectionClosed, nats.ErrDisconnected,
		nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded, context.DeadlineExceeded, jetstream.ErrNoStreamResponse, jetstream.ErrAsyncPublishTimeout} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrAway, err)
		}
	}
	return err
}

// Codes of nats-server (errors.json): wrong last sequence, its constant form, store failed, resources exceeded.
const (
	codeWrongSequence         = 10071
	codeWrongSequenceConstant = 10164
	codeStoreFailed           = 10077
	codeNoResources           = 10023
	codeStorageExceeded       = 10047
)

func refused(e *jetstream.APIError) error {
	switch e.ErrorCode {
	case codeWrongSequence, codeWrongSequenceConstant:
		return ErrExists
	case codeStoreFailed, codeNoResources, codeStorageExceeded:
		if e.ErrorCode != codeStoreFailed || strings.Contains(e.Description, "maximum") {
			return fmt.Errorf("%w: %s", ErrFull, e.Description)
		}
	}
	return e
}

// Committer turns what many goroutines publish at the same moment into few commits (group commit): each costs the
// stream one fsync, or a dozen's worth, for all that it carries.
type Committer struct {
	publish func(context.Context, []*nats.Msg) ([]uint64, []error)
	in      chan pending
	// inFlight allows two commits under way; meanwhile the next one collects.
	inFlight chan struct{}
	stopped  chan struct{}
}

type pending struct {
	m    *nats.Msg
	done chan<- committed
}

type committed struct {
	seq uint64
	err error
}

// newCommitter makes a committer for the messages of one stream. It works while Run does.
func newCommitter(publish func(context.Context, []*nats.Msg) ([]uint64, []error)) *Committer {
	return &Committer{publish: publish, in: make(chan pending, 4096), inFlight: make(chan struct{}, 2), stopped: make(chan struct{})}
}

// Publish returns when the message is stored, with its sequence.
func (c *Committer) Publish(ctx context.Context, m *nats.Msg) (uint64, error) {
	done := make(chan committed, 1)
	select {
	case c.in <- pending{m, done}:
	case <-c.stopped:
		return 0, ErrAway
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	select {
	case r := <-done:
		return r.seq, r.err
	case <-c.stopped:
		return 0, ErrAway
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Run commits until ctx ends and all that was handed in before is answered.
func (c *Committer) Run(ctx context.Context) {
	defer close(c.stopped)
	last := 0
	for {
		group := c.collect(ctx, last)
		if len(group) == 0 {
			break
		}
		last = len(group)
		go func() { defer func() { <-c.inFlight }(); c.commit(group) }()
	}
	for range cap(c.inFlight) {
		c.inFlight <- struct{}{}
	}
}

// linger is how long a commit waits for company when the one before it had some. Alone, a message waits for nothing.
const linger = time.Millisecond

// collect waits for a first message, then takes what comes until a commit may start. Empty means the end.
func (c *Committer) collect(ctx context.Context, last int) []pending {
	var group []pending
	select {
	case p := <-c.in:
		group = append(group, p)
	case <-ctx.Done():
		group = c.drain(nil)
		if len(group) > 0 {
			c.inFlight <- struct{}{}
		}
		return group
	}
	if last >= minAtomic/2 {
		group = c.wait(group, time.After(linger))
	}
	group = c.drain(group)
	return c.admit(group)
}

// wait collects until the timer or a full group.
func (c *Committer) wait(group []pending, t <-chan time.Time) []pending {
	for len(group) < maxAtomic/2 {
		select {
		case p := <-c.in:
			group = append(group, p)
		case <-t:
			return group
		}
	}
	return group
}

// drain takes what is there.
func (c *Committer) drain(group []pending) []pending {
	for len(group) < maxAtomic/2 {
		select {
		case p := <-c.in:
			group = append(group, p)
		default:
			return group
		}
	}
	return group
}

// admit goes on collecting while two commits are under way.
func (c *Committer) admit(group []pending) []pending {
	for {
		in := c.in
		if len(group) >= maxAtomic/2 {
			in = nil
		}
		select {
		case c.inFlight <- struct{}{}:
			return group
		case p := <-in:
			group = append(group, p)
		}
	}
}

func (c *Committer) commit(group []pending) {
	ms := make([]*nats.Msg, len(group))
	for i, p := range group {
		ms[i] = p.m
	}
	start := time.Now()
	seqs, errs := c.publish(context.Background(), ms)
	commitSeconds.Observe(time.Since(start).Seconds())
	commitMessages.Observe(float64(len(ms)))
	for i, p := range group {
		p.done <- committed{seqs[i], errs[i]}
	}
}

// PostHook puts an event into OUTBOX and hints at it. When it returns, the event is on disk.
func (q *Queue) PostHook(ctx context.Context, tenant, delivery string, data []byte) error {
	if _, errs := q.PublishAll(ctx, []*nats.Msg{HookMsg(tenant, delivery, data)}); errs[0] != nil {
		return fmt.Errorf("queue: post event: %w", errs[0])
	}
	_ = q.cfg.Conn.Publish(HookHintSubject(tenant), []byte(HookSubject(tenant, delivery)))
	return nil
}
