package llama

import (
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// grammar holds one answer to a form. It is llama.cpp's, and stands outside of any chain of samplers: a token is drawn
// freely and asked about alone, which costs some microseconds; only where it is forbidden are others asked about.
//
// llama.cpp ends the process when it is told of a token that does not fit. So accept takes none but one that allows
// let through, and each once.
type grammar struct {
	native llama.Sampler // 0 after free
	form   *form
	vocab  *vocab
	half   []byte        // of a character: its other bytes are to come
	dead   bool          // no token fits any more
	slow   bool          // a token took longer than maxJudging
	begun  time.Duration // when it was asked about the token that is being drawn, by threadTime
	one    [1]llama.TokenData
	array  llama.TokenDataArray
}

// maxJudging bounds what a grammar may cost for one token, since all other answers wait for it. There are grammars of
// a few lines by which a text can be read in millions of ways, and llama.cpp follows all of them. It is processor time.
const maxJudging = 2 * time.Second

// maxGlance bounds what it may cost to ask about one token, which is some microseconds else. To accept the token would
// take a hundred times as long, and nothing stops llama.cpp then.
const maxGlance = 50 * time.Millisecond

// allows says whether a token may come next.
func (g *grammar) allows(id int32) bool {
	begun := threadTime()
	ok := g.glance(id)
	if threadTime()-begun > maxGlance { // a host may count for us what it gave to others: look again
		again := threadTime()
		g.glance(id)
		g.slow = g.slow || threadTime()-again > maxGlance
	}
	return ok
}

func (g *grammar) glance(id int32) bool {
	if !g.spells(id) {
		return false
	}
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
	if !g.vocab.end[id] {
		llama.SamplerAccept(g.native, llama.Token(id))
		text := append(g.half, g.vocab.pieces[id]...)
		g.half = text[len(text)-partialRune(text):]
		g.hurry()
	}
}

// hurry says whether there is time left for this token.
func (g *grammar) hurry() bool {
	g.slow = g.slow || threadTime()-g.begun > maxJudging
	return !g.slow
}

// complete says that the text may end here.
func (g *grammar) complete() bool {
	for id := range g.vocab.end {
		return g.glance(id)
	}
	return false
}

// restart goes back to the grammar's beginning.
func (g *grammar) restart() {
	llama.SamplerReset(g.native)
	g.half = nil
}

// spells says whether a token goes on in UTF-8. llama.cpp also takes what only looks like it (halves of surrogates,
// characters longer than they need be, beyond the last one), and counts as one what is three marks of damage in the answer.
func (g *grammar) spells(id int32) bool {
	piece := g.vocab.pieces[id]
	if len(g.half) == 0 && utf8.Valid(piece) {
		return true
	}
	text := append(g.half[:len(g.half):len(g.half)], piece...)
	return utf8.Valid(text[:len(text)-partialRune(text)])
}

func (g *grammar) free() {
	if g != nil && g.native != 0 {
		llama.SamplerFree(g.native)
		g.native = 0
	}
}

// prune takes those tokens out of a row that may not come next, as far as they lie above floor and up to ceiling.
func (g *grammar) prune(row []float32, floor, ceiling float32, work *scratch) {
	tokens := work.tokens[:0]
	for id, x := range row {
		switch {
		case x <= floor || x > ceiling:
		case !g.spells(int32(id)):
			row[id] = float32(math.Inf(-1))
		default:
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
			row[t.Id] = t.Logit
		}
	}
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
