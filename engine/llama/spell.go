package llama

import (
	"strings"
	"unicode/utf8"

	"github.com/hybridgroup/yzma/pkg/llama"

	"lorry/engine"
)

// spell makes tokens of a text, or a text of tokens. It computes nothing and waits for nobody.
func (e *Engine) spell(r *engine.Request) (*engine.Completion, error) {
	e.native.RLock()
	defer e.native.RUnlock()
	if err := e.admits(r); err != nil {
		return nil, err
	}
	c := &engine.Completion{Choices: []engine.Choice{{Finish: engine.FinishStop}}}
	if r.Kind == engine.Detokenize {
		c.Choices[0].Text = e.model.vocab.spell(r.Tokens)
		return c, nil
	}
	if !utf8.ValidString(r.Prompt) {
		return nil, invalid("content", "the content is no valid UTF-8")
	}
	c.Tokens = e.model.vocab.tokenize(r.Prompt, true)
	return c, nil
}

// count makes a conversation's prompt, as a run of it would, and says how many tokens it has.
func (e *Engine) count(r *engine.Request) (*engine.Completion, error) {
	asked := *r
	asked.Kind, asked.Sampling.N = engine.Chat, 1
	p, err := e.prepare(&asked)
	if err != nil {
		return nil, err
	}
	return &engine.Completion{Choices: []engine.Choice{{Finish: engine.FinishStop}}, Usage: engine.Usage{PromptTokens: len(p.prompt)}}, nil
}

// spell is the text of tokens, with control tokens by their names.
func (v *vocab) spell(ids []int32) string {
	var b []byte
	for _, id := range ids {
		if len(v.pieces[id]) == 0 {
			b = append(b, v.text(id)...)
		}
		b = append(b, v.pieces[id]...)
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

// passage is a text's tokens as models that embed want them: between the marks of its beginning and end, where the
// model's file asks for these. The texts of control tokens stay text.
func (v *vocab) passage(s string) []int32 {
	return ints(llama.Tokenize(v.native, s, true, false))
}
