package llama

import "lorry/engine"

// reading separates what an answer's text holds while it comes: what the model thinks, what it says, and its calls.
type reading interface {
	// push adds a piece and says what of all so far is thought and what is text. final releases what is held back.
	push(s string, final bool) (thought, text string)
	calls() []call
	// thoughtEnd is how many bytes of what was pushed lead up to the end of the last thought; 0 is no thought.
	thoughtEnd() int
}

// reading is how an answer is to be read; nil is as it stands.
func (p *prepared) reading() reading {
	switch {
	case p.channels:
		return &channelReader{tools: p.tools}
	case p.mind == nil && p.tools == nil:
		return nil
	}
	t := &tagged{}
	if p.mind != nil {
		t.mind = p.mind.reader()
	}
	if p.tools != nil {
		t.tools = &callReader{tools: p.tools}
	}
	return t
}

// tagged reads a thought and calls between their tags. Either may be nil.
type tagged struct {
	mind  *thoughtReader
	tools *callReader
}

func (t *tagged) push(s string, final bool) (thought, text string) {
	if t.mind != nil {
		thought, s = t.mind.push(s, final)
	}
	if t.tools != nil {
		s = t.tools.push(s, final)
	}
	return thought, s
}

func (t *tagged) calls() []call {
	if t.tools == nil {
		return nil
	}
	return t.tools.calls
}

func (t *tagged) thoughtEnd() int {
	if t.mind == nil || !t.mind.some {
		return 0
	}
	return t.mind.read
}

// emitter takes thoughts and calls out of what is shown of answers; nil without emit. What the client sees of a call
// comes whole.
func (p *prepared) emitter(n int, emit func(engine.Chunk)) func(engine.Chunk) {
	if emit == nil || p.reading() == nil {
		return emit
	}
	readers := make([]reading, n)
	for i := range readers {
		readers[i] = p.reading()
	}
	return func(c engine.Chunk) {
		r := readers[c.Index]
		c.Reasoning, c.Text = r.push(c.Text, c.Finish != "")
		c.Finish = p.tools.ended(c.Finish, r.calls())
		if c.Reasoning != "" || c.Text != "" || len(c.Logprobs) > 0 || c.Finish != "" {
			emit(c)
		}
	}
}

// take moves thoughts and calls out of answers' texts, and counts the tokens of thoughts.
func (p *prepared) take(u *run, c *engine.Completion, v *vocab) error {
	if p.reading() == nil {
		return nil
	}
	for i := range c.Choices {
		x, r := &c.Choices[i], p.reading()
		whole := x.Text
		x.Reasoning, x.Text = r.push(whole, true)
		c.Usage.ReasoningTokens += v.tokensIn(u.seqs[i].tokens[len(u.prompt):], whole[:r.thoughtEnd()])
		if err := p.tools.validate(r.calls()); err != nil && x.Finish == engine.FinishStop {
			return err
		}
		x.Finish, x.ToolCalls = p.tools.ended(x.Finish, r.calls()), callsJSON(u, i, r.calls())
	}
	return nil
}
