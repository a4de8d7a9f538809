package llama

import (
	"math"
	"slices"
	"time"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// grammar holds one answer to a form. It is llama.cpp's, and stands outside of any chain of samplers: a token is drawn
// freely and asked about alone, which costs some microseconds; only where it is forbidden are others asked about.
//
// llama.cpp ends the process when it is told of a token that does not fit. So accept takes none but one that allows or
// mask let through, and each once.
type grammar struct {
	native llama.Sampler // 0 after free
	form   *form
	end    map[int32]bool
	dead   bool      // no token fits any more
	slow   bool      // a token took longer than maxJudging
	begun  time.Time // when it was asked about the token that is being drawn
	one    [1]llama.TokenData
	array  llama.TokenDataArray
}

// maxJudging bounds what a grammar may cost for one token, since all other answers wait for it. There are grammars of
// a few lines by which a text can be read in millions of ways, and llama.cpp follows all of them.
const maxJudging = 2 * time.Second

// maxGlance bounds what it may cost to ask about one token, which is some microseconds else. To accept the token would
// take a hundred times as long, and nothing stops llama.cpp then.
const maxGlance = 50 * time.Millisecond

// allows says whether a token may come next.
func (g *grammar) allows(id int32) bool {
	g.begun = time.Now()
	ok := g.glance(id)
	if time.Since(g.begun) > maxGlance { // the machine was busy, or it is the grammar
		again := time.Now()
		g.glance(id)
		g.slow = g.slow || time.Since(again) > maxGlance
	}
	return ok
}

func (g *grammar) glance(id int32) bool {
	g.one[0] = llama.TokenData{Id: llama.Token(id)}
	g.apply(g.one[:])
	return g.one[0].Logit == 0
}

// apply sets the logits of tokens that may not come next to -Inf. It never fails.
func (g *grammar) apply(tokens []llama.TokenData) {
	if len(tokens) == 0 {
		return
	}
	g.array = llama.TokenDataArray{Data: &tokens[0], Size: uint64(len(tokens)), Selected: -1}
	llama.SamplerApply(g.native, &g.array)
}

// accept goes on to the state after a token. The end of a text is no state: nothing comes after it.
func (g *grammar) accept(id int32) {
	if !g.end[id] {
		llama.SamplerAccept(g.native, llama.Token(id))
		g.hurry()
	}
}

// hurry says whether there is time left for this token.
func (g *grammar) hurry() bool {
	g.slow = g.slow || time.Since(g.begun) > maxJudging
	return !g.slow
}

func (g *grammar) free() {
	if g != nil && g.native != 0 {
		llama.SamplerFree(g.native)
		g.native = 0
	}
}

// mask is a copy of a row in which only tokens that may come next are left. To ask about the whole vocabulary takes as
// long as a step, so the likeliest are asked about first, and no others once what is not asked about has no chance.
func (g *grammar) mask(row []float32, temperature float64, work *scratch) []float32 {
	masked := work.blank(len(row))
	first := argmax(row)
	if first < 0 {
		return masked
	}
	ceiling := float32(math.Inf(1))
	for band := float32(4); ; band *= 2 {
		floor := row[first] - band
		if band > 32 {
			floor = negInf
		}
		g.ask(row, masked, floor, ceiling, work)
		if g.slow || floor == negInf || enough(row, masked, floor, temperature) {
			g.dead = argmax(masked) < 0
			return masked
		}
		ceiling = floor
	}
}

// ask copies those tokens above floor and up to ceiling that may come next.
func (g *grammar) ask(row, masked []float32, floor, ceiling float32, work *scratch) {
	tokens := work.tokens[:0]
	for id, x := range row {
		if x > floor && x <= ceiling {
			tokens = append(tokens, llama.TokenData{Id: llama.Token(id), Logit: x})
		}
	}
	work.tokens = tokens
	for part := range slices.Chunk(tokens, 64) { // a pause to look at the clock
		if !g.hurry() {
			return
		}
		g.apply(part)
		for _, t := range part {
			masked[t.Id] = t.Logit
		}
	}
}

// negligible is the share of all weight that tokens may have together without having been asked about.
const negligible = 1e-6

// enough says whether the tokens up to floor matter beside those that are left above it.
func enough(row, masked []float32, floor float32, temperature float64) bool {
	best := argmax(masked)
	if best < 0 || temperature == 0 {
		return best >= 0
	}
	var known, unknown float64
	for id, x := range row {
		d := float64(x-masked[best]) / temperature
		switch {
		case d <= faint:
		case x <= floor:
			unknown += exp(d)
		case masked[id] > negInf:
			known += exp(d)
		}
	}
	return unknown <= negligible*known
}

// blank is a row in which no token is left.
func (w *scratch) blank(n int) []float32 {
	if cap(w.masked) < n {
		w.masked = make([]float32, n)
	}
	w.masked = w.masked[:n]
	for i := range w.masked {
		w.masked[i] = negInf
	}
	return w.masked
}

// hold gives each answer its grammar.
func (u *run) hold(gs []*grammar) {
	for i, g := range gs {
		u.seqs[i].sampler.grammar = g
	}
}

// free gives back what the answers hold in native memory. The loop calls it when a run has ended, whatever way; a run
// that the loop never took is its caller's to free. It may be called twice.
func (u *run) free() {
	for _, s := range u.seqs {
		s.sampler.grammar.free()
		s.sampler.grammar = nil
	}
}

// exhausted is why no token was left to draw. A dead end is the fault of who wrote the grammar, or banned what it needs.
func (p *sampler) exhausted() error {
	if g := p.grammar; g != nil && g.slow {
		return invalid(g.form.param, "%s has too many ways to read one text: a token took longer than %v", g.form.param, maxJudging)
	}
	if g := p.grammar; g != nil && g.dead {
		if len(p.LogitBias) > 0 {
			return invalid("logit_bias", "logit_bias bans every token with which the answer could go on by %s", g.form.param)
		}
		if g.form.param == "grammar" {
			return invalid("grammar", "the grammar leads to a dead end: no token can follow what it let through")
		}
	}
	return engine.Errorf(engine.Internal, "", "", "no token is left to draw: all are banned, or the model computed no numbers")
}
