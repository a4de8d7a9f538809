package scheduler

import (
	"bytes"
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
	"lorry/result"
	"lorry/webhook"
)

var announcedTotal = promauto.NewCounterVec(prometheus.CounterOpts{Name: "lorry_webhook_events_total",
	Help: "Events put into the outbox, by type."}, []string{"type"})

// announcer turns verdicts into events: RESULTS → OUTBOX, then a hint to asynq. A verdict is acknowledged when its event
// is in OUTBOX, on disk. What asynq is not told, or forgets, the sweep finds.
//
// Several may run: they share the durable. An event that two of them announce has one ID and one subject, and stands in
// OUTBOX once.
type announcer struct {
	q     *queue.Queue
	later *later
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

// announced is a verdict's message and its event.
type announced struct {
	m jetstream.Msg
	o webhook.Outgoing
}

func (a *announcer) group(ctx context.Context, ms []jetstream.Msg) {
	ctx = context.WithoutCancel(ctx) // what is begun is finished; each step has its timeout
	var wanted []announced
	for _, m := range ms {
		if o, ok := a.read(m); ok {
			wanted = append(wanted, announced{m, o})
		}
	}
	if len(wanted) > 0 {
		a.hint(ctx, a.store(ctx, wanted))
	}
}

// hookMark stands in every verdict that wants an event: in a string of JSON its quotes would be escaped. It spares the
// decoding of all the others.
var hookMark = []byte(`"webhook":`)

// read is the event that a message asks for. Messages that ask for none are acknowledged here.
func (a *announcer) read(m jetstream.Msg) (o webhook.Outgoing, ok bool) {
	if !bytes.Contains(m.Data(), hookMark) {
		_ = m.Ack()
		return o, false
	}
	v, err := result.Decode(m.Data())
	if err == nil && v.Webhook != nil {
		o, err = newOutgoing(v, time.Now())
	}
	switch {
	case err != nil:
		a.unreadable(m, err)
	case v.Webhook == nil:
		_ = m.Ack()
	default:
		return o, true
	}
	return o, false
}

// unreadable verdicts may be a newer version's: a newer scheduler gets the chance to take them.
func (a *announcer) unreadable(m jetstream.Msg, err error) {
	if d, merr := m.Metadata(); merr == nil && d.NumDelivered >= giveUpReading {
		a.log.Error().Err(err).Str("subject", m.Subject()).Msg("verdict is unreadable, its event is not sent")
		_ = m.Term()
		return
	}
	a.log.Warn().Err(err).Str("subject", m.Subject()).Msg("verdict is unreadable here")
	_ = m.NakWithDelay(announceWait)
}

// store puts events into OUTBOX, and acknowledges the verdicts whose event is there. The others come again.
func (a *announcer) store(ctx context.Context, all []announced) (there []announced) {
	ms := make([]*nats.Msg, len(all))
	for i, x := range all {
		ms[i] = outboxMsg(x.o)
	}
	_, errs := a.q.PublishAll(ctx, ms)
	for i, x := range all {
		if err := errs[i]; err != nil && !errors.Is(err, queue.ErrExists) {
			a.log.Warn().Err(err).Str("event", x.o.ID).Msg("event is not in the outbox")
			_ = x.m.NakWithDelay(time.Second)
			continue
		}
		_ = x.m.Ack()
		announcedTotal.WithLabelValues(x.o.Type).Inc()
		there = append(there, x)
	}
	return there
}

// outboxMsg is refused where the event stands already, and a duplicate just behind its delivery.
func outboxMsg(o webhook.Outgoing) *nats.Msg {
	m := nats.NewMsg(queue.HookSubject(o.Tenant, o.ID))
	m.Data, _ = marshal(o) // its own types, and a body that is JSON
	m.Header.Set(jetstream.MsgIDHeader, o.ID)
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
	return m
}

// hint tells asynq. What it can't be told is left to the sweep.
func (a *announcer) hint(ctx context.Context, all []announced) {
	ctx, cancel := context.WithTimeout(ctx, hintTime)
	defer cancel()
	var wg sync.WaitGroup
	sem := make(chan struct{}, hintAtOnce)
	for _, x := range all {
		sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-sem }()
			if err := a.later.enqueueHook(ctx, x.o.Tenant, x.o.ID); err != nil {
				a.log.Warn().Err(err).Str("event", x.o.ID).Msg("asynq is not told of an event: the sweep will")
			}
		})
	}
	wg.Wait()
}

// hookTask is the payload of an event's task: where the event stands.
type hookTask struct {
	V      int    `json:"v"`
	Tenant string `json:"tenant"`
	Event  string `json:"event"`
}

func (l *later) enqueueHook(ctx context.Context, tenant, event string) error {
	b, err := json.Marshal(hookTask{1, tenant, event})
	if err != nil {
		return fmt.Errorf("scheduler: event %s: %w", event, err)
	}
	return l.enqueue(ctx, hookKind, hooksQueue, event, b)
}
