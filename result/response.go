package result

import (
	"encoding/json"
	"net/http"

	"lorry/engine"
	"lorry/queue"
)

// statuses is the one table from errors to HTTP.
var statuses = map[engine.Class]struct {
	status     int
	kind, code string
}{
	engine.Invalid:     {http.StatusBadRequest, "invalid_request_error", ""},
	engine.NotFound:    {http.StatusNotFound, "invalid_request_error", engine.CodeModelNotFound},
	engine.Unavailable: {http.StatusServiceUnavailable, "server_error", "engine_unavailable"},
	engine.Crashed:     {http.StatusInternalServerError, "server_error", "engine_crashed"},
	engine.Internal:    {http.StatusInternalServerError, "server_error", "internal_error"},
	engine.Cancelled:   {499, "invalid_request_error", "job_cancelled"},
	engine.Expired:     {http.StatusRequestTimeout, "invalid_request_error", "deadline_exceeded"},
}

// APIError is OpenAI's error object.
type APIError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// ErrorResponse is an error's HTTP status and OpenAI body, {"error": {…}}.
func ErrorResponse(e *engine.Error) (status int, body []byte) {
	row, ok := statuses[e.Class]
	if !ok {
		row = statuses[engine.Internal]
	}
	api := APIError{Message: e.Message, Type: row.kind, Param: optional(e.Param), Code: optional(e.Code)}
	if api.Code == nil {
		api.Code = optional(row.code)
	}
	return row.status, must(json.Marshal(map[string]APIError{"error": api}))
}

// Response is a verdict's HTTP status and body in the shape of its endpoint. A response repeats nothing of its request
// but the metadata: a verdict does not know the rest.
func Response(v *Verdict) (status int, body []byte) {
	if v.State != queue.Succeeded {
		return ErrorResponse(v.failure())
	}
	return http.StatusOK, must(json.Marshal(v.body()))
}

// body is an answer in the shape of its endpoint.
func (v *Verdict) body() any {
	switch v.Endpoint {
	case queue.Generate:
		return generated(v)
	case queue.Completions:
		return textCompletion(v)
	case queue.Responses, queue.Compact: // the producer makes a compaction of it, which takes the request's items
		return response(v)
	case queue.Embeddings:
		return embeddings(v)
	case queue.InputTokens:
		return map[string]any{"object": "response.input_tokens", "input_tokens": v.Completion.Usage.PromptTokens}
	case queue.Tokenize:
		return map[string][]int32{"tokens": append([]int32{}, v.Completion.Tokens...)} // none are [], not null
	case queue.Detokenize:
		return map[string]string{"content": v.Completion.Choices[0].Text}
	}
	return chatCompletion(v)
}

func (v *Verdict) failure() *engine.Error {
	switch {
	case v.Error != nil:
		return v.Error
	case v.State == queue.Cancelled:
		return engine.Errorf(engine.Cancelled, "", "", "The job was cancelled.")
	case v.State == queue.Expired:
		return engine.Errorf(engine.Expired, "", "", "The job's deadline passed before it was answered.")
	}
	return engine.Errorf(engine.Internal, "", "", "The job failed.")
}

// Usage is OpenAI's token count.
type Usage struct {
	PromptTokens     int           `json:"prompt_tokens"`
	CompletionTokens int           `json:"completion_tokens"`
	TotalTokens      int           `json:"total_tokens"`
	PromptDetails    PromptDetails `json:"prompt_tokens_details"`
	// AnswerDetails is there where there is something to tell.
	AnswerDetails *AnswerDetails `json:"completion_tokens_details,omitempty"`
}

// PromptDetails says where a prompt's tokens came from.
type PromptDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

// AnswerDetails says what an answer's tokens were.
type AnswerDetails struct {
	ReasoningTokens int `json:"reasoning_tokens"`
}

// OpenAIUsage is u in OpenAI's shape; cached_tokens are KV prefix hits, never the response cache's.
func OpenAIUsage(u engine.Usage) Usage {
	out := Usage{u.PromptTokens, u.CompletionTokens, u.PromptTokens + u.CompletionTokens, PromptDetails{u.CachedTokens}, nil}
	if u.ReasoningTokens > 0 {
		out.AnswerDetails = &AnswerDetails{u.ReasoningTokens}
	}
	return out
}

// Message is the assistant's, in a chat completion.
type Message struct {
	Role    string  `json:"role"`
	Content *string `json:"content"`
	// Reasoning is what the model thought, as llama-server, vLLM and DeepSeek name it.
	Reasoning string          `json:"reasoning_content,omitempty"`
	Refusal   *string         `json:"refusal"`
	ToolCalls json.RawMessage `json:"tool_calls,omitempty"`
}

type chatChoice struct {
	Index    int           `json:"index"`
	Message  Message       `json:"message"`
	Logprobs *ChatLogprobs `json:"logprobs"`
	Finish   engine.Finish `json:"finish_reason"`
}

type chatBody struct {
	ID      string       `json:"id"`
	Object  string       `json:"object"`
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Choices []chatChoice `json:"choices"`
	Usage   Usage        `json:"usage"`
}

// AnswerID is the ID of the answer's own object, made of the job's.
func AnswerID(e queue.Endpoint, job string) string {
	switch e {
	case queue.Completions:
		return "cmpl-" + trimJob(job)
	case queue.Responses:
		return "resp_" + trimJob(job)
	}
	return "chatcmpl-" + trimJob(job)
}

func trimJob(id string) string {
	if len(id) > 4 && id[:4] == "job_" {
		return id[4:]
	}
	return id
}

func chatCompletion(v *Verdict) chatBody {
	out := chatBody{ID: AnswerID(v.Endpoint, v.Job), Object: "chat.completion", Created: v.Created / 1000, Model: v.Model.Name,
		Choices: []chatChoice{}, Usage: OpenAIUsage(v.Completion.Usage)}
	for i, c := range v.Completion.Choices {
		m := Message{Role: "assistant", Content: &c.Text, Reasoning: c.Reasoning, ToolCalls: c.ToolCalls}
		if len(c.ToolCalls) > 0 && c.Text == "" {
			m.Content = nil
		}
		out.Choices = append(out.Choices, chatChoice{Index: i, Message: m, Logprobs: NewChatLogprobs(c.Logprobs), Finish: c.Finish})
	}
	return out
}

type textChoice struct {
	Index    int           `json:"index"`
	Text     string        `json:"text"`
	Logprobs *TextLogprobs `json:"logprobs"`
	Finish   engine.Finish `json:"finish_reason"`
}

type textBody struct {
	ID      string       `json:"id"`
	Object  string       `json:"object"`
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Choices []textChoice `json:"choices"`
	Usage   Usage        `json:"usage"`
}

func textCompletion(v *Verdict) textBody {
	out := textBody{ID: AnswerID(v.Endpoint, v.Job), Object: "text_completion", Created: v.Created / 1000, Model: v.Model.Name,
		Choices: []textChoice{}, Usage: OpenAIUsage(v.Completion.Usage)}
	for i, c := range v.Completion.Choices {
		out.Choices = append(out.Choices, textChoice{Index: i, Text: c.Text, Logprobs: NewTextLogprobs(c.Logprobs, 0), Finish: c.Finish})
	}
	return out
}

// generated is TGI's answer, which is also that of {"text": …}.
func generated(v *Verdict) map[string]any {
	c := v.Completion.Choices[0]
	return map[string]any{"generated_text": c.Text, "details": map[string]any{
		"finish_reason": c.Finish, "generated_tokens": v.Completion.Usage.CompletionTokens, "job": v.Job}}
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("result: " + err.Error()) // our own types: a bug
	}
	return v
}
