package result

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"lorry/engine"
	"lorry/queue"
	"lorry/record"
)

// Settle ends jobs: it commits each verdict to RESULTS, where the first one stands, projects into Redis the verdict
// that stands, and tells of it. It returns those verdicts by index, nil where nothing is known to stand (the error
// joins why): such a job must not be acknowledged. A job that is settled already stays as it is, so a caller that does
// not know whether Settle did its work calls it again.
func (s *Store) Settle(ctx context.Context, vs ...*Verdict) ([]*Verdict, error) {
	stood, err := s.commit(ctx, s.bounded(vs))
	if perr := s.project(ctx, stood); perr != nil {
		return make([]*Verdict, len(vs)), errors.Join(err, perr)
	}
	return stood, err
}

// envelope is what a message needs beside the record: subject and headers.
const envelope = 4 << 10

// bounded puts a failure in the place of an answer that no message can carry: its commit would be refused, and tried
// again, for ever. It may be asked for again with fewer choices or log-probabilities.
func (s *Store) bounded(vs []*Verdict) []*Verdict {
	most := s.q.Conn().MaxPayload() - envelope
	out := slices.Clone(vs)
	for i, v := range out {
		if v.Waited || most <= 0 { // no message carries it
			continue
		}
		if size := len(v.Encode()); int64(size) > most {
			out[i] = v.tooLarge(size, most)
		}
	}
	return out
}

func (v *Verdict) tooLarge(size int, most int64) *Verdict {
	w := *v
	w.raw, w.State, w.Completion = nil, queue.Failed, nil
	w.Error = engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "n",
		"the answer has %d bytes, more than the %d that the queue carries: ask for fewer choices, log-probabilities or tokens", size, most)
	return &w
}

// lineTTL keeps a line's record past the stream's age: until its batch's files stand, which may take as long as the batch
// may. Then they are purged.
const lineTTL = "never"

// commit writes what is not there. Waited verdicts have no record: the HTTP answer is it.
func (s *Store) commit(ctx context.Context, vs []*Verdict) ([]*Verdict, error) {
	stood := make([]*Verdict, len(vs))
	var ms []*nats.Msg
	var at []int
	for i, v := range vs {
		if v.Waited {
			stood[i] = v
			continue
		}
		m := nats.NewMsg(queue.ResultSubject(v.job()))
		m.Data = v.Encode()
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
		if v.Batch != "" {
			m.Header.Set(jetstream.MsgTTLHeader, lineTTL)
		}
		ms, at = append(ms, m), append(at, i)
	}
	_, errs := s.q.PublishAll(ctx, ms)
	var doubt []int
	for k, err := range errs {
		if err == nil {
			stood[at[k]] = vs[at[k]]
			continue
		}
		doubt = append(doubt, k)
	}
	return stood, s.read(ctx, vs, stood, at, doubt, errs)
}

// read fills in what stands where a commit was refused, or its outcome is unknown.
func (s *Store) read(ctx context.Context, vs, stood []*Verdict, at, doubt []int, errs []error) (all error) {
	for _, k := range doubt {
		v, err := s.Committed(ctx, vs[at[k]].job())
		if v != nil {
			stood[at[k]] = v
			continue
		}
		all = errors.Join(all, fmt.Errorf("result: commit %s: %w", vs[at[k]].Job, errors.Join(errs[k], err)))
	}
	return all
}

// Committed is the verdict that stands in RESULTS, nil where there is none.
func (s *Store) Committed(ctx context.Context, j *queue.Job) (*Verdict, error) {
	m, ok, err := s.q.Last(ctx, queue.StreamResults, queue.ResultSubject(j))
	if err != nil || !ok {
		return nil, err
	}
	return Decode(m.Data)
}

// ProjectCommitted looks into RESULTS for jobs, and projects what stands. Deliveries that come again begin here.
func (s *Store) ProjectCommitted(ctx context.Context, jobs []queue.Job) error {
	subjects := make([]string, len(jobs))
	for i := range jobs {
		subjects[i] = queue.ResultSubject(&jobs[i])
	}
	ms, err := s.q.LastOf(ctx, queue.StreamResults, subjects)
	if err != nil || len(ms) == 0 {
		return err
	}
	vs, err := DecodeAll(ms)
	if err != nil {
		return err
	}
	return s.project(ctx, vs)
}

// projectAtOnce bounds one script call: Redis serves nobody else meanwhile.
const projectAtOnce = 64

// project makes verdicts visible: state, answer, usage, cache, the flight's end; then the hints. Nils are passed over.
func (s *Store) project(ctx context.Context, vs []*Verdict) error {
	by := map[string][]*Verdict{}
	for _, v := range vs {
		if v != nil {
			by[v.Tenant] = append(by[v.Tenant], v)
		}
	}
	var calls []call
	var of [][]*Verdict
	for t, all := range by {
		for len(all) > 0 {
			n := min(projectAtOnce, len(all))
			calls, of = append(calls, s.projectCall(t, all[:n])), append(of, all[:n])
			all = all[n:]
		}
	}
	answers, err := s.run(ctx, false, calls...)
	if err != nil {
		return err
	}
	for i, a := range answers {
		ended, err := a.Int64Slice()
		if err != nil {
			return fmt.Errorf("result: project: %w", err)
		}
		s.tell(of[i], ended)
	}
	return nil
}

func (s *Store) projectCall(t string, vs []*Verdict) call {
	now := s.now()
	c := call{projectScript, []string{jobsKey(t), usageKey(t, now), cacheIndex(t), cacheBytes(t)},
		[]any{int(s.cfg.ResultTTL.Seconds()), now.UnixMilli(), int(s.cfg.CacheTTL.Seconds()), s.cfg.CacheBytes}}
	for _, v := range vs {
		var cached []byte
		u := v.usage()
		if v.CacheKey != "" && v.State == queue.Succeeded && !v.Cached {
			cached = must(json.Marshal(v.Completion))
		}
		var facts, record []byte
		if v.Batch == "" {
			facts, record = v.facts().encode(), v.Encode()
		}
		c.keys = append(c.keys, jobKey(t, v.Job), cacheKey(t, v.CacheKey), flightKey(t, v.CacheKey, v.Batch), batchKey(t, v.Batch))
		c.args = append(c.args, v.Job, v.Created, string(v.State), facts, record, cached, u.PromptTokens, u.CachedTokens, u.CompletionTokens,
			int64(u.EngineSeconds*1e6), btoi(v.Cached), btoi(v.Cached && v.Leader != ""), btoi(v.Attempt > 1))
	}
	return c
}

// tell hints at verdicts that this call made visible.
func (s *Store) tell(vs []*Verdict, ended []int64) {
	var cs []Change
	lines := map[string][]queue.LineDone{}
	for i, v := range vs {
		if i >= len(ended) || ended[i] == 0 {
			continue
		}
		if v.Batch != "" {
			lines[v.Batch] = append(lines[v.Batch], v.lineDone())
			continue
		}
		_ = s.q.Conn().Publish(queue.DoneSubject(v.Job), v.Encode())
		cs = append(cs, Change{Job: v.Job, Tenant: v.Tenant, State: v.State, Lane: v.Lane, Model: v.Model.Name, Worker: v.Worker, At: v.Ended})
	}
	if len(cs) > 0 {
		s.publish(cs[0].Tenant, cs...)
	}
	for b, done := range lines {
		_ = s.q.Conn().Publish(queue.DoneSubject(b), must(json.Marshal(queue.LinesDone{V: queue.V, Lines: done})))
	}
}

func (v *Verdict) lineDone() queue.LineDone {
	d := queue.LineDone{Line: v.Line}
	if u := v.usage(); !v.Cached {
		d.Tokens = u.PromptTokens - u.CachedTokens + u.CompletionTokens
	}
	return d
}

// Cancel ends a job that is not over, and hints at its worker to stop. It returns what stands then: a job that was
// quicker has its own answer.
func (s *Store) Cancel(ctx context.Context, tenant, id string) (*Status, error) {
	st, f, err := s.get(ctx, tenant, id)
	if err != nil || st.State.Terminal() {
		return st, err
	}
	v := f.verdict(tenant, id, queue.Cancelled, s.now().UnixMilli())
	v.Started, v.Attempt, v.Worker = st.Started, st.Attempt, st.Worker
	if _, err := s.Settle(ctx, v); err != nil {
		return nil, err
	}
	_ = s.q.Conn().Publish(queue.CancelSubject(id), nil)
	return s.Get(ctx, tenant, id)
}

// Encode is the verdict's record. It is made once: a verdict does not change once it is on its way, and its record is
// committed, projected and told of.
func (v *Verdict) Encode() []byte {
	if v.raw == nil {
		v.raw = must(json.Marshal(v))
	}
	return v.raw
}

// Decode reads a record of RESULTS.
func Decode(b []byte) (*Verdict, error) {
	v := &Verdict{}
	if err := record.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("result: read verdict: %w", err)
	}
	if v.V > V || v.V < V-1 {
		return nil, fmt.Errorf("result: read verdict of %s: version %d, this program reads %d", v.Job, v.V, V)
	}
	if v.State == queue.Succeeded && !v.answered() {
		return nil, fmt.Errorf("result: read verdict of %s: it succeeded without an answer", v.Job)
	}
	return v, nil
}

// answered says that the completion holds what the endpoint shows.
func (v *Verdict) answered() bool {
	c := v.Completion
	if v.Endpoint == queue.Embeddings {
		return c != nil && len(c.Embeddings) > 0
	}
	return c != nil && len(c.Choices) > 0
}

// DecodeAll reads verdicts' records, up to the first that is none.
func DecodeAll(ms []queue.Stored) ([]*Verdict, error) {
	out := make([]*Verdict, 0, len(ms))
	for _, m := range ms {
		v, err := Decode(m.Data)
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (v *Verdict) usage() (u engine.Usage) {
	if v.Completion != nil {
		u = v.Completion.Usage
	}
	return u
}
