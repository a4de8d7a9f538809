package llama

import "strings"

// gate lets a part of an answer run free of its grammar: what a model thinks before it answers, and what it says between
// calls that are held to their functions' schemas.
type gate struct {
	vocab *vocab
	// until is the text that ends the free part; then, if not empty, is the one that ends the next free part.
	until, then string
	// maybe is the tag of thoughts, where the model decides by its first token whether to think.
	maybe   string
	reopens bool // behind what the grammar wants, the answer is free again
	mayEnd  bool // the answer may end in its free part
	free    bool
	tail    string // of the free part: what may be the beginning of until
}

// gateOf is the gate of an answer; nil where its form holds from the first token to the last.
func gateOf(p prepared, v *vocab) *gate {
	calls := p.tools != nil && p.tools.strict
	if p.form == nil || p.channels || p.mind == nil && !calls {
		return nil
	}
	g := &gate{vocab: v, free: true, reopens: calls, mayEnd: calls}
	if p.mind != nil {
		g.until = p.mind.close
		if !p.mind.begun {
			g.maybe = p.mind.open
		}
	}
	if calls && g.until == "" {
		g.until = callOpen
	} else if calls {
		g.then = callOpen
	}
	return g
}

// holds says whether the grammar is to judge the next token, which is id unless it refuses.
func (g *gate) holds(id int32) bool {
	if g == nil {
		return true
	}
	if g.maybe != "" {
		if strings.TrimSpace(string(g.vocab.pieces[id])) != g.maybe {
			g.next()
		}
		g.maybe = ""
	}
	return !g.free
}

// next ends a free part.
func (g *gate) next() {
	g.free = g.then != ""
	if g.free {
		g.until, g.then = g.then, ""
	}
}

// lets says whether a token may stand in a free part. One that holds the part's end may hold nothing behind it that the
// grammar would have to see, but white space.
func (g *gate) lets(id int32) bool {
	if g.vocab.end[id] {
		return g.mayEnd
	}
	_, rest, ends := strings.Cut(g.tail+string(g.vocab.pieces[id]), g.until)
	return !ends || g.then != "" || strings.TrimSpace(rest) == ""
}

// pass notes a token of a free part.
func (g *gate) pass(id int32) {
	g.tail += string(g.vocab.pieces[id])
	if _, rest, ends := strings.Cut(g.tail, g.until); ends {
		g.tail = rest
		g.next()
	}
	if !g.free {
		g.tail = ""
	}
	g.tail = g.tail[max(0, len(g.tail)-len(g.until)):]
}

// gated is the token drawn if the grammar or the gate before it lets it through, else another.
func (p *sampler) gated(row []float32, id int32, index int) int32 {
	if p.gate.holds(id) {
		if id = p.fitting(row, id, index); id >= 0 {
			p.reopen()
		}
		return id
	}
	for draw := 0; id >= 0 && !p.gate.lets(id); draw++ {
		if draw == 0 {
			p.work.logits = append(p.work.logits[:0], row...) // it may be the row already
			row = p.work.logits
		}
		row[id] = negInf
		id = p.take(row, p.otherSeed(draw), index)
	}
	if id >= 0 {
		p.gate.pass(id)
	}
	return id
}

// reopen frees the answer where the grammar has all that it wants.
func (p *sampler) reopen() {
	if g := p.gate; g != nil && g.reopens && p.grammar.complete() {
		p.grammar.restart()
		g.free, g.until = true, callOpen
	}
}
