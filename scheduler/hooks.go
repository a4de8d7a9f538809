package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"

	"lorry/queue"
	"lorry/result"
	"lorry/webhook"
)

var (
	attemptsTotal = promauto.NewCounterVec(prometheus.CounterOpts{Name: "lorry_webhook_attempts_total",
		Help: "Attempts to deliver an event, by result: delivered, failed, gone, refused, broken, given up."}, []string{"result"})
	sentSeconds = promauto.NewHistogram(prometheus.HistogramOpts{Name: "lorry_webhook_sent_seconds",
		Help:    "Time from a job's end to the start of the first attempt to tell of it.",
		Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 60}})
)

const (
	// hookKind is asynq's type of the task that delivers one event.
	hookKind = "webhook"
	// removeFor is how long a delivered event's removal from OUTBOX is tried: until it is gone, it may be sent again.
	removeFor = 10 * time.Second
	// askFor bounds a question to NATS: with the task's far deadline, the client would wait that long for a lost answer.
	askFor = 5 * time.Second
)

// hooks delivers events. An event's message in OUTBOX is the intent: it is gone once the event is delivered, or given
// up, and a task that finds none has nothing to do.
type hooks struct {
	q         *queue.Queue
	results   *result.Store
	attempts  webhook.Log
	sealer    *webhook.Sealer
	secrets   *webhook.Secrets
	endpoints *webhook.Endpoints
	sender    *webhook.Sender
	hosts     hosts
	streaks   streaks
	// sent are events that were delivered but stand in OUTBOX still, since NATS did not answer: not again, please.
	sent sync.Map
	log  zerolog.Logger
}

// deliver is a task: one attempt for one event.
func (h *hooks) deliver(ctx context.Context, payload []byte, failed int) error {
	var t hookTask
	if err := json.Unmarshal(payload, &t); err != nil {
		h.log.Error().Err(err).Msg("webhook task is unreadable") // the sweep hands its event in again
		return nil
	}
	m, ok, err := h.q.Last(ctx, queue.StreamOutbox, queue.HookSubject(t.Tenant, t.Event))
	if err != nil {
		return soon(err)
	}
	if !ok {
		return nil
	}
	if _, done := h.sent.Load(t.Event); done {
		return h.remove(ctx, m, t.Event)
	}
	var o webhook.Outgoing
	if err := json.Unmarshal(m.Data, &o); err != nil || o.V > webhook.V {
		return &again{after: time.Minute, quiet: true, err: fmt.Errorf("scheduler: event %s is unreadable here (version %d): %w", t.Event, o.V, err)}
	}
	if err := h.compose(ctx, &o); err != nil {
		if errors.Is(err, queue.ErrAway) {
			return soon(err)
		}
		return h.conclude(ctx, m, &o, failed+1, time.Now(), webhook.Outcome{Kind: webhook.Broken, Err: err}, true)
	}
	if o.Endpoint != "" {
		return h.toEndpoint(ctx, m, &o, failed+1)
	}
	return h.attempt(ctx, m, &o, failed+1, func() ([]string, error) { return h.keys(ctx, &o) })
}

// compose makes the body of a replay.
func (h *hooks) compose(ctx context.Context, o *webhook.Outgoing) error {
	if o.Body != nil {
		return nil
	}
	m, ok, err := h.results.Record(ctx, o.Tenant, o.Job)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("scheduler: %s: %w", o.Job, webhook.ErrForgotten)
	}
	f, err := readFact(m.Subject, m.Data)
	if err != nil {
		return err
	}
	return f.refill(o)
}

// soon is a task that one of our own servers kept from trying.
func soon(err error) error { return &again{after: 2 * time.Second, quiet: true, err: err} }

// attempt makes one, where the receiver has room for it.
func (h *hooks) attempt(ctx context.Context, m queue.Stored, o *webhook.Outgoing, n int, keys func() ([]string, error)) error {
	secrets, err := keys()
	if errors.Is(err, queue.ErrAway) {
		return soon(err)
	}
	release, wait := h.hosts.enter(o.Target())
	if release == nil {
		return &again{after: wait, quiet: true, err: errors.New("the receiver is busy with other events")}
	}
	start := time.Now()
	out := webhook.Outcome{Kind: webhook.Broken, Err: err}
	if err == nil {
		out = h.sender.Send(ctx, webhook.Delivery{ID: o.ID, URL: o.URL, Body: o.Body, Secrets: secrets})
	}
	release(out)
	if n == 1 && o.Ended != 0 {
		sentSeconds.Observe(start.Sub(time.UnixMilli(o.Ended)).Seconds())
	}
	h.judge(ctx, o, start, out)
	return h.conclude(ctx, m, o, n, start, out, false)
}

// keys are the secrets that sign an event. Any error but ErrAway is for good, or until the operator does something.
func (h *hooks) keys(ctx context.Context, o *webhook.Outgoing) ([]string, error) {
	if o.Secret != "" {
		s, err := h.sealer.Open(webhook.TenantContext(o.Tenant), o.Secret)
		return []string{s}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	all, err := h.secrets.Signing(ctx)
	if err != nil && !errors.Is(err, webhook.ErrSealed) && !errors.Is(err, webhook.ErrSecret) {
		err = fmt.Errorf("%w: %w", queue.ErrAway, err)
	}
	return all, err
}

// conclude decides what an attempt means: the event is over, in any case where last says so, or comes again.
func (h *hooks) conclude(ctx context.Context, m queue.Stored, o *webhook.Outgoing, n int, start time.Time, out webhook.Outcome, last bool) error {
	a := webhook.Attempt{V: webhook.V, At: start.UnixMilli(), Event: o.ID, Type: o.Type, Job: o.Job, Delivery: o.Name(), Endpoint: o.Endpoint, Target: o.Target(),
		Result: out.Kind.String(), Status: out.Status, TookMS: out.Took.Milliseconds(), Attempt: n}
	if out.Err != nil {
		a.Error = out.Err.Error()
	}
	over := last || out.Kind == webhook.Delivered || out.Kind == webhook.Gone
	wait, ok := webhook.Next(n, time.Since(time.UnixMilli(o.Created)), out.After, rand.Float64())
	switch {
	case over:
	case ok:
		a.NextIn = int64(wait.Seconds())
	default:
		a.Result, over = "given up", true
	}
	h.record(ctx, o, a)
	if over {
		h.sent.Store(o.Name(), nil)
		return h.remove(ctx, m, o.Name())
	}
	return &again{after: wait, err: out.Err}
}

// remove takes an event out of OUTBOX. It does not end with the task's context: an event that was sent is to be gone.
func (h *hooks) remove(ctx context.Context, m queue.Stored, event string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeFor)
	defer cancel()
	for {
		err := h.delete(ctx, m)
		if err == nil {
			h.sent.Delete(event)
			return nil
		}
		if ctx.Err() != nil {
			h.log.Warn().Err(err).Str("event", event).Msg("event that is over is still in the outbox")
			return soon(err)
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// delete is without effect the second time.
func (h *hooks) delete(ctx context.Context, m queue.Stored) error {
	s, err := h.q.JS().Stream(ctx, queue.StreamOutbox)
	if err == nil {
		err = s.DeleteMsg(ctx, m.Seq)
	}
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, there, lerr := h.q.Last(ctx, queue.StreamOutbox, m.Subject); lerr == nil && !there {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("scheduler: remove %s: %w", m.Subject, err)
	}
	return nil
}

// record keeps an attempt where people look for it: log, metrics, and the tenant's list in Redis (a view: it may be lost).
func (h *hooks) record(ctx context.Context, o *webhook.Outgoing, a webhook.Attempt) {
	attemptsTotal.WithLabelValues(a.Result).Inc()
	l := h.log.Info()
	if a.Error != "" {
		l = h.log.Warn().Str("error", a.Error)
	}
	if a.Endpoint != "" {
		l.Str("endpoint", a.Endpoint)
	}
	l.Str("event", a.Event).Str("job", a.Job).Str("tenant", o.Tenant).Str("target", a.Target).Str("result", a.Result).Int("status", a.Status).
		Int("attempt", a.Attempt).Int64("took_ms", a.TookMS).Int64("next_in", a.NextIn).Msg("webhook")
	if err := h.attempts.Keep(ctx, o.Tenant, a); err != nil {
		h.log.Debug().Err(err).Msg("attempt is not listed")
	}
}
