package llama

import (
	"context"
	"sync"
	"time"

	"lorry/engine"
)

// run is one request under way: one sequence for each answer.
type run struct {
	ctx     context.Context
	request *engine.Request
	scope   scope
	prompt  []int32
	most    int // tokens of an answer, by MaxTokens and the context
	begun   time.Time
	seqs    []*sequence
	usage   engine.Usage
	open    int  // answers that are not finished
	forked  bool // all answers have been queued
	started bool // an answer has been given a slot
	first   bool // the first chunk has been waited for
	outbox  outbox
}

// sequence is one answer being made. The loop alone touches it. Only tokens and done say what is in the KV cache:
// a sequence may lose its cells at any step and be computed again from its tokens.
type sequence struct {
	run     *run
	choice  int
	tokens  []int32 // the prompt, then the answer so far
	done    int     // tokens in the KV cache
	slot    int     // -1 while waiting
	holder  *holder // of its cells, while it has a slot
	spare   int     // cells reserved for tokens to come
	alone   bool    // it shares no cells with others
	drawn   int     // tokens of the answer
	sampler *sampler
	text    text
	finish  engine.Finish
	faults  int // calls that failed and took its cells
}

func newRun(ctx context.Context, r *engine.Request, prompt []int32, limit int, stream bool, work *scratch) *run {
	u := &run{ctx: ctx, request: r, prompt: prompt, most: limit - len(prompt), open: r.Sampling.N, outbox: newOutbox(stream)}
	if n := r.Sampling.MaxTokens; n > 0 {
		u.most = min(u.most, n)
	}
	u.scope = scope{tenant: r.Scope, adapter: r.Model.Adapter}
	u.usage.PromptTokens = len(prompt)
	for i := range r.Sampling.N {
		u.seqs = append(u.seqs, &sequence{
			run: u, choice: i, slot: -1, tokens: append(make([]int32, 0, len(prompt)+min(u.most, 1024)), prompt...),
			sampler: newSampler(r.Sampling, i, prompt, work), text: text{stops: r.Sampling.Stop},
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

// pending is how many tokens are to be computed before the next can be drawn.
func (s *sequence) pending() int { return len(s.tokens) - s.done }

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

	mu     sync.Mutex
	chunks []engine.Chunk
	ended  bool
	err    error
}

func newOutbox(stream bool) outbox {
	return outbox{stream: stream, wake: make(chan struct{}, 1), shown: make(chan struct{})}
}

func (o *outbox) put(c engine.Chunk) {
	if !o.stream {
		return
	}
	o.mu.Lock()
	o.chunks = append(o.chunks, c)
	o.mu.Unlock()
	o.signal()
}

// end is the last thing that the loop does to a run.
func (o *outbox) end(err error) {
	o.mu.Lock()
	o.ended, o.err = true, err
	o.mu.Unlock()
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) take() (chunks []engine.Chunk, ended bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	chunks, o.chunks = o.chunks, nil
	return chunks, o.ended, o.err
}

// wait emits a run's chunks until its end or its context's.
func (u *run) wait(emit func(engine.Chunk)) (*engine.Completion, error) {
	for first := true; ; {
		select {
		case <-u.ctx.Done():
			return nil, context.Cause(u.ctx)
		case <-u.outbox.wake:
		}
		chunks, ended, err := u.outbox.take()
		for _, c := range chunks {
			emit(c)
			if first {
				first = false
				close(u.outbox.shown)
			}
		}
		if ended && err != nil {
			return nil, err
		}
		if ended {
			return u.completion(), nil
		}
	}
}
