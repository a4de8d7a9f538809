package producer

import (
	"encoding/json"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// shape makes OpenAI's chunks of an answer.
type shape struct {
	id, object, model string
	created           int64
	chat              bool
	// counted streams have "usage": null in each chunk but the last, as OpenAI's.
	counted bool
	offset  map[int]int // where a text completion's next token begins
}

func shapeOf(j *queue.Job, counted bool) shape {
	s := shape{id: result.AnswerID(j.Endpoint, j.ID), object: "text_completion", model: j.Request.Model.Name, created: j.Created / 1000,
		chat: j.Endpoint == queue.Chat, counted: counted, offset: map[int]int{}}
	if s.chat {
		s.object = "chat.completion.chunk"
	}
	return s
}

// chunk is one event of a stream.
type chunk struct {
	ID      string          `json:"id"`
	Object  string          `json:"object"`
	Created int64           `json:"created"`
	Model   string          `json:"model"`
	Choices []any           `json:"choices"`
	Usage   json.RawMessage `json:"usage,omitempty"`
}

// delta is what is new in a choice of a chat.
type delta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
	// Reasoning is what the model thinks, as llama-server, vLLM and DeepSeek name it.
	Reasoning string          `json:"reasoning_content,omitempty"`
	ToolCalls json.RawMessage `json:"tool_calls,omitempty"`
}

type chatDelta struct {
	Index    int                  `json:"index"`
	Delta    delta                `json:"delta"`
	Logprobs *result.ChatLogprobs `json:"logprobs"`
	Finish   *engine.Finish       `json:"finish_reason"`
}

type textDelta struct {
	Index    int                  `json:"index"`
	Text     string               `json:"text"`
	Logprobs *result.TextLogprobs `json:"logprobs"`
	Finish   *engine.Finish       `json:"finish_reason"`
}

func (s shape) chunk(choices ...any) *chunk {
	c := &chunk{ID: s.id, Object: s.object, Created: s.created, Model: s.model, Choices: append([]any{}, choices...)}
	if s.counted {
		c.Usage = json.RawMessage("null")
	}
	return c
}

// opening says who speaks; a text completion has no such thing (nil).
func (s shape) opening(i int) any {
	if !s.chat {
		return nil
	}
	empty := ""
	return s.chunk(chatDelta{Index: i, Delta: delta{Role: "assistant", Content: &empty}})
}

// piece is text, with the logprobs of its tokens.
func (s shape) piece(c engine.Chunk) any {
	if c.Text == "" && c.Reasoning == "" && len(c.Logprobs) == 0 {
		return nil
	}
	if s.chat {
		d := delta{Content: &c.Text, Reasoning: c.Reasoning}
		if c.Text == "" && c.Reasoning != "" {
			d.Content = nil
		}
		return s.chunk(chatDelta{Index: c.Index, Delta: d, Logprobs: result.NewChatLogprobs(c.Logprobs)})
	}
	from := s.offset[c.Index]
	s.offset[c.Index] += len(c.Text)
	return s.chunk(textDelta{Index: c.Index, Text: c.Text, Logprobs: result.NewTextLogprobs(c.Logprobs, from)})
}

// calls are what a model called; nil where it did not.
func (s shape) calls(i int, calls json.RawMessage) any {
	if n := numbered(calls); s.chat && n != nil {
		return s.chunk(chatDelta{Index: i, Delta: delta{ToolCalls: n}})
	}
	return nil
}

// end says why a choice ended.
func (s shape) end(i int, f engine.Finish) any {
	if s.chat {
		return s.chunk(chatDelta{Index: i, Finish: &f})
	}
	return s.chunk(textDelta{Index: i, Finish: &f})
}

// usage is the last chunk of a counted stream: no choices.
func (s shape) usage(u engine.Usage) any {
	c := s.chunk()
	b, err := json.Marshal(result.OpenAIUsage(u))
	if err != nil {
		panic("producer: " + err.Error()) // our own type: a bug
	}
	c.Usage = b
	return c
}

// numbered is tool calls as deltas, which have an index each.
func numbered(calls json.RawMessage) json.RawMessage {
	var list []map[string]any
	if json.Unmarshal(calls, &list) != nil || len(list) == 0 {
		return nil
	}
	for i := range list {
		list[i]["index"] = i
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil
	}
	return b
}
