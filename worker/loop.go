package worker

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"lorry/engine"
	"lorry/queue"
)

// lookPatience is how long the engine may take to show its loop: a step, on a slow machine.
const lookPatience = 2 * time.Second

// onPeek answers who wants to see the engine's loop. It may wait: each subscription has a goroutine of its own.
func (w *Worker) onPeek(m *nats.Msg) {
	ctx, cancel := context.WithTimeout(w.hard, lookPatience)
	defer cancel()
	p := queue.Peek{V: queue.V}
	if s, err := w.look(ctx); err != nil {
		p.Error = engine.AsError(err).Message
	} else {
		p.Loop = &s
	}
	b, _ := json.Marshal(p)
	_ = m.Respond(b) // who has gone does not want it
}

func (w *Worker) look(ctx context.Context) (engine.Snapshot, error) {
	e, ok := w.cfg.Engine.(engine.Introspector)
	if !ok {
		return engine.Snapshot{}, errNoLoop
	}
	return e.Snapshot(ctx)
}

var errNoLoop error = engine.Errorf(engine.Invalid, engine.CodeUnsupported, "", "this kind of engine has no loop of ours")

// watchLoop looks each second at the engine's loop, for Prometheus.
func (w *Worker) watchLoop(ctx context.Context) {
	if _, ok := w.cfg.Engine.(engine.Introspector); !ok {
		return
	}
	c := &loopCollector{worker: w.cfg.Name}
	if prometheus.Register(c) == nil {
		defer prometheus.Unregister(c)
	}
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, lookPatience)
		s, err := w.look(within)
		cancel()
		if err == nil {
			c.take(s)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
