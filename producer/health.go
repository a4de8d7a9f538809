package producer

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"lorry/queue"
)

// readyTimeout is below the patience of the probes that people configure.
const readyTimeout = 3 * time.Second

// bound is a context for a step with the stores.
func (s *Server) bound(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), s.cfg.Timeout)
}

// healthz says that the process answers, and nothing else: restarting it for a store that is away would not help.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// readyz is 200 exactly when work is accepted, and Config.Ready agrees.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), min(s.cfg.Timeout, readyTimeout))
	defer cancel()
	if err := s.ready(ctx); err != nil {
		e := asAPI(err)
		if e.Status != http.StatusServiceUnavailable {
			e = unavailable("not_ready", "%v", err)
		}
		e.write(w)
		return nil
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	return nil
}

func (s *Server) ready(ctx context.Context) error {
	if s.draining.Load() {
		return unavailable(codeDraining, "This server is shutting down.")
	}
	select {
	case <-s.cfg.Access.Ready():
	default:
		return unavailable(codeAway, "The keys are not loaded yet.")
	}
	select {
	case <-s.cfg.Registry.Ready():
	default:
		return unavailable(codeAway, "The models are not loaded yet.")
	}
	if err := s.queueReady(ctx); err != nil {
		return err
	}
	if err := s.cfg.Results.Ready(ctx); err != nil {
		return err
	}
	if s.cfg.Ready != nil {
		return s.cfg.Ready(ctx)
	}
	return nil
}

// queueReady asks for the stream that every job goes through.
func (s *Server) queueReady(ctx context.Context) error {
	if !s.cfg.Queue.Conn().IsConnected() {
		return queue.ErrAway
	}
	_, err := s.cfg.Queue.JS().Stream(ctx, queue.StreamJobs)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return unavailable("not_ready", "The queue's streams are not set up yet: start lorry up or lorry scheduler.")
	}
	return store(err)
}

// store marks the errors of NATS that came through packages without sentinels of their own.
func store(err error) error {
	for _, e := range []error{nats.ErrNoResponders, nats.ErrTimeout, nats.ErrConnectionClosed, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		context.DeadlineExceeded, jetstream.ErrNoStreamResponse, jetstream.ErrJetStreamNotEnabled} {
		if errors.Is(err, e) {
			return errors.Join(queue.ErrAway, err)
		}
	}
	return err
}

// tooLarge says whether NATS refuses the job's size.
func tooLarge(err error) bool { return errors.Is(err, nats.ErrMaxPayload) }
