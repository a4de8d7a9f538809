package result

import (
	"encoding/json"
	"strconv"

	"lorry/engine"
	"lorry/queue"
)

// ResponseEcho is what a response repeats of its request. Nulls are as OpenAI's.
type ResponseEcho struct {
	Background         bool              `json:"background"`
	Instructions       *string           `json:"instructions"`
	MaxOutputTokens    *int              `json:"max_output_tokens"`
	Metadata           map[string]string `json:"metadata"`
	ParallelToolCalls  bool              `json:"parallel_tool_calls"`
	PreviousResponseID *string           `json:"previous_response_id"`
	PromptCacheKey     *string           `json:"prompt_cache_key"`
	SafetyIdentifier   *string           `json:"safety_identifier"`
	ServiceTier        string            `json:"service_tier"`
	Store              bool              `json:"store"`
	Temperature        *float64          `json:"temperature"`
	Text               json.RawMessage   `json:"text"`
	ToolChoice         json.RawMessage   `json:"tool_choice"`
	Tools              json.RawMessage   `json:"tools"`
	TopLogprobs        int               `json:"top_logprobs"`
	TopP               *float64          `json:"top_p"`
	Truncation         string            `json:"truncation"`
	User               *string           `json:"user"`
}

// NewResponseEcho is that of a request which says nothing.
func NewResponseEcho() ResponseEcho {
	return ResponseEcho{Metadata: map[string]string{}, ParallelToolCalls: true, ServiceTier: "default", Text: json.RawMessage(`{"format":{"type":"text"}}`),
		ToolChoice: json.RawMessage(`"auto"`), Tools: json.RawMessage(`[]`), Truncation: "disabled"}
}

// ResponseBody is OpenAI's Response object.
type ResponseBody struct {
	ID          string `json:"id"`
	Object      string `json:"object"` // "response"
	CreatedAt   int64  `json:"created_at"`
	CompletedAt *int64 `json:"completed_at"`
	// Status is queued, in_progress, completed, incomplete, failed or cancelled.
	Status     string              `json:"status"`
	Error      *ResponseError      `json:"error"`
	Incomplete *ResponseIncomplete `json:"incomplete_details"`
	Model      string              `json:"model"`
	Output     []any               `json:"output"`
	Usage      *ResponseUsage      `json:"usage"`
	ResponseEcho
}

// ResponseError is why a response failed; Code is OpenAI's "server_error" or "invalid_prompt".
type ResponseError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// ResponseIncomplete is why one ended early.
type ResponseIncomplete struct {
	Reason string `json:"reason"`
}

// ResponseUsage is OpenAI's count of tokens.
type ResponseUsage struct {
	InputTokens   int            `json:"input_tokens"`
	InputDetails  map[string]int `json:"input_tokens_details"`
	OutputTokens  int            `json:"output_tokens"`
	OutputDetails map[string]int `json:"output_tokens_details"`
	TotalTokens   int            `json:"total_tokens"`
}

// OutputMessage is the item of a response's text.
type OutputMessage struct {
	ID      string       `json:"id"`
	Type    string       `json:"type"` // "message"
	Status  string       `json:"status"`
	Role    string       `json:"role"`
	Content []OutputText `json:"content"`
}

// OutputText is a part of it.
type OutputText struct {
	Type        string        `json:"type"` // "output_text"
	Text        string        `json:"text"`
	Annotations []any         `json:"annotations"`
	Logprobs    []ChatLogprob `json:"logprobs"`
}

// FunctionCall is the item of a call that the model made.
type FunctionCall struct {
	ID        string `json:"id"`
	Type      string `json:"type"` // "function_call"
	Status    string `json:"status"`
	CallID    string `json:"call_id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// NewResponse is a response that is not over yet.
func NewResponse(job, model string, created int64, status string, echo ResponseEcho) ResponseBody {
	return ResponseBody{ID: AnswerID(queue.Responses, job), Object: "response", CreatedAt: created / 1000, Status: status, Model: model, Output: []any{}, ResponseEcho: echo}
}

// EndedResponse is one that is over, however it ended.
func EndedResponse(v *Verdict, echo ResponseEcho) ResponseBody {
	r := NewResponse(v.Job, v.Model.Name, v.Created, ResponseStatus(v), echo)
	if v.State != queue.Succeeded {
		r.fail(v)
		return r
	}
	ended := v.Ended / 1000
	r.CompletedAt = &ended
	if r.Status == "incomplete" {
		r.Incomplete = &ResponseIncomplete{"max_output_tokens"}
	}
	r.Usage = responseUsage(v.Completion.Usage)
	if m := ResponseMessage(v); m != nil {
		r.Output = append(r.Output, *m)
	}
	for _, c := range ResponseCalls(v) {
		r.Output = append(r.Output, c)
	}
	return r
}

// ResponseStatus is how OpenAI calls the end.
func ResponseStatus(v *Verdict) string {
	switch v.State {
	case queue.Succeeded:
		if v.Completion.Choices[0].Finish == engine.FinishLength {
			return "incomplete"
		}
		return "completed"
	case queue.Cancelled:
		return "cancelled"
	}
	return "failed"
}

func (r *ResponseBody) fail(v *Verdict) {
	if v.State == queue.Cancelled {
		return
	}
	e := v.failure()
	r.Error = &ResponseError{"server_error", e.Message}
	if e.Class == engine.Invalid || e.Class == engine.NotFound {
		r.Error.Code = "invalid_prompt"
	}
}

func responseUsage(u engine.Usage) *ResponseUsage {
	return &ResponseUsage{InputTokens: u.PromptTokens, InputDetails: map[string]int{"cached_tokens": u.CachedTokens, "cache_write_tokens": 0},
		OutputTokens: u.CompletionTokens, OutputDetails: map[string]int{"reasoning_tokens": u.ReasoningTokens}, TotalTokens: u.PromptTokens + u.CompletionTokens}
}

// MessageID is the ID of a response's text.
func MessageID(job string) string { return "msg_" + trimJob(job) }

// ResponseMessage is the text of an answer as an item; nil where the model only called functions, or was not asked: what
// a model said has a reason for its end.
func ResponseMessage(v *Verdict) *OutputMessage {
	c := v.Completion.Choices[0]
	if c.Text == "" && (c.Finish == "" || len(ResponseCalls(v)) > 0) {
		return nil
	}
	part := OutputText{Type: "output_text", Text: c.Text, Annotations: []any{}, Logprobs: ResponseLogprobs(c.Logprobs)}
	return &OutputMessage{ID: MessageID(v.Job), Type: "message", Status: itemStatus(c), Role: "assistant", Content: []OutputText{part}}
}

func itemStatus(c engine.Choice) string {
	if c.Finish == engine.FinishLength {
		return "incomplete"
	}
	return "completed"
}

// ResponseLogprobs are tokens as the Responses API lists them.
func ResponseLogprobs(ls []engine.Logprob) []ChatLogprob {
	if l := NewChatLogprobs(ls); l != nil {
		return l.Content
	}
	return []ChatLogprob{}
}

// ResponseCalls are the calls of an answer as items.
func ResponseCalls(v *Verdict) []FunctionCall {
	var calls []struct {
		ID       string `json:"id"`
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	}
	_ = json.Unmarshal(v.Completion.Choices[0].ToolCalls, &calls) // an engine's own; none is none
	out := make([]FunctionCall, len(calls))
	for i, c := range calls {
		out[i] = FunctionCall{ID: "fc_" + trimJob(v.Job) + "_" + strconv.Itoa(i), Type: "function_call", Status: "completed", CallID: c.ID, Name: c.Function.Name, Arguments: c.Function.Arguments}
	}
	return out
}

// response is an answer by what its verdict knows.
func response(v *Verdict) ResponseBody {
	echo := NewResponseEcho()
	if v.Metadata != nil {
		echo.Metadata = v.Metadata
	}
	return EndedResponse(v, echo)
}
