package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"

	"lorry/queue"
	"lorry/webhook"
)

var announcedTotal = promauto.NewCounterVec(prometheus.CounterOpts{Name: "lorry_webhook_events_total",
	Help: "Events put into the outbox, by type."}, []string{"type"})

// announcer turns the ends of jobs and batches into events: RESULTS → OUTBOX, then a hint to asynq. A record is
// acknowledged when its events are in OUTBOX, on disk, one for each receiver. What asynq is not told, or forgets, the
// sweep finds.
//
// Several may run: they share the durable. An event that two of them announce has one ID and one subject a receiver, and
// stands in OUTBOX once.
type announcer struct {
	q     *queue.Queue
	later *later
	book  *webhook.Book
	log   zerolog.Logger
}

const (
	// announceAtOnce bounds what one commit to OUTBOX holds.
	announceAtOnce = 256
	// announceWait is how long a verdict may take to be in OUTBOX before another announcer gets it.
	announceWait = 30 * time.Second
	// hintAtOnce is how many hints to asynq are under way; hintTime bounds all of a group's.
	hintAtOnce = 16
	hintTime   = 3 * time.Second
	// giveUpReading is behind how many deliveries a verdict that can't be read is let go.
	giveUpReading = 20
)

// setup makes the durable. It is an admin step; doing it again changes nothing.
func (a *announcer) setup(ctx context.Context) error {
	_, err := a.q.JS().CreateOrUpdateConsumer(ctx, queue.StreamResults, jetstream.ConsumerConfig{
		Durable: queue.DurableAnnounce, Description: "verdicts whose events are not in OUTBOX yet",
		FilterSubjects: []string{"results.single.>", "results.end.>"}, AckPolicy: jetstream.AckExplicitPolicy, AckWait: announceWait,
		MaxDeliver: -1, MaxAckPending: 16 * announceAtOnce,
	})
	if err != nil {
		return fmt.Errorf("scheduler: set up consumer %s: %w", queue.DurableAnnounce, err)
	}
	return nil
}

// run announces until ctx ends.
func (a *announcer) run(ctx context.Context) error {
	stop, err := a.listen(ctx)
	if err != nil {
		return err // the connection is closed
	}
	defer stop()
	for ctx.Err() == nil {
		if err := a.consume(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn().Err(err).Msg("events are not announced for now")
			pause(ctx, time.Second)
		}
	}
	return nil
}

// consume works on what the server sends, as it comes, until ctx or the subscription ends.
func (a *announcer) consume(ctx context.Context) error {
	c, err := a.q.JS().Consumer(ctx, queue.StreamResults, queue.DurableAnnounce)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return a.setup(ctx)
	}
	if err != nil {
		return fmt.Errorf("scheduler: consumer %s: %w", queue.DurableAnnounce, err)
	}
	in := make(chan jetstream.Msg, announceAtOnce)
	sub, err := c.Consume(func(m jetstream.Msg) {
		select {
		case in <- m:
		case <-ctx.Done(): // unacknowledged: it comes again
		}
	}, jetstream.PullMaxMessages(announceAtOnce), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		a.log.Debug().Err(err).Msg("announce consumer")
	}))
	if err != nil {
		return fmt.Errorf("scheduler: consume %s: %w", queue.DurableAnnounce, err)
	}
	defer sub.Stop()
	for {
		select {
		case m := <-in:
			a.group(ctx, collect(m, in))
		case <-sub.Closed():
			return errors.New("scheduler: the announce subscription ended")
		case <-ctx.Done():
			return nil
		}
	}
}

// collect takes what is there already: alone, a verdict waits for no company.
func collect(m jetstream.Msg, in <-chan jetstream.Msg) []jetstream.Msg {
	out := []jetstream.Msg{m}
	for len(out) < announceAtOnce {
		select {
		case m := <-in:
			out = append(out, m)
		default:
			return out
		}
	}
	return out
}

// announced is a record's message and its events, one for each receiver.
type announced struct {
	m   jetstream.Msg
	out []webhook.Outgoing
}

func (a *announcer) group(ctx context.Context, ms []jetstream.Msg) {
	ctx = context.WithoutCancel(ctx) // what is begun is finished; each step has its timeout
	page, err := a.page(ctx)
	if err != nil {
		a.log.Warn().Err(err).Msg("webhook endpoints can't be read, events wait")
		for _, m := range ms {
			_ = m.NakWithDelay(time.Second)
		}
		return
	}
	var wanted []announced
	for _, m := range ms {
		if out := a.read(m, page); len(out) > 0 {
			wanted = append(wanted, announced{m, out})
		}
	}
	if len(wanted) > 0 {
		a.hint(ctx, a.store(ctx, wanted))
	}
}

func (a *announcer) page(ctx context.Context) (webhook.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	return a.book.Page(ctx)
}

// read are the events that a message asks for. Messages that ask for none are acknowledged here.
func (a *announcer) read(m jetstream.Msg, page webhook.Page) []webhook.Outgoing {
	if !heard(m.Subject(), m.Data(), page) {
		_ = m.Ack()
		return nil
	}
	f, err := readFact(m.Subject(), m.Data())
	var out []webhook.Outgoing
	if err == nil {
		out, err = f.outgoing(page, time.Now())
	}
	if err != nil {
		a.unreadable(m, err)
		return nil
	}
	if len(out) == 0 {
		_ = m.Ack()
	}
	return out
}

// unreadable records may be a newer version's: a newer scheduler gets the chance to take them.
func (a *announcer) unreadable(m jetstream.Msg, err error) {
	if d, merr := m.Metadata(); merr == nil && d.NumDelivered >= giveUpReading {
		a.log.Error().Err(err).Str("subject", m.Subject()).Msg("record is unreadable, its event is not sent")
		_ = m.Term()
		return
	}
	a.log.Warn().Err(err).Str("subject", m.Subject()).Msg("record is unreadable here")
	_ = m.NakWithDelay(announceWait)
}

// store puts events into OUTBOX, and acknowledges the records whose events are all there. The others come again.
func (a *announcer) store(ctx context.Context, all []announced) (there []webhook.Outgoing) {
	var ms []*nats.Msg
	for _, x := range all {
		for i := range x.out {
			ms = append(ms, outboxMsg(&x.out[i]))
		}
	}
	_, errs := a.q.PublishAll(ctx, ms)
	for _, x := range all {
		err := refusedAny(errs[:len(x.out)])
		errs = errs[len(x.out):]
		if err != nil {
			a.log.Warn().Err(err).Str("event", x.out[0].ID).Msg("event is not in the outbox")
			_ = x.m.NakWithDelay(time.Second)
			continue
		}
		_ = x.m.Ack()
		for i := range x.out {
			announcedTotal.WithLabelValues(x.out[i].Type).Inc()
		}
		there = append(there, x.out...)
	}
	return there
}

// refusedAny is why any of the messages is not there.
func refusedAny(errs []error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, queue.ErrExists) {
			return err
		}
	}
	return nil
}

// outboxMsg is refused where the event stands already, and a duplicate just behind its delivery.
func outboxMsg(o *webhook.Outgoing) *nats.Msg { return queue.HookMsg(o.Tenant, o.Name(), o.Encode()) }

// hint tells asynq. What it can't be told is left to the sweep.
func (a *announcer) hint(ctx context.Context, all []webhook.Outgoing) {
	ctx, cancel := context.WithTimeout(ctx, hintTime)
	defer cancel()
	var wg sync.WaitGroup
	sem := make(chan struct{}, hintAtOnce)
	for i := range all {
		o := &all[i]
		sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-sem }()
			if err := a.later.enqueueHook(ctx, o.Tenant, o.Name()); err != nil {
				a.log.Warn().Err(err).Str("event", o.Name()).Msg("asynq is not told of an event: the sweep will")
			}
		})
	}
	wg.Wait()
}

// listen takes hints from those who put events into OUTBOX themselves: tests and replays that an owner asked for. One
// that is lost is found by the sweep.
func (a *announcer) listen(ctx context.Context) (stop func(), err error) {
	s, err := a.q.Conn().QueueSubscribe(queue.HookHintSubject("*"), "hooks", func(m *nats.Msg) {
		tenant, delivery, ok := parseHook(string(m.Data))
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hintTime)
		defer cancel()
		if err := a.later.enqueueHook(ctx, tenant, delivery); err != nil {
			a.log.Warn().Err(err).Str("event", delivery).Msg("asynq is not told of an event: the sweep will")
		}
	})
	if err != nil {
		return nil, fmt.Errorf("scheduler: listen to hints: %w", err)
	}
	return func() { _ = s.Unsubscribe() }, nil
}

// hookTask is the payload of an event's task: where the event stands.
type hookTask struct {
	V      int    `json:"v"`
	Tenant string `json:"tenant"`
	// Event is the last part of its subject.
	Event string `json:"event"`
}

func (l *later) enqueueHook(ctx context.Context, tenant, delivery string) error {
	b, err := json.Marshal(hookTask{1, tenant, delivery})
	if err != nil {
		return fmt.Errorf("scheduler: event %s: %w", delivery, err)
	}
	return l.enqueue(ctx, hookKind, hooksQueue, delivery, b)
}
