package llama

import "strings"

// thought is the pair of tags between which a model thinks before it answers.
type thought struct{ open, close string }

// thoughts are the pairs that models are trained with: DeepSeek, Qwen, GLM and most others; Mistral; Cohere; Seed; Kimi.
var thoughts = []thought{
	{"<think>", "</think>"},
	{"[THINK]", "[/THINK]"},
	{"<|START_THINKING|>", "<|END_THINKING|>"},
	{"<seed:think>", "</seed:think>"},
	{"◁think▷", "◁/think▷"},
}

// thoughtOf is the pair that a template's source knows; nil is a model that does not think.
func thoughtOf(source string) *thought {
	for _, t := range thoughts {
		if strings.Contains(source, t.close) {
			return &t
		}
	}
	return nil
}

// mind is how one answer thinks: between its tags, which may have been opened by the prompt.
type mind struct {
	thought
	begun bool
}

// mindOf looks at the end of a rendered prompt; nil is an answer without thoughts.
func mindOf(t *thought, prompt string) *mind {
	if t == nil {
		return nil
	}
	return &mind{*t, strings.HasSuffix(strings.TrimRight(prompt, " \t\r\n"), t.open)}
}

// tokensIn is how many of the tokens it takes to say a text.
func (v *vocab) tokensIn(ids []int32, text string) (n int) {
	for said := 0; n < len(ids) && said < len(text) && !v.end[ids[n]]; n++ {
		said += len(v.pieces[ids[n]])
	}
	return n
}

// Where a reader of thoughts stands.
const (
	undecided = iota // the answer may begin with a thought
	thinking
	answering
)

// thoughtReader separates a thought from the answer behind it while they come. White space around a thought belongs to
// neither. What may still become a tag is held back.
type thoughtReader struct {
	tags  thought
	state int
	some  bool // there is a thought
	shown bool // something of the part under way was said
	held  string
	read  int // bytes taken from the text, up to the thought's end
}

func (m *mind) reader() *thoughtReader {
	r := &thoughtReader{tags: m.thought}
	if m.begun {
		r.state, r.some = thinking, true
	}
	return r
}

const blanks = " \t\r\n"

// push adds a piece and says what of all so far is thought and what is answer. final releases what is held back.
func (r *thoughtReader) push(s string, final bool) (thought, answer string) {
	r.held += s
	if r.state == undecided {
		r.decide(final)
	}
	if r.state == thinking {
		thought = r.think(final)
	}
	if r.state == answering {
		answer, r.held = r.fresh(r.held), ""
	}
	return thought, answer
}

// decide looks whether the answer begins with the opening tag.
func (r *thoughtReader) decide(final bool) {
	begins := strings.TrimLeft(r.held, blanks)
	switch {
	case strings.HasPrefix(begins, r.tags.open):
		r.take(len(r.held) - len(begins) + len(r.tags.open))
		r.state, r.some = thinking, true
	case final || !strings.HasPrefix(r.tags.open, begins):
		r.state, r.shown = answering, true // an answer without a thought keeps its white space
	}
}

// take drops n bytes of what is held.
func (r *thoughtReader) take(n int) {
	r.held = r.held[n:]
	r.read += n
}

// think says what is new of the thought, and goes over its end.
func (r *thoughtReader) think(final bool) string {
	said, _, ended := strings.Cut(r.held, r.tags.close)
	if !ended && !final {
		said = said[:len(said)-partial(said, r.tags.close)]
	}
	shown := strings.TrimRight(said, blanks)
	if !ended && !final {
		r.take(len(shown))
		return r.fresh(shown)
	}
	r.take(len(said))
	shown = r.fresh(shown)
	if ended {
		r.take(len(r.tags.close))
		r.state, r.shown = answering, false
	}
	return shown
}

// fresh is s without the white space that a part begins with.
func (r *thoughtReader) fresh(s string) string {
	if !r.shown {
		s = strings.TrimLeft(s, blanks)
		r.shown = s != ""
	}
	return s
}

// partial is the length of the longest end of s that begins tag.
func partial(s, tag string) int {
	for n := min(len(tag)-1, len(s)); n > 0; n-- {
		if strings.HasSuffix(s, tag[:n]) {
			return n
		}
	}
	return 0
}
