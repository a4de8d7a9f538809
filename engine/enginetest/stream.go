package enginetest

import (
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"lorry/engine"
)

// streamed is what a run gave, piece by piece and as a whole.
type streamed struct {
	done     *engine.Completion
	texts    []strings.Builder
	logprobs []int
	pieces   []int
	finish   []engine.Finish
	busy     atomic.Bool // an emit is under way
	over     atomic.Bool // Run has returned
}

// stream runs a request with emit and checks that the pieces are the answer: in order, one at a time, in whole
// characters, each choice ended once and by its last piece.
func (s *suite) stream(t *testing.T, r *engine.Request) *streamed {
	t.Helper()
	n := r.Sampling.N
	st := &streamed{
		texts: make([]strings.Builder, n), logprobs: make([]int, n), pieces: make([]int, n), finish: make([]engine.Finish, n),
	}
	var err error
	st.done, err = s.Run(patience(t, s.opts), r, func(c engine.Chunk) { st.add(t, c) })
	st.over.Store(true)
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	checkForm(t, r, st.done)
	st.check(t)
	return st
}

func (st *streamed) add(t *testing.T, c engine.Chunk) {
	if st.over.Load() || st.busy.Swap(true) {
		t.Errorf("emit was called after the end, or twice at once: %+v", c)
		return
	}
	defer st.busy.Store(false)
	if c.Index < 0 || c.Index >= len(st.texts) {
		t.Errorf("a piece belongs to choice %d of %d", c.Index, len(st.texts))
		return
	}
	if st.finish[c.Index] != "" {
		t.Errorf("choice %d goes on after its end: %+v", c.Index, c)
	}
	if !utf8.ValidString(c.Text) {
		t.Errorf("a piece is no whole character: %q", c.Text)
	}
	st.texts[c.Index].WriteString(c.Text)
	st.logprobs[c.Index] += len(c.Logprobs)
	st.pieces[c.Index]++
	st.finish[c.Index] = c.Finish
}

func (st *streamed) check(t *testing.T) {
	t.Helper()
	for i, want := range st.done.Choices {
		if got := st.texts[i].String(); got != want.Text {
			t.Errorf("choice %d: pieces make %q, the whole is %q", i, got, want.Text)
		}
		if st.finish[i] != want.Finish {
			t.Errorf("choice %d: the last piece says %q, the whole %q", i, st.finish[i], want.Finish)
		}
		if st.logprobs[i] != len(want.Logprobs) {
			t.Errorf("choice %d: %d log-probabilities in pieces, %d in the whole", i, st.logprobs[i], len(want.Logprobs))
		}
	}
}
