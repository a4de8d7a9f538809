package result

import "lorry/engine"

// ChatLogprobs is OpenAI's choices[].logprobs of a chat completion.
type ChatLogprobs struct {
	Content []ChatLogprob `json:"content"`
	Refusal []ChatLogprob `json:"refusal"`
}

// ChatLogprob is one token of it.
type ChatLogprob struct {
	Token   string        `json:"token"`
	Logprob float64       `json:"logprob"`
	Bytes   []int         `json:"bytes"`
	Top     []ChatLogprob `json:"top_logprobs,omitempty"`
}

// NewChatLogprobs converts an engine's; nil where there are none.
func NewChatLogprobs(ls []engine.Logprob) *ChatLogprobs {
	if len(ls) == 0 {
		return nil
	}
	out := &ChatLogprobs{}
	for _, l := range ls {
		c := chatLogprob(l)
		for _, t := range l.Top {
			c.Top = append(c.Top, chatLogprob(t))
		}
		out.Content = append(out.Content, c)
	}
	return out
}

func chatLogprob(l engine.Logprob) ChatLogprob {
	b := l.Bytes
	if len(b) == 0 {
		b = []byte(l.Token)
	}
	ints := make([]int, len(b))
	for i, x := range b {
		ints[i] = int(x)
	}
	return ChatLogprob{Token: l.Token, Logprob: l.Logprob, Bytes: ints}
}

// TextLogprobs is OpenAI's choices[].logprobs of a text completion: parallel arrays.
type TextLogprobs struct {
	Tokens        []string             `json:"tokens"`
	TokenLogprobs []float64            `json:"token_logprobs"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"`
}

// NewTextLogprobs converts an engine's, the first token at offset bytes of the text; nil where there are none.
func NewTextLogprobs(ls []engine.Logprob, offset int) *TextLogprobs {
	if len(ls) == 0 {
		return nil
	}
	out := &TextLogprobs{}
	for _, l := range ls {
		top := map[string]float64{}
		for _, t := range l.Top {
			top[t.Token] = t.Logprob
		}
		out.Tokens, out.TokenLogprobs = append(out.Tokens, l.Token), append(out.TokenLogprobs, l.Logprob)
		out.TopLogprobs, out.TextOffset = append(out.TopLogprobs, top), append(out.TextOffset, offset)
		offset += len(l.Token)
	}
	return out
}
