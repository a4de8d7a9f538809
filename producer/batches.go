package producer

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"lorry/batch"
	"lorry/queue"
	"lorry/resent"
)

// batchRoutes are OpenAI's, and what Lorry can do beyond them.
func (s *Server) batchRoutes(mux *http.ServeMux) {
	for pattern, h := range map[string]handler{
		"POST /v1/batches":                   s.createBatch,
		"GET /v1/batches":                    s.listBatches,
		"GET /v1/batches/{id}":               s.getBatch,
		"POST /v1/batches/{id}/cancel":       s.stepBatch(s.cfg.Batches.Cancel),
		"GET /lorry/v1/batches/{id}/results": s.batchResults,
		"POST /lorry/v1/batches/{id}/retry":  s.retryBatch,
		"POST /lorry/v1/batches/{id}/pause":  s.stepBatch(s.cfg.Batches.Pause),
		"POST /lorry/v1/batches/{id}/resume": s.stepBatch(s.cfg.Batches.Resume),
		"PATCH /lorry/v1/batches/{id}":       s.changeBatch,
	} {
		mux.Handle(pattern, s.answer(h))
	}
}

// createBatch accepts a batch: it is on disk when the answer leaves. What is wrong inside its file shows in the batch.
func (s *Server) createBatch(w http.ResponseWriter, r *http.Request) error {
	if !s.hold() {
		return draining(w)
	}
	defer s.release()
	who, err := s.who(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r, s.cfg.MaxBody)
	if err != nil {
		return err
	}
	wish, err := readBatch(body, limits{allow: s.cfg.WebhookAllow, now: time.Now()})
	if err != nil {
		return err
	}
	if wish.Repeat, err = repeated(r, "/v1/batches", body); err != nil {
		return err
	}
	wish.Webhook = s.sealed(who.Tenant, wish.Webhook)
	ctx, cancel := s.bound(r)
	defer cancel()
	b, err := s.cfg.Batches.Create(ctx, who.Tenant, wish)
	if errors.Is(err, batch.ErrNotFound) {
		return refuse(codeValue, "input_file_id", "No such File object: %s", clip(wish.InputFile))
	}
	if err != nil {
		return noBatch(err, "")
	}
	s.cfg.Log.Info().Str("batch", b.ID).Str("tenant", b.Tenant).Str("endpoint", string(b.Endpoint)).Str("file", b.InputFile).Msg("batch created")
	writeJSON(w, http.StatusOK, showBatch(b))
	return nil
}

// readBatch reads the body of POST /v1/batches.
func readBatch(body []byte, l limits) (w batch.CreateBatch, err error) {
	o, err := newObject(body)
	if err != nil {
		return w, err
	}
	var endpoint string
	needed(o, "input_file_id", &w.InputFile)
	needed(o, "endpoint", &endpoint)
	needed(o, "completion_window", &w.WindowText)
	w.Endpoint = queue.Endpoint(endpoint)
	if o.err == nil && !slices.Contains(batch.Endpoints, w.Endpoint) {
		o.fail(unknownEndpoint(endpoint))
	}
	if o.err == nil {
		w.Window = readWindow(o, w.WindowText)
	}
	w.Metadata = readMetadata(o)
	w.OutputExpiresAfter = readExpiry(o)
	if in := o.object("lorry"); in != nil {
		in.integer("priority", &w.Priority, batch.MinPriority, batch.MaxPriority)
		w.Webhook = readWebhook(in, l)
		o.close(in)
	}
	return w, o.done()
}

// needed reads a string that must be there.
func needed(o *object, name string, dst *string) {
	if !o.text(name, dst, maxName) && o.err == nil {
		o.missing(name)
	}
}

func unknownEndpoint(got string) *apiError {
	names := make([]string, len(batch.Endpoints))
	for i, e := range batch.Endpoints {
		names[i] = string(e)
	}
	return refuse(codeValue, "endpoint", "Invalid value: '%s'. Supported values are: '%s'.", clip(got), strings.Join(names, "', '"))
}

// readWindow reads "24h", "90m" or "7d".
func readWindow(o *object, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(min(max(n, 0), 1<<16)) * 24 * time.Hour
	}
	if err != nil || d < batch.MinWindow || d > batch.MaxWindow {
		o.fail(refuse(codeValue, "completion_window", "Invalid 'completion_window': expected a duration from '1s' to '30d', as '24h', but got '%s' instead.", clip(text)))
	}
	return d
}

// readExpiry reads {"anchor": "created_at", "seconds": n}.
func readExpiry(o *object) time.Duration {
	in := o.object("output_expires_after")
	if in == nil {
		return 0
	}
	var anchor string
	var seconds int
	if !in.oneOf("anchor", &anchor, "created_at") && in.err == nil {
		in.missing("anchor")
	}
	if !in.integer("seconds", &seconds, minExpiry, maxExpiry) && in.err == nil {
		in.missing("seconds")
	}
	o.close(in)
	return time.Duration(seconds) * time.Second
}

// repeated says how a request that makes a batch or an endpoint is known when it is sent again: by its idempotency key, or,
// since the SDKs send none, by its body and their word that it is a retry.
func repeated(r *http.Request, path string, body []byte) (resent.Repeat, error) {
	idem, err := bodyOf(r, queue.Endpoint(path), body)
	n, _ := strconv.Atoi(r.Header.Get("X-Stainless-Retry-Count"))
	return resent.Repeat{Body: idem.Body, IdempotencyKey: idem.Key, Retried: n > 0}, err
}

// noBatch is what a client is told of an error of batches.
func noBatch(err error, id string) error {
	if e, ok := errors.AsType[*batch.StatusError](err); ok {
		return conflict("", "Cannot %s a batch with status '%s'.", e.Do, e.Status)
	}
	if e, ok := errors.AsType[*batch.InvalidError](err); ok {
		return refuse(codeValue, e.Param, "Invalid '%s': %s.", e.Param, e.Message)
	}
	switch {
	case errors.Is(err, batch.ErrNoBatch):
		return &apiError{Status: http.StatusNotFound, Type: typeInvalid, Param: "id", Message: "No batch found with id '" + clip(id) + "'."}
	case errors.Is(err, batch.ErrNotFound):
		return conflict("file_deleted", "The batch's input file is gone, so its lines cannot be run again.")
	case errors.Is(err, batch.ErrNothing):
		return conflict("nothing_to_retry", "All lines of this batch succeeded: there is nothing to retry.")
	case errors.Is(err, resent.ErrMismatch):
		return reusedKey()
	case errors.Is(err, batch.ErrContended):
		return unavailable(codeAway, "The batch is being changed by others. Try again in a moment.")
	}
	return store(err)
}

// conflict is a 409 that stays one, which the SDKs are told.
func conflict(code, format string, args ...any) *apiError {
	e := refuse(code, "", format, args...)
	e.Status, e.Final = http.StatusConflict, true
	return e
}

func (s *Server) getBatch(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	id := r.PathValue("id")
	b, err := s.cfg.Batches.Get(ctx, who.Tenant, id)
	if err != nil {
		return noBatch(err, id)
	}
	o := showBatch(b)
	if !b.Status.Terminal() {
		p, err := s.cfg.Batches.Progress(ctx, who.Tenant, id)
		if err != nil {
			return noBatch(err, id)
		}
		o.Lorry.progress(p)
	}
	writeJSON(w, http.StatusOK, o)
	return nil
}

// listBatches shows the tenant's batches, the newest first.
func (s *Server) listBatches(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	q := batch.BatchFilter{Limit: defaultLimit}
	if q.After, err = readPage(r, &q.Limit, maxLimit); err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	bs, more, err := s.cfg.Batches.List(ctx, who.Tenant, q)
	if errors.Is(err, batch.ErrNoBatch) {
		return refuse(codeValue, "after", "Invalid 'after': no batch found with id '%s'.", clip(q.After))
	}
	if err != nil {
		return store(err)
	}
	writeJSON(w, http.StatusOK, pageOf(bs, more, func(b *batch.Batch) any { return showBatch(*b) }, func(b *batch.Batch) string { return b.ID }))
	return nil
}

// readPage reads after and limit, and refuses anything else.
func readPage(r *http.Request, limit *int, most int) (after string, err error) {
	q := r.URL.Query()
	if err := onlyQuery(q, "after", "limit"); err != nil {
		return "", err
	}
	if q.Has("limit") {
		*limit, err = wholeNumber("limit", q.Get("limit"), 1, most)
	}
	return q.Get("after"), err
}

// stepBatch answers with the batch that a step of batch.Batches leaves, or makes.
func (s *Server) stepBatch(step func(ctx context.Context, tenant, id string) (batch.Batch, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, err := s.who(r)
		if err != nil {
			return err
		}
		if err := noFields(w, r, s.cfg.MaxBody); err != nil {
			return err
		}
		return s.answerStep(w, r, func(ctx context.Context, id string) (batch.Batch, error) { return step(ctx, who.Tenant, id) })
	}
}

// retryBatch makes a batch of another one's lines that did not succeed.
func (s *Server) retryBatch(w http.ResponseWriter, r *http.Request) error {
	if !s.hold() {
		return draining(w)
	}
	defer s.release()
	again, err := repeated(r, r.URL.Path, nil)
	if err != nil {
		return err
	}
	return s.stepBatch(func(ctx context.Context, tenant, id string) (batch.Batch, error) {
		return s.cfg.Batches.Retry(ctx, tenant, id, again)
	})(w, r)
}

func (s *Server) answerStep(w http.ResponseWriter, r *http.Request, step func(context.Context, string) (batch.Batch, error)) error {
	ctx, cancel := s.bound(r)
	defer cancel()
	id := r.PathValue("id")
	b, err := step(ctx, id)
	if err != nil {
		return noBatch(err, id)
	}
	s.cfg.Log.Info().Str("batch", b.ID).Str("tenant", b.Tenant).Str("by", r.Pattern).Str("status", string(b.Status)).Msg("batch changed")
	writeJSON(w, http.StatusOK, showBatch(b))
	return nil
}

// noFields refuses a body that says anything: what nobody reads is not to be ignored.
func noFields(w http.ResponseWriter, r *http.Request, most int64) error {
	if r.ContentLength == 0 {
		return nil
	}
	body, err := readBody(w, r, most)
	if err != nil {
		return err
	}
	o, err := newObject(body)
	if err != nil {
		return err
	}
	return o.done()
}

// changeBatch reads {"deadline", "priority"}.
func (s *Server) changeBatch(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r, s.cfg.MaxBody)
	if err != nil {
		return err
	}
	c, err := readChange(body, time.Now())
	if err != nil {
		return err
	}
	return s.answerStep(w, r, func(ctx context.Context, id string) (batch.Batch, error) {
		return s.cfg.Batches.Change(ctx, who.Tenant, id, c)
	})
}

func readChange(body []byte, now time.Time) (c batch.Change, err error) {
	o, err := newObject(body)
	if err != nil {
		return c, err
	}
	var priority int
	if o.integer("priority", &priority, batch.MinPriority, batch.MaxPriority) {
		c.Priority = &priority
	}
	if t := readDeadline(o, now); !t.IsZero() {
		c.Deadline = &t
	}
	if err := o.done(); err != nil {
		return c, err
	}
	if c.Priority == nil && c.Deadline == nil {
		return c, refuse(codeMissing, "deadline", "Nothing to change: give 'deadline', 'priority' or both.")
	}
	return c, nil
}

// lineList is a page of a batch's finished lines: Last is the next page's after, and stays when there is none yet.
type lineList struct {
	Object  string            `json:"object"` // "list"
	Data    []json.RawMessage `json:"data"`
	Last    int               `json:"last"`
	HasMore bool              `json:"has_more"`
}

// maxLineLimit is the largest page of finished lines, and the default.
const maxLineLimit = 1000

// batchResults shows finished lines, in the order in which they ended, as they will stand in the files.
func (s *Server) batchResults(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	limit, after := maxLineLimit, 0
	text, err := readPage(r, &limit, maxLineLimit)
	if err == nil && text != "" {
		after, err = wholeNumber("after", text, 0, math.MaxInt)
	}
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	id := r.PathValue("id")
	ls, more, err := s.cfg.Batches.Results(ctx, who.Tenant, id, after, limit)
	if err != nil {
		return noResults(err, id)
	}
	out := lineList{Object: "list", Data: []json.RawMessage{}, Last: after, HasMore: more}
	for _, l := range ls {
		out.Data, out.Last = append(out.Data, l.Raw), l.Cursor
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func noResults(err error, id string) error {
	if e, ok := errors.AsType[*batch.StatusError](err); ok {
		return conflict("in_files", "The results of a batch with status '%s' are in its files: see output_file_id and error_file_id.", e.Status)
	}
	return noBatch(err, id)
}
