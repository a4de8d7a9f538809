package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"lorry/queue"
	"lorry/webhook"
)

const (
	// breakAt is how many attempts in a row fail before an endpoint is left alone for a while.
	breakAt = 5
	// pausedFor is how often an event looks whether its endpoint was resumed.
	pausedFor = 30 * time.Second
	// probeWait is how long others wait while one event tries whether an endpoint is well again.
	probeWait = 2 * time.Second
)

// toEndpoint is an attempt for an endpoint as it is now, if it may have one now.
func (h *hooks) toEndpoint(ctx context.Context, m queue.Stored, o *webhook.Outgoing, n int) error {
	asked, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	e, err := h.endpoints.Get(asked, o.Tenant, o.Endpoint)
	switch {
	case errors.Is(err, webhook.ErrNoEndpoint):
		h.log.Info().Str("event", o.ID).Str("endpoint", o.Endpoint).Msg("event is dropped: its endpoint was deleted")
		return h.remove(ctx, m, o.Name())
	case err != nil:
		return soon(err)
	}
	o.URL = e.URL
	if e.Status == webhook.Disabled {
		return h.conclude(ctx, m, o, n, time.Now(), webhook.Outcome{Kind: webhook.Gone, Err: errors.New("the endpoint is disabled")}, true)
	}
	done, wait := h.streaks.enter(&e, time.Now())
	if done == nil {
		return h.heldBack(ctx, m, o, n, wait)
	}
	defer done()
	return h.attempt(ctx, m, o, n, func() ([]string, error) { return h.endpoints.Signing(&e) })
}

// heldBack waits without an attempt, until the event is too old.
func (h *hooks) heldBack(ctx context.Context, m queue.Stored, o *webhook.Outgoing, n int, wait time.Duration) error {
	if time.Since(time.UnixMilli(o.Created)) >= webhook.GiveUp {
		return h.conclude(ctx, m, o, n, time.Now(), webhook.Outcome{Kind: webhook.Retry, Err: fmt.Errorf("the endpoint took no events for %s", webhook.GiveUp)}, false)
	}
	return &again{after: wait, quiet: true, err: errors.New("the endpoint is paused")}
}

// judge tells an endpoint's record what an attempt means for it. What can't be written now the next attempt will.
func (h *hooks) judge(ctx context.Context, o *webhook.Outgoing, start time.Time, out webhook.Outcome) {
	if o.Endpoint == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askFor)
	defer cancel()
	var err error
	switch n, since, sick := h.streaks.note(o.Endpoint, start, out.Kind == webhook.Delivered); {
	case out.Kind == webhook.Gone:
		err = h.endpoints.Gone(ctx, o.Tenant, o.Endpoint)
	case out.Kind == webhook.Delivered && sick:
		err = h.endpoints.Heal(ctx, o.Tenant, o.Endpoint)
	case out.Kind != webhook.Delivered && (sick || n >= breakAt):
		err = h.endpoints.Fail(ctx, o.Tenant, o.Endpoint, since, out.Err.Error())
	}
	if err != nil && !errors.Is(err, webhook.ErrNoEndpoint) {
		h.log.Warn().Err(err).Str("endpoint", o.Endpoint).Msg("endpoint's health is not recorded")
	}
}

// streaks are how endpoints fared of late in this process. The zero value is ready.
type streaks struct {
	mu sync.Mutex
	m  map[string]*streak
}

type streak struct {
	failed int
	since  time.Time
	// sick says that the record says so; probing that one event tries whether that is still true.
	sick, probing bool
	busy          int
}

// enter takes an attempt's place at an endpoint; done gives it back. Without one done is nil, and wait says when to ask
// again: it is paused, or failing and not to be tried yet, or being tried.
func (s *streaks) enter(e *webhook.Endpoint, now time.Time) (done func(), wait time.Duration) {
	if e.Status == webhook.Paused {
		return nil, pausedFor + rand.N(pausedFor)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.of(e.ID)
	x.sick = e.Failing != nil
	if !x.sick {
		x.busy++
		return func() { s.leave(x, false) }, 0
	}
	if left := time.UnixMilli(e.Failing.Until).Sub(now); left > 0 {
		return nil, left + rand.N(probeWait)
	}
	if x.probing {
		return nil, probeWait + rand.N(probeWait)
	}
	x.probing = true
	x.busy++
	return func() { s.leave(x, true) }, 0
}

func (s *streaks) of(id string) *streak {
	if s.m == nil {
		s.m = map[string]*streak{}
	}
	x := s.m[id]
	if x == nil {
		s.forget()
		x = &streak{}
		s.m[id] = x
	}
	return x
}

// forget drops what says nothing, once there are many.
func (s *streaks) forget() {
	if len(s.m) < manyHosts {
		return
	}
	for id, x := range s.m {
		if x.busy == 0 && x.failed == 0 {
			delete(s.m, id)
		}
	}
}

func (s *streaks) leave(x *streak, probe bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.busy--
	if probe {
		x.probing = false
	}
}

// note counts an attempt: n failed in a row since then; sick says that the record was to be looked at.
func (s *streaks) note(id string, at time.Time, good bool) (n int, since time.Time, sick bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.of(id)
	if good {
		x.failed = 0
		return 0, at, x.sick
	}
	if x.failed == 0 {
		x.since = at
	}
	x.failed++
	return x.failed, x.since, x.sick
}
