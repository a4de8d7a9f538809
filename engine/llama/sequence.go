package llama

import (
	"cmp"
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"lorry/engine"
)

// run is one request under way: one sequence for each answer.
type run struct {
	ctx     context.Context
	request *engine.Request
	scope   scope
	adapter *adapter // nil: the base alone
	prompt  []int32
	most    int // tokens of an answer, by MaxTokens and the context
	begun   time.Time
	seqs    []*sequence
	usage   engine.Usage
	open    int  // answers that are not finished
	saved   int  // tokens in the last Save
	forked  bool // all answers have been queued
	started bool // an answer has been given a slot, here or before it came here
	held    bool // one has here, and the adapter is held
	first   bool // the first chunk has been waited for
	outbox  outbox
}

// sequence is one answer being made. The loop alone touches it. Only tokens and done say what is in the KV cache:
// a sequence may lose its cells at any step and be computed again from its tokens.
type sequence struct {
	run     *run
	choice  int
	tokens  []int32   // the prompt, then the answer so far
	done    int       // tokens in the KV cache
	found   int       // of these, those that it shares, until they are counted
	slot    int       // -1 while waiting
	holder  *holder   // of its cells, while it has a slot
	spare   int       // cells reserved for tokens to come
	alone   bool      // it shares no cells with others
	high    bool      // its cells are to be moved to lower ones
	drawn   int       // tokens of the answer
	drew    time.Time // when the newest of them was asked for; zero: none
	due     time.Time // when the newest of them is shown
	sampler *sampler
	text    text
	finish  engine.Finish
	// logprobs are those of all tokens drawn, where they were asked for: text may hold some back, or cut them.
	logprobs []engine.Logprob
	faults   int // calls that failed and took its cells
}

func newRun(ctx context.Context, r *engine.Request, prompt []int32, limit int, stream bool) *run {
	u := &run{ctx: ctx, request: r, prompt: prompt, most: limit - len(prompt), open: r.Sampling.N, outbox: newOutbox(stream)}
	if n := r.Sampling.MaxTokens; n > 0 {
		u.most = min(u.most, n)
	}
	u.scope = scope{tenant: r.Scope, adapter: r.Model.Adapter}
	u.usage.PromptTokens = len(prompt)
	for i := range r.Sampling.N {
		u.seqs = append(u.seqs, &sequence{
			run: u, choice: i, slot: -1, tokens: append(make([]int32, 0, len(prompt)+min(u.most, 1024)), prompt...),
			sampler: newSampler(r.Sampling, i, prompt), text: text{stops: r.Sampling.Stop},
		})
	}
	return u
}

func (u *run) completion() *engine.Completion {
	c := &engine.Completion{Usage: u.usage}
	for _, s := range u.seqs {
		c.Choices = append(c.Choices, engine.Choice{Text: s.text.done.String(), Finish: s.finish, Logprobs: s.text.logs})
	}
	return c
}

// accept adds a token to an answer and says what may be shown of it. It sets finish where the answer is to end.
func (s *sequence) accept(v *vocab, id int32, lp *engine.Logprob) (p piece) {
	s.tokens = append(s.tokens, id)
	s.drawn++
	if lp != nil {
		s.logprobs = append(s.logprobs, *lp)
	}
	stopped := v.end[id]
	if !stopped {
		p, stopped = s.text.push(v.pieces[id], lp)
	}
	switch {
	case stopped && v.end[id]:
		p, s.finish = s.text.flush(), engine.FinishStop
	case stopped:
		s.finish = engine.FinishStop
	case s.left() == 0:
		p, s.finish = p.and(s.text.flush()), engine.FinishLength
	}
	return p
}

// put shows a piece of an answer.
func (s *sequence) put(p piece) {
	s.run.outbox.put(engine.Chunk{Index: s.choice, Text: p.text, Logprobs: p.logprobs, Finish: s.finish}, s.due)
}

// pending is how many tokens are to be computed before the next can be drawn.
func (s *sequence) pending() int { return len(s.tokens) - s.done }

// untouched says that nothing was computed for its run since that got its first slot.
func (s *sequence) untouched() bool {
	return s.run.open > 0 && !s.run.forked && s.drawn == 0 && s.done == s.run.usage.CachedTokens
}

// wanted is when the answer is wanted at the latest.
func (s *sequence) wanted() int64 { return cmp.Or(s.run.request.Deadline, math.MaxInt64) }

// left is how many tokens may still be drawn.
func (s *sequence) left() int { return s.run.most - s.drawn }

func (s *sequence) rows(rows []row, n int) []row {
	for i := s.done; i < s.done+n; i++ {
		rows = append(rows, row{s, s.tokens[i], i, i == len(s.tokens)-1})
	}
	return rows
}

// outbox carries a run's chunks from the loop, which never waits for a slow reader, to the goroutine in Run.
// An answer's tokens bound it.
type outbox struct {
	stream bool // chunks are wanted
	wake   chan struct{}
	shown  chan struct{} // closed when the first chunk has been emitted
	over   chan struct{} // closed by end

	mu    sync.Mutex
	ready parcel
}

// parcel is what an outbox holds at one moment.
type parcel struct {
	chunks []chunk
	saved  *engine.Resume // the newest, after chunks; nil if it was taken
	ended  bool
	err    error
}

// chunk is one that is not to be emitted before it is due, unless the run has ended.
type chunk struct {
	engine.Chunk
	due time.Time
}

func newOutbox(stream bool) outbox {
	return outbox{stream: stream, wake: make(chan struct{}, 1), shown: make(chan struct{}), over: make(chan struct{})}
}

func (o *outbox) put(c engine.Chunk, due time.Time) {
	if !o.stream {
		return
	}
	o.mu.Lock()
	o.ready.chunks = append(o.ready.chunks, chunk{c, due})
	o.mu.Unlock()
	o.signal()
}

// save leaves how far the run has come.
func (o *outbox) save(r *engine.Resume) {
	o.mu.Lock()
	o.ready.saved = r
	o.mu.Unlock()
	o.signal()
}

// end is the last thing that the loop does to a run.
func (o *outbox) end(err error) {
	o.mu.Lock()
	o.ready.ended, o.ready.err = true, err
	o.mu.Unlock()
	close(o.over)
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) take() parcel {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.ready
	o.ready.chunks, o.ready.saved = nil, nil
	return p
}

// wait emits a run's chunks until its end or its context's. A run that is handed over is waited for: its last Save comes
// with the loop's next step.
func (u *run) wait(emit func(engine.Chunk)) (*engine.Completion, error) {
	done := u.ctx.Done()
	for first := true; ; {
		select {
		case <-done:
			if !u.handedOver() {
				return nil, context.Cause(u.ctx)
			}
			done = nil
			continue
		case <-u.outbox.wake:
		}
		p := u.outbox.take()
		for _, c := range p.chunks {
			u.await(c.due)
			emit(c.Chunk)
			if first {
				first = false
				close(u.outbox.shown)
			}
		}
		if p.saved != nil {
			u.request.Save(p.saved)
		}
		if p.ended && p.err != nil {
			return nil, p.err
		}
		if p.ended {
			return u.completion(), nil
		}
	}
}

// await waits until then, unless the run ends or is given up before.
func (u *run) await(until time.Time) {
	wait := time.Until(until)
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-u.outbox.over:
	case <-u.ctx.Done():
	}
}

func (u *run) handedOver() bool {
	return u.request.Save != nil && errors.Is(context.Cause(u.ctx), engine.ErrHandOver)
}
