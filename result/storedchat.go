package result

import "encoding/json"

// ChatEcho is what a stored chat completion repeats of its request. Nulls are as OpenAI's.
type ChatEcho struct {
	RequestID        string            `json:"request_id"`
	Metadata         map[string]string `json:"metadata"`
	InputUser        json.RawMessage   `json:"input_user"`
	ServiceTier      string            `json:"service_tier"`
	Temperature      float64           `json:"temperature"`
	TopP             float64           `json:"top_p"`
	PresencePenalty  float64           `json:"presence_penalty"`
	FrequencyPenalty float64           `json:"frequency_penalty"`
	Seed             *int64            `json:"seed"`
	Tools            json.RawMessage   `json:"tools"`
	ToolChoice       json.RawMessage   `json:"tool_choice"`
	ResponseFormat   json.RawMessage   `json:"response_format"`
}

// StoredChat is the chat completion of a verdict that succeeded, with what it was asked.
type StoredChat struct {
	chatBody
	ChatEcho
}

// NewStoredChat makes one.
func NewStoredChat(v *Verdict, e ChatEcho) StoredChat { return StoredChat{chatCompletion(v), e} }
