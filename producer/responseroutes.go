package producer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

func (s *Server) responseRoutes(mux *http.ServeMux) {
	for pattern, h := range map[string]handler{
		"POST /v1/responses":                 s.work(readResponses),
		"GET /v1/responses":                  s.connect,
		"POST /v1/responses/input_tokens":    s.work(readInputTokens),
		"POST /v1/responses/compact":         s.work(readCompact),
		"GET /v1/responses/{id}":             s.getResponse,
		"DELETE /v1/responses/{id}":          s.deleteResponse,
		"POST /v1/responses/{id}/cancel":     s.cancelResponse,
		"GET /v1/responses/{id}/input_items": s.responseItems,
	} {
		mux.Handle(pattern, s.answer(h))
	}
}

// Setup makes what the API keeps by itself: the buckets of stored responses and chats. It is an admin step; doing it again
// changes nothing.
func (s *Server) Setup(ctx context.Context) error {
	return errors.Join(s.responses.setup(ctx), s.chats.setup(ctx))
}

func noResponse(err error, id string) error {
	if errors.Is(err, errNoRecord) {
		return &apiError{Status: http.StatusNotFound, Type: typeInvalid, Code: codeNotFound, Param: "id", Message: fmt.Sprintf("Response with id '%s' not found.", clip(id))}
	}
	return store(err)
}

// onResponse is a handler that works on the response which the path names.
func (s *Server) onResponse(r *http.Request, do func(ctx context.Context, tenant string, found *stored) error) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	found, err := s.response(ctx, who.Tenant, r.PathValue("id"))
	if err != nil {
		return noResponse(err, r.PathValue("id"))
	}
	return do(ctx, who.Tenant, found)
}

// getResponse shows a response, or streams it from its start, or from behind an event.
func (s *Server) getResponse(w http.ResponseWriter, r *http.Request) error {
	stream, after, err := readResponseQuery(r)
	if err != nil {
		return err
	}
	var found *stored
	var tenant string
	err = s.onResponse(r, func(_ context.Context, t string, f *stored) error {
		found, tenant = f, t
		return nil
	})
	if err != nil {
		return err
	}
	if stream {
		return s.streamResponse(w, r, tenant, found, after)
	}
	writeJSON(w, http.StatusOK, found.body())
	return nil
}

func readResponseQuery(r *http.Request) (stream bool, after int, err error) {
	q, after := r.URL.Query(), -1
	if err := onlyQuery(q, "stream", "starting_after", "include", "include[]", "include_obfuscation"); err != nil {
		return false, after, err
	}
	if q.Has("stream") {
		if stream, err = strconv.ParseBool(q.Get("stream")); err != nil {
			return false, after, refuse(codeType, "stream", "Invalid type for 'stream': expected a boolean, but got '%s' instead.", clip(q.Get("stream")))
		}
	}
	if q.Has("starting_after") {
		after, err = wholeNumber("starting_after", q.Get("starting_after"), 0, 1<<40)
	}
	return stream, after, err
}

// streamResponse tells a stored response's events. Its trip is one that stands: it is neither submitted nor abandoned.
func (s *Server) streamResponse(w http.ResponseWriter, r *http.Request, tenant string, found *stored, after int) error {
	if !s.hold() {
		w.Header().Set("Connection", "close")
		return unavailable(codeDraining, "This server is shutting down. Try again: another one will answer.")
	}
	defer s.release()
	job := &queue.Job{ID: jobOf(found.id), Tenant: tenant, Endpoint: queue.Responses, Created: found.Created,
		Request: engine.Request{Model: engine.Model{Name: found.Model}, Sampling: engine.Sampling{N: 1}}}
	t := &trip{s: s, w: w, r: r, job: job, order: &order{stream: true, response: &responseWish{echo: found.Echo, told: true, after: after}},
		standing: &result.Status{Job: job.ID, State: found.state, Verdict: found.verdict}}
	if found.verdict != nil {
		return newStreamed(t).finish(found.verdict)
	}
	return t.answerNow()
}

// deleteResponse forgets a response, and ends it if it is under way.
func (s *Server) deleteResponse(w http.ResponseWriter, r *http.Request) error {
	return s.onResponse(r, func(ctx context.Context, tenant string, found *stored) error {
		if found.verdict == nil {
			if _, err := s.cfg.Results.Cancel(ctx, tenant, jobOf(found.id)); err != nil && !errors.Is(err, result.ErrNotFound) {
				return err
			}
		}
		if err := s.responses.delete(ctx, tenant, found.id); err != nil {
			return store(err)
		}
		writeJSON(w, http.StatusOK, map[string]any{"id": found.id, "object": "response", "deleted": true})
		return nil
	})
}

// cancelResponse ends a background response. One that is over stays as it ended, and is shown.
func (s *Server) cancelResponse(w http.ResponseWriter, r *http.Request) error {
	return s.onResponse(r, func(ctx context.Context, tenant string, found *stored) error {
		if !found.Echo.Background {
			return refuse(codeValue, "id", "Cannot cancel a synchronous response.")
		}
		if found.verdict == nil {
			st, err := s.cfg.Results.Cancel(ctx, tenant, jobOf(found.id))
			if err != nil {
				return noJob(err, jobOf(found.id))
			}
			found.state, found.verdict = st.State, st.Verdict
		}
		writeJSON(w, http.StatusOK, found.body())
		return nil
	})
}

// responseItems lists what a response was given, the newest first unless told otherwise.
func (s *Server) responseItems(w http.ResponseWriter, r *http.Request) error {
	c, err := readCursor(r.URL.Query(), true, "include", "include[]")
	if err != nil {
		return err
	}
	return s.onResponse(r, func(_ context.Context, _ string, found *stored) error {
		page, err := pageOfAll(named(found.Items, found.id), c, func(it *inputItem) any { return *it }, func(it *inputItem) string { return it.ID })
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, page)
		return nil
	})
}
