package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"lorry/record"
)

const (
	// MaxDelivery is K, the most jobs that one delivery carries.
	MaxDelivery = 32
	// maxDeliveryBytes keeps a delivery under NATS' default payload limit of 1 MiB.
	maxDeliveryBytes = 768 << 10
)

// Parcel is an encoded delivery of Jobs jobs.
type Parcel struct {
	Data []byte
	Jobs int
}

// Feed puts deliveries into the ready window of a lane and base, as few commits as it takes. seqs (in JOBS) and errs are
// by index.
func (q *Queue) Feed(ctx context.Context, l Lane, b string, ps []Parcel) (seqs []uint64, errs []error) {
	ms := make([]*nats.Msg, len(ps))
	for i, p := range ps {
		ms[i] = message(JobsSubject(l, b), p.Data)
	}
	return q.PublishAll(ctx, ms)
}

// Pack makes deliveries of encoded jobs (Job.Encode) of one tenant, base and adapter, in order, of at most k jobs each
// (MaxDelivery for 0) and of a size that fits a message. The jobs are not read: they go on as they came.
func Pack(jobs [][]byte, k int) (out []Parcel) {
	if k <= 0 || k > MaxDelivery {
		k = MaxDelivery
	}
	for len(jobs) > 0 {
		n, size := 0, 0
		for n < min(k, len(jobs)) && (n == 0 || size+len(jobs[n]) <= maxDeliveryBytes) {
			size += len(jobs[n])
			n++
		}
		out, jobs = append(out, Parcel{pack(jobs[:n], size), n}), jobs[n:]
	}
	return out
}

// pack is the encoding of a Delivery, of jobs that are encoded already.
func pack(jobs [][]byte, size int) []byte {
	b := fmt.Appendf(make([]byte, 0, size+len(jobs)+32), `{"v":%d,"jobs":[`, V)
	for i, j := range jobs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, j...)
	}
	return append(b, "]}"...)
}

// Lease is a delivery that this process holds until it acknowledges or hands it back.
type Lease struct {
	Delivery
	// Seq is its sequence in JOBS: the same one again is a redelivery.
	Seq uint64
	// Deliveries is how often it was handed out, this time included.
	Deliveries uint64
	// Behind is how many deliveries were ready behind it.
	Behind int
	msg    jetstream.Msg
}

// Ack ends the delivery. Only after a committed record, or a delivery that holds the job elsewhere, is in sight: a late
// acknowledgement deletes the message under its new owner.
func (l *Lease) Ack() error { return l.msg.Ack() }

// Extend holds the lease for another AckWait.
func (l *Lease) Extend() error { return l.msg.InProgress() }

// Return hands the delivery back at once.
func (l *Lease) Return() error { return l.msg.Nak() }

// Puller takes deliveries of one lane and base.
type Puller struct {
	q    *Queue
	lane Lane
	b    string
	c    jetstream.Consumer
}

// Puller looks the consumer up at the first pull: SetupBase made it.
func (q *Queue) Puller(l Lane, b string) *Puller { return &Puller{q: q, lane: l, b: b} }

// Pull takes up to n deliveries that are ready now, or waits up to wait for a first one. None and no error means that
// there was none. It asks no more than it is told: what is pulled is held.
func (p *Puller) Pull(ctx context.Context, n int, wait time.Duration) ([]*Lease, error) {
	if err := p.look(ctx); err != nil {
		return nil, err
	}
	out, err := p.take(p.c.FetchNoWait(n))
	if err != nil || len(out) > 0 || ctx.Err() != nil {
		return out, err
	}
	return p.take(p.c.Fetch(1, jetstream.FetchMaxWait(wait)))
}

// Pending is how many deliveries are ready, and how many are held by workers.
func (p *Puller) Pending(ctx context.Context) (ready, held int, err error) {
	if err := p.look(ctx); err != nil {
		return 0, 0, err
	}
	i, err := p.c.Info(ctx)
	if err != nil {
		p.c = nil
		return 0, 0, fmt.Errorf("queue: consumer %s: %w", Durable(p.lane, p.b), away(err))
	}
	return int(i.NumPending), i.NumAckPending, nil
}

func (p *Puller) look(ctx context.Context) error {
	if p.c != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.q.cfg.Timeout)
	defer cancel()
	c, err := p.q.js.Consumer(ctx, StreamJobs, Durable(p.lane, p.b))
	if err != nil {
		return fmt.Errorf("queue: consumer %s: %w", Durable(p.lane, p.b), away(err))
	}
	p.c = c
	return nil
}

// take reads a fetch to its end. A fetch that fails is reopened from the look-up on.
func (p *Puller) take(b jetstream.MessageBatch, err error) ([]*Lease, error) {
	if err != nil {
		p.c = nil
		return nil, fmt.Errorf("queue: pull %s: %w", Durable(p.lane, p.b), away(err))
	}
	var out []*Lease
	for m := range b.Messages() {
		if l := p.lease(m); l != nil {
			out = append(out, l)
		}
	}
	if err := b.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
		p.c = nil
		if len(out) == 0 {
			return nil, fmt.Errorf("queue: pull %s: %w", Durable(p.lane, p.b), away(err))
		}
	}
	return out, nil
}

// lease reads a message. One that nobody can read is put with the dead letters as it is, and ended.
func (p *Puller) lease(m jetstream.Msg) *Lease {
	md, err := m.Metadata()
	if err != nil {
		return nil
	}
	l := &Lease{Seq: md.Sequence.Stream, Deliveries: md.NumDelivered, Behind: int(md.NumPending), msg: m}
	if err := record.Unmarshal(m.Data(), &l.Delivery); err != nil || len(l.Jobs) == 0 || l.V > V {
		p.q.buryUnreadable(m, err)
		return nil
	}
	return l
}

func (q *Queue) buryUnreadable(m jetstream.Msg, why error) {
	ctx, cancel := context.WithTimeout(context.Background(), q.cfg.Timeout)
	defer cancel()
	md, _ := m.Metadata()
	s := fmt.Sprintf("dead.unreadable.%s.%d", StreamJobs, md.Sequence.Stream)
	if _, err := q.request(ctx, message(s, m.Data(), "Lorry-Error", fmt.Sprint(why))); err != nil {
		return // stays in JOBS, comes again
	}
	q.cfg.Log.Error().AnErr("why", why).Str("dead", s).Msg("unreadable delivery buried")
	_ = m.Term()
}
