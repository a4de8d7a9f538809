package echo

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strings"

	"lorry/engine"
)

// answer is all that will be said, known before the first word.
type answer struct {
	n        int
	prompt   int // words
	echo     string
	words    []string
	finish   engine.Finish
	logprobs bool
	top      bool
}

// newAnswer applies max_tokens, then the stop strings to what is left: that is what a model would have come to.
func newAnswer(r *engine.Request, prompt int, said string) *answer {
	s := r.Sampling
	a := &answer{n: s.N, prompt: prompt, words: split(said, cmp.Or(s.MaxTokens, math.MaxInt-1)+1), finish: engine.FinishStop}
	a.logprobs, a.top = s.Logprobs, s.TopLogprobs > 0
	if r.Kind == engine.Text && r.Echo {
		a.echo = r.Prompt
	}
	if s.MaxTokens > 0 {
		a.cut(s.MaxTokens)
	}
	a.stop(s.Stop)
	return a
}

// cut ends the answer after n words.
func (a *answer) cut(n int) {
	if len(a.words) > n {
		a.words, a.finish = a.words[:n], engine.FinishLength
	}
}

// stop ends the answer before the first of the strings that it holds.
func (a *answer) stop(stops []string) {
	text := strings.Join(a.words, "")
	end := len(text)
	for _, s := range stops {
		if at := strings.Index(text, s); s != "" && at >= 0 {
			end = min(end, at)
		}
	}
	if end < len(text) {
		a.words, a.finish = split(text[:end], math.MaxInt), engine.FinishStop
	}
}

// emit says words from to upto of each choice in one piece.
func (a *answer) emit(emit func(engine.Chunk), from, upto int) {
	for n := range a.n {
		emit(a.chunk(n, from, upto))
	}
}

// chunk is words from to upto of choice n. The prompt's echo is part of the first, the reason for the end of the last.
func (a *answer) chunk(n, from, upto int) engine.Chunk {
	c := engine.Chunk{Index: n}
	if from == 0 {
		c.Text = a.echo
	}
	for _, w := range a.words[from:min(upto, len(a.words))] {
		c.Text += w
		c.Logprobs = append(c.Logprobs, a.logprob(w)...)
	}
	if upto >= len(a.words) {
		c.Finish = a.finish
	}
	return c
}

// state is what another run needs to go on after n words of each choice. The words' numbers stand for tokens.
func (a *answer) state(n int) *engine.Resume {
	r := &engine.Resume{Usage: engine.Usage{PromptTokens: a.prompt, CompletionTokens: a.n * n}}
	for range a.n {
		var p engine.Partial
		for i := range n {
			p.Tokens = append(p.Tokens, int32(i))
		}
		r.Choices = append(r.Choices, p)
	}
	return r
}

// resume is how many words of each choice an earlier run has said; 0 where it was not of this answer, or said all.
func (a *answer) resume(r *engine.Resume) int {
	if r == nil || len(r.Choices) != a.n {
		return 0
	}
	n := len(r.Choices[0].Tokens)
	if n >= len(a.words) {
		return 0
	}
	for i, c := range a.state(n).Choices {
		if !slices.Equal(c.Tokens, r.Choices[i].Tokens) {
			return 0
		}
	}
	return n
}

// logprob of a word is certainty.
func (a *answer) logprob(word string) []engine.Logprob {
	if !a.logprobs {
		return nil
	}
	l := engine.Logprob{Token: word, Bytes: []byte(word)}
	if a.top {
		l.Top = []engine.Logprob{{Token: word, Bytes: []byte(word)}}
	}
	return []engine.Logprob{l}
}

func (a *answer) completion() *engine.Completion {
	choice := engine.Choice{Text: a.echo + strings.Join(a.words, ""), Finish: a.finish}
	for _, w := range a.words {
		choice.Logprobs = append(choice.Logprobs, a.logprob(w)...)
	}
	c := &engine.Completion{Usage: engine.Usage{PromptTokens: a.prompt, CompletionTokens: a.n * len(a.words)}}
	for range a.n {
		c.Choices = append(c.Choices, choice)
	}
	return c
}

type message struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// content is a message's text: a string, null, or parts of which the texts are joined.
type content string

func (c *content) UnmarshalJSON(raw []byte) error {
	var s *string
	if err := json.Unmarshal(raw, &s); err == nil {
		if s != nil {
			*c = content(*s)
		}
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return errMessages("a message's content must be a string or an array of parts")
	}
	var all strings.Builder
	for _, p := range parts {
		if p.Type != "text" {
			return errMessages("echo reads text only, not parts of type %q", p.Type)
		}
		all.WriteString(p.Text)
	}
	*c = content(all.String())
	return nil
}

func parse(raw json.RawMessage) ([]message, error) {
	var list []message
	if err := json.Unmarshal(raw, &list); err != nil {
		if e := engine.AsError(err); e.Class == engine.Invalid {
			return nil, e
		}
		return nil, errMessages("messages must be objects with a role and a content")
	}
	return list, nil
}
