package producer

import (
	"context"
	"errors"
	"net/http"
	"time"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// Why a wait ended without a verdict.
var (
	errWaited   = errors.New("producer: waited long enough")
	errDeadline = errors.New("producer: the job's deadline passed")
)

// answerLater accepts the job and answers 202.
func (t *trip) answerLater() error {
	st := t.standing
	if st == nil {
		v, err := t.submit()
		if err != nil {
			return err
		}
		metricAccepted.WithLabelValues(string(t.job.Lane), "async").Inc()
		st = statusOf(t.job, v)
	}
	if t.background() {
		r := stored{t.record(nil), result.AnswerID(queue.Responses, t.job.ID), st.State, st.Verdict}
		writeJSON(t.w, http.StatusOK, r.body())
		return nil
	}
	h := t.w.Header()
	h.Set("Location", "/v1/jobs/"+t.job.ID)
	h.Set("Preference-Applied", "respond-async")
	writeJSON(t.w, http.StatusAccepted, st.Object(true))
	return nil
}

// statusOf is a job that was accepted this moment, and answered from the cache if v is set.
func statusOf(j *queue.Job, v *result.Verdict) *result.Status {
	st := &result.Status{Job: j.ID, Tenant: j.Tenant, Lane: j.Lane, State: queue.Queued, Endpoint: j.Endpoint, Model: j.Request.Model.Name,
		Created: j.Created, Deadline: j.Deadline, Metadata: j.Metadata}
	if v != nil {
		st.State, st.Ended, st.Cached, st.Verdict = v.State, v.Ended, v.Cached, v
	}
	return st
}

// submit puts the job into the backlog: when it returns, the job is on disk. One that the cache answers ends here.
func (t *trip) submit() (*result.Verdict, error) {
	ctx, cancel := t.step()
	defer cancel()
	j := t.job
	if j.CacheKey == "" {
		if err := t.charge(ctx); err != nil {
			return nil, err
		}
		if err := t.s.cfg.Results.Accept(ctx, j); err != nil {
			return nil, t.unsent(err)
		}
		return nil, t.sent(t.s.cfg.Queue.Submit(ctx, j))
	}
	joined, err := t.s.cfg.Results.Join(ctx, j)
	switch {
	case err != nil:
		return nil, t.unsent(err)
	case joined.Over:
		return t.over(ctx)
	case joined.Hit != nil:
		return t.settle(ctx, t.cached(joined.Hit, ""))
	}
	if err := t.charge(ctx); err != nil {
		return nil, t.unsent(err)
	}
	t.missed(joined)
	return nil, t.sent(t.s.cfg.Queue.Submit(ctx, j))
}

// over is the verdict of a job that ended before.
func (t *trip) over(ctx context.Context) (*result.Verdict, error) {
	st, err := t.s.cfg.Results.Get(ctx, t.job.Tenant, t.job.ID)
	if err != nil {
		return nil, err
	}
	return st.Verdict, nil
}

// settle records a verdict that was not computed, and returns the one that stands.
func (t *trip) settle(ctx context.Context, v *result.Verdict) (*result.Verdict, error) {
	stood, err := t.s.cfg.Results.Settle(ctx, v)
	if err != nil {
		return nil, err
	}
	return stood[0], nil
}

// sent looks at how a submission went. A job that is known not to have arrived is forgotten; of one that may have
// arrived, that nobody waits for it any more is said in Redis, where its claim will look. Under an idempotency key
// nothing is undone: the client's next try submits the same job.
func (t *trip) sent(err error) error {
	if err == nil {
		return nil
	}
	ctx, cancel := t.step()
	defer cancel()
	j := t.job
	switch {
	case errors.Is(err, queue.ErrFull), tooLarge(err):
		_ = t.s.cfg.Results.Forget(ctx, j)
	case j.Idem == nil && j.Waited:
		_, _ = t.s.cfg.Results.Cancel(ctx, j.Tenant, j.ID)
	case j.Idem == nil:
		_ = t.s.cfg.Results.Forget(ctx, j)
	}
	return err
}

// cached is the verdict of a job that another one's run answers.
func (t *trip) cached(c *engine.Completion, leader string) *result.Verdict {
	label := "hit"
	if leader != "" {
		label = "joined"
	}
	metricCache.WithLabelValues(label).Inc()
	t.w.Header().Set(headerCache, "hit")
	v := result.For(t.job, queue.Succeeded, time.Now().UnixMilli())
	v.Completion, v.Cached, v.Leader = c, true, leader
	return v
}

func (t *trip) missed(j result.Joined) {
	if j.Leader == "" {
		metricCache.WithLabelValues("miss").Inc()
	}
}

// answerNow waits for the answer, or streams it.
func (t *trip) answerNow() error {
	if err := t.s.waiting.enter(t.job.Tenant, t.s.cfg.Access.Tenant(t.job.Tenant).MaxWaiting); err != nil {
		t.w.Header().Del(headerJob) // there is none
		return err
	}
	defer t.s.waiting.leave(t.job.Tenant)
	v, err := t.glance()
	switch {
	case err != nil:
		return err
	case v != nil && t.order.stream:
		return newStreamed(t).finish(v)
	case v != nil:
		return t.reply(v)
	}
	ctx, cancel := t.patience()
	defer cancel()
	w, err := t.s.cfg.Results.Expect(t.job.Tenant, t.job.ID)
	if err != nil {
		return t.sent(err)
	}
	defer w.Stop()
	if t.order.stream {
		return newStreamed(t).run(ctx, w)
	}
	return t.await(ctx, w)
}

// glance looks into the cache before anything is set up for waiting, which a hit does not need.
func (t *trip) glance() (*result.Verdict, error) {
	if t.standing != nil || t.job.CacheKey == "" || t.job.Lane != queue.Interactive {
		return nil, nil
	}
	if c := t.s.recent.get(t.job.CacheKey, t.began); c != nil {
		return t.hit(c, true)
	}
	j, err := t.lookUp()
	if err != nil || j.Hit == nil {
		t.looked = &j
		return nil, err
	}
	t.s.recent.put(t.job.CacheKey, j.Hit, t.began)
	return t.hit(j.Hit, true)
}

// await waits for the whole answer.
func (t *trip) await(ctx context.Context, w *result.Waiter) error {
	v, err := t.start(ctx, w)
	if v == nil && err == nil {
		v, err = w.Wait(ctx)
	}
	if err != nil {
		if v, err = t.ended(ctx, err); v == nil {
			return err
		}
	}
	return t.reply(v)
}

// patience ends with the client, the wait's bound, the job's deadline, or the drain's grace. Its cause says which.
func (t *trip) patience() (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancelCause(t.r.Context())
	unhook := context.AfterFunc(t.s.over, func() { stop(errDrained) })
	ctx, cancel := context.WithTimeoutCause(ctx, t.s.cfg.Wait, errWaited)
	end := func() { unhook(); cancel(); stop(nil) }
	if t.job.Deadline == 0 {
		return ctx, end
	}
	ctx, early := context.WithDeadlineCause(ctx, time.UnixMilli(t.job.Deadline), errDeadline)
	return ctx, func() { early(); end() }
}

// start sets the job going. A verdict at once is the cache's, an equal job's, or that of an idempotency key; nil means
// that the waiter will hear.
func (t *trip) start(ctx context.Context, w *result.Waiter) (*result.Verdict, error) {
	j := t.job
	switch {
	case t.standing != nil:
		return t.standing.Verdict, nil // nil while it runs
	case j.Lane != queue.Interactive:
		metricAccepted.WithLabelValues(string(j.Lane), "waited").Inc()
		return t.submit()
	case j.CacheKey == "":
		return nil, t.push(true)
	}
	return t.join(ctx, w)
}

// push puts the job into the ready window.
func (t *trip) push(accept bool) error {
	ctx, cancel := t.step()
	defer cancel()
	if err := t.charge(ctx); err != nil {
		return t.unsent(err)
	}
	if accept {
		if err := t.s.cfg.Results.Accept(ctx, t.job); err != nil {
			return t.unsent(err)
		}
	}
	metricAccepted.WithLabelValues(string(t.job.Lane), "waited").Inc()
	return t.sent(t.s.cfg.Queue.Push(ctx, t.job))
}

// join is start of an interactive job that is cacheable. A leader that did not succeed hands over: join again.
func (t *trip) join(ctx context.Context, w *result.Waiter) (*result.Verdict, error) {
	for joined := *t.looked; ; {
		switch {
		case joined.Over:
			step, cancel := t.step()
			defer cancel()
			return t.over(step)
		case joined.Hit != nil:
			return t.hit(joined.Hit, false)
		case joined.Leader == "":
			t.missed(joined)
			return nil, t.push(false)
		case !t.job.Waited: // it must survive this process: the dispatcher follows the leader for it
			step, cancel := t.step()
			defer cancel()
			return nil, t.sent(t.s.cfg.Queue.Submit(step, t.job))
		}
		if v, err := t.follow(ctx, w, joined.Leader); v != nil || err != nil {
			return v, err
		}
		var err error
		if joined, err = t.lookUp(); err != nil {
			return nil, err
		}
	}
}

func (t *trip) lookUp() (result.Joined, error) {
	ctx, cancel := t.step()
	defer cancel()
	joined, err := t.s.cfg.Results.Join(ctx, t.job)
	return joined, t.unsent(err)
}

// unsent undoes what a failed step before the submission may have left: Redis does a script's work even when it says
// that it was lost, and a flight whose leader was never submitted would hold its followers. Under an idempotency key the
// client's next try submits the same job.
func (t *trip) unsent(err error) error {
	if err == nil {
		return nil
	}
	ctx, cancel := t.step()
	defer cancel()
	if t.job.Idem == nil {
		_ = t.s.cfg.Results.Forget(ctx, t.job)
	} else {
		_ = t.s.cfg.Results.LeaveFlight(ctx, t.job)
	}
	return err
}

// hit answers from the cache. A first look's hit has left no trace in Redis, so that its bookkeeping can wait.
func (t *trip) hit(c *engine.Completion, first bool) (*result.Verdict, error) {
	v := t.cached(c, "")
	if t.job.Waited && first {
		t.s.record(v)
		return v, nil
	}
	ctx, cancel := t.step()
	defer cancel()
	return t.settle(ctx, v)
}

// follow waits for the leader's verdict, or for the job's own: someone may cancel it. Nil means that the leader did not
// succeed.
func (t *trip) follow(ctx context.Context, own *result.Waiter, leader string) (*result.Verdict, error) {
	w, err := t.s.cfg.Results.Expect(t.job.Tenant, leader)
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	v, mine, err := either(ctx, own, w)
	if err != nil || mine {
		return v, err
	}
	if v.State != queue.Succeeded {
		return nil, nil
	}
	step, cancel := t.step()
	defer cancel()
	return t.settle(step, t.cached(v.Completion, leader))
}

// lookEvery is how often Redis is asked, in case a hint was lost.
const lookEvery = time.Second

// either waits for the first of two jobs' verdicts and says whether it is a's. The leader may be over already, so Redis
// is asked at once.
func either(ctx context.Context, a, b *result.Waiter) (v *result.Verdict, mine bool, err error) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		if v := b.Look(ctx); v != nil {
			return v, false, nil
		}
		if v := a.Look(ctx); v != nil {
			return v, true, nil
		}
		select {
		case m := <-a.Done():
			v, err = result.Decode(m.Data)
			return v, true, err
		case m := <-b.Done():
			v, err = result.Decode(m.Data)
			return v, false, err
		case <-t.C:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}

// ended decides what a wait that ended early means for the job and the client. A verdict that stands after all is the
// answer.
func (t *trip) ended(ctx context.Context, err error) (*result.Verdict, error) {
	why := context.Cause(ctx)
	switch {
	case t.r.Context().Err() != nil, errors.Is(err, errHungUp):
		metricHangups.Inc()
		t.abandon()
		return nil, errHungUp
	case errors.Is(err, errDiverged):
		t.abandon()
		return nil, err
	case why == nil:
		return nil, err // a step failed: nobody waited yet
	case errors.Is(why, errDeadline):
		return t.expire()
	}
	if v := t.abandon(); v != nil && v.State == queue.Succeeded {
		return v, nil
	}
	return nil, t.tooLong(why)
}

// tooLong is what a client hears that waited as long as it could.
func (t *trip) tooLong(why error) error {
	if errors.Is(why, errDrained) {
		return unavailable(codeDraining, "This server is shutting down and could not wait for job %s any longer. %s", t.job.ID, t.fate())
	}
	return &apiError{Status: http.StatusGatewayTimeout, Type: typeServer, Code: codeWaitedEnough, Final: true,
		Message: "The answer took longer than a request may wait (" + t.s.cfg.Wait.String() + "). " + t.fate() + " Send long work with 'Prefer: respond-async'."}
}

// errHungUp is answered by nothing: nobody is there.
var errHungUp = &apiError{Status: 499, Type: typeInvalid, Code: "client_closed_request", Message: "The client closed the connection."}

// recorded jobs live on without the connection.
func (t *trip) recorded() bool { return t.job.Idem != nil || t.job.Webhook != nil || t.background() }

func (t *trip) fate() string {
	if t.recorded() {
		return "The job goes on: GET /v1/jobs/" + t.job.ID + " has its answer."
	}
	return "The job was cancelled."
}

// abandon cancels a job that nobody can see the end of any more. It returns what stands.
func (t *trip) abandon() *result.Verdict {
	if t.recorded() {
		return nil
	}
	ctx, cancel := t.step()
	defer cancel()
	st, err := t.s.cfg.Results.Cancel(ctx, t.job.Tenant, t.job.ID)
	if err != nil && !errors.Is(err, result.ErrNotFound) {
		t.s.cfg.Log.Warn().Err(err).Str("job", t.job.ID).Msg("job could not be cancelled; its run is wasted")
	}
	if st == nil {
		return nil
	}
	return st.Verdict
}

// expire ends a job at its deadline, unless it was quicker, and hints at its worker to stop.
func (t *trip) expire() (*result.Verdict, error) {
	ctx, cancel := t.step()
	defer cancel()
	st, err := t.s.cfg.Results.Get(ctx, t.job.Tenant, t.job.ID)
	if err == nil && st.Verdict != nil {
		return st.Verdict, nil
	}
	v, err := t.settle(ctx, result.For(t.job, queue.Expired, time.Now().UnixMilli()))
	if err == nil {
		_ = t.s.cfg.Queue.Conn().Publish(queue.CancelSubject(t.job.ID), nil)
	}
	return v, err
}

// reply answers with a verdict.
func (t *trip) reply(v *result.Verdict) error {
	if t.job.Endpoint == queue.Responses && v.State == queue.Succeeded {
		writeJSON(t.w, http.StatusOK, t.response(v))
		return nil
	}
	if t.job.Endpoint == queue.Compact && v.State == queue.Succeeded {
		return t.compacted(v)
	}
	t.keepAnswer(v)
	status, body := result.Response(v)
	if status == http.StatusServiceUnavailable {
		t.w.Header().Set("Retry-After", "2")
	}
	writeBytes(t.w, status, body)
	return nil
}
