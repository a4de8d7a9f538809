package llama

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"lorry/engine"
)

// text turns the bytes of an answer's tokens into whole characters and looks for stop strings. What may still become
// a stop string, or is a part of a character, is held back; so what was released is never taken back.
type text struct {
	stops []string
	// through ends the answer too, and is a part of it; empty is none.
	through string
	held    []byte
	marks   []mark
	done    strings.Builder // all that was released
	logs    []engine.Logprob
}

// mark is a token's log-probability, to be released with the last of its bytes.
type mark struct {
	end int // in held
	lp  engine.Logprob
}

// piece is what may be shown.
type piece struct {
	text     string
	logprobs []engine.Logprob
}

// and is p and what follows it.
func (p piece) and(q piece) piece { return piece{p.text + q.text, append(p.logprobs, q.logprobs...)} }

func (p piece) empty() bool { return p.text == "" && len(p.logprobs) == 0 }

// push adds a token's bytes. stopped says that a stop string is complete: it and what follows are cut.
func (t *text) push(b []byte, lp *engine.Logprob) (p piece, stopped bool) {
	t.held = append(t.held, b...)
	if lp != nil {
		t.marks = append(t.marks, mark{len(t.held), *lp})
	}
	if at := t.find(); at >= 0 {
		p = t.release(at)
		t.held, t.marks = nil, nil
		return p, true
	}
	return t.release(len(t.held) - max(t.partialStop(), partialRune(t.held))), false
}

// flush releases all. A part of a character becomes U+FFFD.
func (t *text) flush() piece { return t.release(len(t.held)) }

// find is where the answer ends, by the first stop string or behind the first through, or -1.
func (t *text) find() int {
	first := -1
	if at := bytes.Index(t.held, []byte(t.through)); t.through != "" && at >= 0 {
		first = at + len(t.through)
	}
	for _, s := range t.stops {
		if at := bytes.Index(t.held, []byte(s)); at >= 0 && (first < 0 || at < first) {
			first = at
		}
	}
	return first
}

// partialStop is the length of the longest end of held that begins a stop string.
func (t *text) partialStop() int {
	longest := partial(string(t.held), t.through)
	for _, s := range t.stops {
		for n := min(len(s)-1, len(t.held)); n > longest; n-- {
			if string(t.held[len(t.held)-n:]) == s[:n] {
				longest = n
			}
		}
	}
	return longest
}

// partialRune is the length of the unfinished character at the end of b.
func partialRune(b []byte) int {
	for n := 1; n <= min(utf8.UTFMax-1, len(b)); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// release cuts n bytes off held. It never cuts a character: a held-back stop begins one.
func (t *text) release(n int) piece {
	p := piece{text: strings.ToValidUTF8(string(t.held[:n]), "\uFFFD")}
	t.held = t.held[n:]
	for len(t.marks) > 0 && t.marks[0].end <= n {
		p.logprobs = append(p.logprobs, t.marks[0].lp)
		t.marks = t.marks[1:]
	}
	for i := range t.marks {
		t.marks[i].end -= n
	}
	t.done.WriteString(p.text)
	t.logs = append(t.logs, p.logprobs...)
	return p
}
