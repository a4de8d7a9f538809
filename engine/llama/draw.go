package llama

import (
	"runtime"
	"sync"
	"sync/atomic"

	"lorry/engine"
)

// drawn is a token that a sequence's sampler took from a row of logits.
type drawn struct {
	seq     *sequence
	row     []float32 // nil: none was computed
	id      int32
	ok      bool
	logprob *engine.Logprob
}

// drawers is the most goroutines that draw: a step with a crowd of answers gains little by more.
const drawers = 8

// harvest notes what was computed and draws a token for each output row.
func (l *loop) harvest(rows []row) {
	var draws []drawn
	for i, r := range rows {
		if r.seq.slot < 0 {
			continue // its run ended within this call
		}
		l.cache.computed(r.seq, r.token)
		l.stats.Shared, r.seq.found = l.stats.Shared+r.seq.found, 0
		if !r.output {
			continue
		}
		l.fork(r.seq.run)
		draws = append(draws, drawn{seq: r.seq, row: l.logits(i)})
	}
	l.draw(draws)
	for _, d := range draws {
		if d.seq.slot >= 0 {
			l.take(d)
		}
	}
}

// logits is an output row, nil where llama.cpp computed less than one.
func (l *loop) logits(i int) []float32 {
	row := l.dev.logits(i)
	if len(row) < l.vocab.size {
		return nil
	}
	return row
}

// draw has the samplers take their tokens, on as many goroutines as there are scratches. Each answer has its own sampler
// and grammar, and its draws depend on its seed alone, so that it does not matter who draws what.
func (l *loop) draw(draws []drawn) {
	var next atomic.Int32
	work := func(w *scratch) {
		for i := int(next.Add(1)) - 1; i < len(draws); i = int(next.Add(1)) - 1 {
			draws[i].draw(l.vocab, w)
		}
	}
	var others sync.WaitGroup
	for _, w := range l.scratch[1:max(1, min(len(l.scratch), len(draws)))] {
		others.Go(func() {
			runtime.LockOSThread() // see threadTime
			defer runtime.UnlockOSThread()
			work(w)
		})
	}
	work(l.scratch[0])
	others.Wait()
}

func (d *drawn) draw(v *vocab, w *scratch) {
	if d.row == nil {
		return
	}
	p := d.seq.sampler
	p.work = w
	if d.id, d.ok = p.next(d.row, d.seq.drawn, v.eog); d.ok && p.Logprobs && !v.end[d.id] {
		d.logprob = v.logprob(d.row, d.id, p.TopLogprobs)
	}
}

// take adds a token to its answer.
func (l *loop) take(d drawn) {
	s := d.seq
	switch {
	case d.row == nil:
		l.end(s.run, engine.Errorf(engine.Internal, "", "", "llama.cpp computed no logits"))
	case !d.ok:
		l.end(s.run, s.sampler.exhausted())
	default:
		l.count(s.run)
		l.put(s, s.accept(l.vocab, d.id, d.logprob))
		s.run.save(true)
	}
}

// scratches is the room for so many goroutines to draw in.
func scratches(n int) (list []*scratch) {
	for range max(1, n) {
		list = append(list, &scratch{})
	}
	return list
}
