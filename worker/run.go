package worker

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// run is one claimed job on its way through the engine.
type run struct {
	held *result.Held
	d    *delivery
	ctx  context.Context
	stop context.CancelCauseFunc
	// solo runs have the engine to themselves.
	solo bool
	// stay is its time in the engine, which leave ends. since is when the engine began to compute it, order its place
	// among those of its lane: both are guarded by slots.
	stay  context.Context
	leave context.CancelCauseFunc
	since time.Time
	order int
	// bounced counts how often the engine gave it back unseen.
	bounced int
	// begun counts how often it was given to the engine; seq numbers the pieces of a streamed answer since then.
	begun, seq int
	// saved is how far it has come, as the engine told last; kept is what was written of that. resumed counts the tokens
	// that were there when the engine began.
	saved, kept atomic.Pointer[engine.Resume]
	resumed     int
}

func newRun(parent context.Context, h *result.Held, d *delivery) *run {
	r := &run{held: h, d: d}
	r.ctx, r.stop = context.WithCancelCause(parent)
	return r
}

// maxSoloCrashes of a job that ran alone make it a dead letter.
const maxSoloCrashes = 3

// run answers one job and ends it, or puts it where it will be answered.
func (w *Worker) run(r *run) {
	ctx, cancel := r.stay, context.CancelFunc(func() {})
	if d := r.held.Job.Deadline; d != 0 {
		ctx, cancel = context.WithDeadlineCause(r.stay, time.UnixMilli(d), errExpired)
	}
	defer cancel()
	if w.slots.extra == 0 {
		w.began(r)
	}
	c, err := w.answer(ctx, r)
	r.held.Started = w.slots.done(r)
	w.settleRun(ctx, r, c, err)
	w.begin()
	w.madeRoom()
}

// began notes that a job is computed now.
func (w *Worker) began(r *run) {
	if w.slots.began(r) {
		w.rates.began(time.Since(time.UnixMilli(r.held.Job.Created)))
	}
}

// answer runs a job's request, once its adapter is there.
func (w *Worker) answer(ctx context.Context, r *run) (*engine.Completion, error) {
	q := w.request(r)
	if err := w.cfg.Adapters.need(ctx, q.Model.Adapter); err != nil {
		return nil, err
	}
	return w.cfg.Engine.Run(ctx, q, w.emitter(r))
}

// request is the job's, under the job's name and tenant, from where it stands.
func (w *Worker) request(r *run) *engine.Request {
	q := r.held.Job.Request
	q.ID, q.Scope, q.Deadline = r.held.Job.ID, r.held.Job.Tenant, r.held.Job.Deadline
	q.Resume, q.Save = r.from(), func(s *engine.Resume) { r.saved.Store(s) }
	q.Began = func() { w.began(r) }
	r.resumed = q.Resume.Tokens()
	return &q
}

// emitter publishes pieces of a streamed answer as they come. They are hints: the verdict has it all.
func (w *Worker) emitter(r *run) func(engine.Chunk) {
	if !r.held.Job.Stream {
		return nil
	}
	subject := queue.TokensSubject(r.held.Job.ID, r.turn())
	r.seq = 0
	return func(c engine.Chunk) {
		b, _ := json.Marshal(queue.TokenMessage{V: queue.V, Seq: r.seq, Chunk: c})
		_ = w.cfg.Queue.Conn().Publish(subject, b)
		r.seq++
	}
}

// turn names this turn at the answer. Later turns compare higher, also where a drain gave the attempt back.
func (r *run) turn() string {
	r.begun++
	return strconv.Itoa(r.held.Attempt) + "-" + strconv.Itoa(int(r.d.lease.Deliveries)<<8+min(r.begun, 255))
}

// settleRun does what the engine's answer asks for.
func (w *Worker) settleRun(ctx context.Context, r *run, c *engine.Completion, err error) {
	if err == nil {
		w.end(r, w.succeeded(r, c))
		return
	}
	r.drawn()
	if ctx.Err() != nil {
		w.stopped(r, context.Cause(ctx))
		return
	}
	e := engine.AsError(err)
	d := verdict(e, r.held.Attempt, w.cfg.MaxAttempts)
	w.cfg.Log.Debug().Err(err).Str("job", r.held.Job.ID).Int("attempt", r.held.Attempt).Str("then", string(d)).Msg("run failed")
	switch d {
	case fail:
		w.end(r, w.failed(r, e))
	case again:
		w.bounce(r)
	case suspect:
		w.suspect(r, e)
	case later:
		w.later(r, e)
	case dead:
		w.note(r, e)
		w.bury(r, e.Message)
	}
}

// stopped ends a run whose context has ended.
func (w *Worker) stopped(r *run, cause error) {
	if errors.Is(cause, errCalled) && r.ctx.Err() != nil {
		cause = context.Cause(r.ctx)
	}
	switch {
	case errors.Is(cause, errCalled):
		w.slots.back(r)
	case errors.Is(cause, errExpired):
		w.end(r, w.expired(r))
	case errors.Is(cause, errOver):
		w.giveUp(r, isOver)
	case errors.Is(cause, errLost):
		w.giveUp(r, isLost)
	default:
		w.giveUp(r, handBack)
	}
}

// bounce runs a job again that the engine gave back unseen: at once a few times, then it goes back to the queue, and
// this worker takes a rest that grows.
func (w *Worker) bounce(r *run) {
	r.bounced++
	if r.bounced < 3 {
		w.slots.back(r)
		return
	}
	w.rest()
	w.giveUp(r, handBack)
}

func (w *Worker) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.After(w.sick) {
		w.sickFor = min(max(2*w.sickFor, time.Second), 30*time.Second)
		w.sick = now.Add(w.sickFor)
		w.cfg.Log.Warn().Dur("for", w.sickFor).Msg("the engine is away: nothing is pulled")
	}
}

func (w *Worker) healthy() {
	w.mu.Lock()
	w.sickFor = 0
	w.mu.Unlock()
}

// suspect runs a job alone whose native call ended the engine's process. Only a crash alone is its own.
func (w *Worker) suspect(r *run, e *engine.Error) {
	w.note(r, e)
	if !r.solo {
		r.solo = true
		w.slots.add(r)
		return
	}
	n, err := w.cfg.Results.CountCrash(context.Background(), r.held)
	if r.held.Crashes++; err == nil {
		r.held.Crashes = max(r.held.Crashes, n)
	}
	if r.held.Crashes >= maxSoloCrashes {
		w.bury(r, e.Message)
		return
	}
	w.slots.add(r)
}

// note writes a failed run into the job's history.
func (w *Worker) note(r *run, e *engine.Error) {
	r.held.Job.History = append(r.held.Job.History, queue.Attempt{At: time.Now().UnixMilli(), Worker: w.cfg.Name, Error: e, Solo: r.solo})
}

// later stores the job for a retry, then lets go of this delivery: LATER holds it now.
func (w *Worker) later(r *run, e *engine.Error) {
	w.note(r, e)
	at := time.Now().Add(backoff(r.held.Attempt, r.held.Job.Waited))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.cfg.Queue.RetryAt(ctx, r.held.Job, at); err != nil {
		w.cfg.Log.Warn().Err(err).Str("job", r.held.Job.ID).Msg("no retry stored: handed back")
		w.giveUp(r, handBack)
		return
	}
	w.giveUp(r, movedOn)
}

// bury writes a dead letter, then ends the job as failed.
func (w *Worker) bury(r *run, reason string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.cfg.Queue.Bury(ctx, r.held.Job, reason, time.Now()); err != nil {
		w.cfg.Log.Warn().Err(err).Str("job", r.held.Job.ID).Msg("no dead letter: handed back")
		w.giveUp(r, handBack)
		return
	}
	deadTotal.Inc()
	w.cfg.Log.Error().Str("job", r.held.Job.ID).Str("reason", reason).Int("attempts", r.held.Attempt).Msg("job is a dead letter")
	e := engine.Errorf(engine.Internal, "attempts_exhausted", "", "The job failed %d times and was given up: %s", max(1, r.held.Attempt), reason)
	if h := r.held.Job.History; len(h) > 0 {
		e.Class, e.Stderr = h[len(h)-1].Error.Class, h[len(h)-1].Error.Stderr
	}
	w.end(r, w.failed(r, e))
}

func (w *Worker) verdict(r *run, s queue.State) *result.Verdict {
	v := result.For(r.held.Job, s, time.Now().UnixMilli())
	v.Started, v.Attempt, v.Worker = r.held.Started.UnixMilli(), r.held.Attempt, w.cfg.Name
	return v
}

func (w *Worker) succeeded(r *run, c *engine.Completion) *result.Verdict {
	w.healthy()
	v := w.verdict(r, queue.Succeeded)
	v.Completion = c
	v.Joules = w.rates.watts() * c.Usage.EngineSeconds
	w.rates.ended(c.Usage.CompletionTokens - c.Usage.ResumedTokens)
	resumedTotal.Add(float64(c.Usage.ResumedTokens))
	return v
}

func (w *Worker) failed(r *run, e *engine.Error) *result.Verdict {
	v := w.verdict(r, queue.Failed)
	v.Error = e
	return v
}

func (w *Worker) expired(r *run) *result.Verdict {
	return w.verdict(r, queue.Expired)
}
