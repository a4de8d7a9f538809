package producer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"lorry/access"
	"lorry/engine"
	"lorry/queue"
	"lorry/registry"
	"lorry/result"
	"lorry/webhook"
)

// trip is one request on its way to its answer.
type trip struct {
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	began time.Time
	order *order
	job   *queue.Job
	async bool
	// standing is what is known of the job that an idempotency key names already, if it needs no push from here.
	standing *result.Status
	// turn is set where the request came over a websocket.
	turn *turn
	// looked is the first look into the cache, taken before anything else.
	looked *result.Joined
}

// reader is how an endpoint reads its body.
type reader func(body []byte, l limits) (*order, error)

// work is an endpoint that runs a model.
func (s *Server) work(read reader) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !s.hold() {
			return draining(w)
		}
		defer s.release()
		t := &trip{s: s, w: w, r: r, began: time.Now(), turn: turnOf(r)}
		if err := t.prepare(read); err != nil {
			return err
		}
		if t.order.warms() {
			return t.warmUp()
		}
		if t.async {
			return t.answerLater()
		}
		return t.answerNow()
	}
}

// prepare reads the request and makes its job, or finds the one that its idempotency key names.
func (t *trip) prepare(read reader) error {
	who, err := t.s.who(t.r)
	if err != nil {
		return err
	}
	body, err := readBody(t.w, t.r, t.s.cfg.MaxBody)
	if err != nil {
		return err
	}
	if t.order, err = read(body, limits{maxN: t.s.cfg.MaxN, allow: t.s.cfg.WebhookAllow, now: t.began, vault: t.s.vault(who.Tenant)}); err != nil {
		return err
	}
	if err := t.goOn(who.Tenant); err != nil {
		return err
	}
	if t.async = prefersAsync(t.r.Header); t.async && t.order.stream {
		return refuse(codeCombination, "stream", "'stream' needs a connection that waits, 'Prefer: respond-async' one that does not: give one.")
	}
	if w := t.order.response; t.async && w != nil && w.compact {
		return refuse(codeUnsupported, "Prefer", "A compaction needs a connection that waits: 'Prefer: respond-async' is not for it.")
	}
	if !t.s.cfg.Queue.Conn().IsConnected() { // at once, and before the library buffers what would arrive unasked later
		return queue.ErrAway
	}
	t.async = t.async || t.background() && !t.order.stream
	if err := t.makeJob(who, body); err != nil {
		return err
	}
	if err := t.idempotent(); err != nil {
		return err
	}
	return errors.Join(t.keepAsked(), t.keepChat())
}

// makeJob fills in all that the request does not say.
func (t *trip) makeJob(who access.Principal, body []byte) error {
	d := t.order
	m, err := t.s.resolve(d.model)
	if err != nil {
		return err
	}
	j := &queue.Job{V: queue.V, Tenant: who.Tenant, Lane: d.lane, Endpoint: d.endpoint, Encoding: d.encoding, Request: d.request, Created: t.began.UnixMilli(),
		Stream: d.stream, Metadata: d.metadata, ReplayOf: d.replayOf, Trace: traceparent(t.r.Header)}
	j.Request.Model, j.Request.Scope = m.Engine(), who.Tenant
	if !d.deadline.IsZero() {
		j.Deadline = d.deadline.UnixMilli()
	}
	if j.Idem, err = idemOf(t.r, d.endpoint, body); err != nil {
		return err
	}
	t.job = j
	t.route()
	t.name(queue.NewID("job_"))
	t.cache()
	j.Webhook = t.s.sealed(who.Tenant, d.webhook)
	return nil
}

// route decides how the job travels and whether RESULTS records its end. Only what waits in the interactive lane skips
// the backlog, and so may skip the record: the dispatcher clears its backlog by looking at records.
func (t *trip) route() {
	j := t.job
	switch {
	case j.Lane != "":
	case t.async, t.background():
		j.Lane = queue.Flex
	default:
		j.Lane = queue.Interactive
	}
	j.Waited = !t.async && j.Lane == queue.Interactive && t.order.webhook == nil && j.Idem == nil && !t.background()
}

// name gives the job its ID. A seed that the client did not choose is drawn from it, so that every attempt, and every
// repetition under one idempotency key, draws the same tokens.
func (t *trip) name(id string) {
	t.order.name(t.job, id)
	t.w.Header().Set(headerJob, id)
}

func (o *order) name(j *queue.Job, id string) {
	j.ID, j.Request.ID = id, id
	if !o.seeded && !o.cacheable() {
		sum := sha256.Sum256([]byte("seed:" + id))
		j.Request.Sampling.Seed = binary.BigEndian.Uint64(sum[:])
	}
}

// cache names the answer, unless the request must not meet the cache.
func (t *trip) cache() {
	t.w.Header().Set(headerCache, "bypass")
	if strings.EqualFold(t.r.Header.Get(headerCache), "bypass") || !t.order.cacheable() {
		metricCache.WithLabelValues("bypass").Inc()
		return
	}
	t.job.CacheKey = CacheKey(t.job.Tenant, &t.job.Request)
	t.w.Header().Set(headerCache, "miss")
}

// sealed keeps a webhook's secret unreadable in the streams, where there is a master key. It is bound to the tenant.
func (s *Server) sealed(tenant string, h *queue.Webhook) *queue.Webhook {
	if h == nil {
		return nil
	}
	out := *h
	if h.Secret != "" {
		out.Secret = s.cfg.Sealer.Seal(webhook.TenantContext(tenant), h.Secret)
	}
	return &out
}

// resolve is what a model's name stands for now. Without a name it is the only one there is.
func (s *Server) resolve(name string) (registry.Model, error) {
	if name == "" {
		name = s.cfg.DefaultModel
	}
	if name == "" {
		if all := s.cfg.Registry.List(); len(all) == 1 {
			return all[0], nil
		}
		return registry.Model{}, refuse(codeMissing, "model", "Missing required parameter: 'model'. There are several models here: GET /v1/models lists them.")
	}
	return resolve(s.cfg.Registry, name)
}

func resolve(r *registry.Registry, name string) (registry.Model, error) {
	m, err := r.Resolve(name)
	switch {
	case errors.Is(err, registry.ErrNotReady):
		return m, unavailable(codeAway, "The models are not loaded yet. Try again in a moment.")
	case err != nil:
		return m, noModel(name)
	}
	return m, nil
}

func noModel(name string) error {
	return &apiError{Status: http.StatusNotFound, Type: typeInvalid, Code: engine.CodeModelNotFound, Param: "model",
		Message: fmt.Sprintf("The model `%s` does not exist or you do not have access to it. GET /v1/models lists those that do.", clip(name))}
}

const maxIdem = 255

// idemOf is the request's idempotency key. The body's digest has the path in it: the same bytes at another endpoint are
// another request.
func idemOf(r *http.Request, e queue.Endpoint, body []byte) (*queue.Idem, error) {
	if r.Header.Get("Idempotency-Key") == "" {
		return nil, nil
	}
	idem, err := bodyOf(r, e, body)
	if err != nil {
		return nil, err
	}
	return &idem, nil
}

// bodyOf is the same where a request is known by its body even if there is no key.
func bodyOf(r *http.Request, e queue.Endpoint, body []byte) (queue.Idem, error) {
	key := r.Header.Get("Idempotency-Key")
	if len(key) > maxIdem {
		return queue.Idem{}, refuse(codeValue, "Idempotency-Key", "Invalid 'Idempotency-Key': at most %d characters, but got %d.", maxIdem, len(key))
	}
	h := sha256.New()
	h.Write([]byte(string(e) + "\n"))
	h.Write(body)
	return queue.Idem{Key: key, Body: hex.EncodeToString(h.Sum(nil))}, nil
}

func reusedKey() *apiError {
	return &apiError{Status: http.StatusUnprocessableEntity, Type: typeInvalid, Code: codeIdem, Param: "Idempotency-Key", Final: true,
		Message: "This Idempotency-Key was used with another request in the last 24 hours. Use a new key for a new request."}
}

// idempotent binds the key to this job, or takes over the job that stands under it. A job that stands but was never
// seen, or waits, is submitted once more under its own ID: whoever bound the key may have died before submitting, and
// one job twice in the queue is claimed once.
func (t *trip) idempotent() error {
	if t.job.Idem == nil {
		return nil
	}
	ctx, cancel := t.step()
	defer cancel()
	id, err := t.s.cfg.Results.Idempotent(ctx, t.job.Tenant, *t.job.Idem, t.job.ID)
	if errors.Is(err, result.ErrIdemMismatch) {
		t.w.Header().Del(headerJob)
		return reusedKey()
	}
	if err != nil || id == "" {
		return err
	}
	t.name(id)
	st, err := t.s.cfg.Results.Get(ctx, t.job.Tenant, id)
	switch {
	case errors.Is(err, result.ErrNotFound):
		return nil
	case err != nil:
		return err
	case st.State != queue.Queued:
		t.standing = st
	}
	return nil
}

// step bounds a step that does not wait for an engine. A client that hangs up does not cut it: half a step is worse.
func (t *trip) step() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.r.Context()), t.s.cfg.Timeout)
}

// prefersAsync reads RFC 7240's Prefer.
func prefersAsync(h http.Header) bool {
	for _, line := range h.Values("Prefer") {
		for p := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(p, ";")
			if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
				return true
			}
		}
	}
	return false
}

// traceparent is the W3C trace context, if it is one.
func traceparent(h http.Header) string {
	v := h.Get("Traceparent")
	if len(v) != 55 || strings.Trim(v, "0123456789abcdef-") != "" {
		return ""
	}
	return v
}
