package llama

import (
	"slices"
	"sync"
	"sync/atomic"

	"lorry/engine"
)

// exactLane answers requests that ask to be deterministic: to the last bit the same alone, in a crowd, and after a restart,
// with the same settings on the same machine.
//
// That is so by construction. llama.cpp adds up in an order that depends on how many rows a call has, on which cells of
// the KV cache a sequence lies, and in which order. So these requests have a context of their own with a single
// sequence, in a cache that is empty when it begins: each answer is computed in the same calls, of the same rows, in the
// same cells, whatever else is asked for. Nothing is shared or kept, an answer that was interrupted starts over, and
// several answers to one request are computed one after the other.
//
// It costs memory for the context's cells, from the first such request on, and time: such requests wait for each other,
// and each of their tokens is a call of its own, between those of everybody else.
type exactLane struct {
	loop atomic.Pointer[loop] // nil: nobody has asked yet

	mu    sync.Mutex // held while the context is made
	model *model
	shut  bool
}

// loopFor is where a request is computed.
func (e *Engine) loopFor(r *engine.Request) (*loop, error) {
	if !r.Deterministic {
		return e.loop, nil
	}
	if r.Model.Adapter != "" {
		return nil, unsupported("lorry.deterministic", "deterministic answers of an adapter")
	}
	x := &e.exact
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.loop.Load() == nil && !x.shut {
		if err := e.openExact(); err != nil {
			return nil, engine.Errorf(engine.Invalid, engine.CodeUnsupported, "lorry.deterministic",
				"this engine has no room for deterministic answers, which need a context of their own: %v", err)
		}
	}
	if x.shut {
		return nil, errClosed()
	}
	return x.loop.Load(), nil
}

// interruptible is the request as it can be kept: a deterministic answer is not gone on with, since its tokens would be
// computed in other calls.
func interruptible(r *engine.Request) *engine.Request {
	if !r.Deterministic {
		return r
	}
	q := *r
	q.Resume, q.Save = nil, nil
	return &q
}

// openExact makes the context, while no other computes.
func (e *Engine) openExact() (err error) {
	e.native.RLock()
	defer e.native.RUnlock()
	e.gate.Lock()
	defer e.gate.Unlock()
	c := e.config
	c.Slots, c.NoShare, c.StepTarget = 1, true, -1
	if e.exact.model, err = e.model.twin(); err != nil {
		return err
	}
	c.Observe = e.watch.loop()
	e.exact.loop.Store(e.open(c, e.exact.model))
	return nil
}

// close ends the runs under way, and gives the context back: before the model, as llama.cpp wants it.
func (x *exactLane) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.shut = true
	if l := x.loop.Load(); l != nil {
		l.close()
		x.model.free()
	}
}

// add counts what was done here to what all others did. It waits for no step.
func (x *exactLane) add(s Stats) Stats {
	l := x.loop.Load()
	if l == nil {
		return s
	}
	own := l.read()
	s.Steps, s.Rows, s.Drawn, s.Failed, s.Busy = s.Steps+own.Steps, s.Rows+own.Rows, s.Drawn+own.Drawn, s.Failed+own.Failed, s.Busy+own.Busy
	s.Running, s.Waiting, s.Outstanding = s.Running+own.Running, s.Waiting+own.Waiting, s.Outstanding+own.Outstanding
	return s
}

// watch tells an engine's observer of all that its loops are about to compute.
type watch struct {
	observe engine.DecodeObserver // nil: nobody is told

	mu   sync.Mutex
	sets [][]string
}

// loop is the observer of one more loop.
func (w *watch) loop() engine.DecodeObserver {
	if w.observe == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i := len(w.sets)
	w.sets = append(w.sets, nil)
	return func(ids []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sets[i] = ids
		w.observe(slices.Concat(w.sets...))
	}
}
