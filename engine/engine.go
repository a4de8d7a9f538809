// Package engine turns prompts into completions. It knows models and tokens, never jobs.
//
// An [Engine] is one way of doing so: llama.cpp in this process (engine/llama), any engine behind a process
// boundary (engine/child), an OpenAI-compatible server (engine/remote), or an answer at once (engine/echo).
// All of them pass the suite in engine/enginetest.
package engine

import (
	"context"
	"encoding/json"
)

// Engine runs requests for the models that it serves. All methods may be called from many goroutines.
type Engine interface {
	// Info says what is served now. It is cheap: no request is run.
	Info(ctx context.Context) (Info, error)

	// Run answers one request and returns when it is done. Requests that run at the same moment are batched by the
	// engine. emit, if not nil, is called in order, from one goroutine at a time, with each piece as it is made; it
	// must not block for long. The completion returned holds the whole text all the same.
	//
	// When ctx ends, Run stops within a step and returns its cause ([ErrHandOver]: after a last Save). Every other
	// failure is an *[Error].
	Run(ctx context.Context, r *Request, emit func(Chunk)) (*Completion, error)

	// Close frees the models. Runs under way end with [ErrUnavailable].
	Close() error
}

// Kind is the form of a request's prompt.
type Kind string

const (
	// Chat renders Messages with the model's own template.
	Chat Kind = "chat"
	// Text continues Prompt (or Tokens) as it stands.
	Text Kind = "text"
	// Embed makes a vector of each of Inputs. Nothing is sampled.
	Embed Kind = "embed"
	// Tokenize makes tokens of Prompt, without a token for its beginning. The texts of control tokens in it become those
	// tokens, as in a Text prompt.
	Tokenize Kind = "tokenize"
	// Count counts the tokens of the prompt that Chat would compute, as Usage.PromptTokens. Nothing is computed.
	Count Kind = "count"
	// Detokenize makes text of Tokens. Control tokens are spelled out, so that it is Tokenize's inverse.
	Detokenize Kind = "detokenize"
)

// Model names what a request runs on, resolved: an alias is looked up once, when the job is accepted. All but Name
// are lower-case hex SHA-256 digests, empty where there is none.
type Model struct {
	Name     string `json:"name"`
	Base     string `json:"base"`
	Adapter  string `json:"adapter,omitempty"`
	Template string `json:"template,omitempty"`
	Settings string `json:"settings,omitempty"`
}

// B is the short form of the base's digest that stands in subjects and durable names: its first 12 hex digits.
func (m Model) B() string { return m.Base[:min(12, len(m.Base))] }

// Request is one inference, with every default filled in: two equal requests with equal seeds have equal answers.
type Request struct {
	// ID names the request in crash notes and logs. It does not change the answer.
	ID    string `json:"id,omitempty"`
	Kind  Kind   `json:"kind"`
	Model Model  `json:"model"`
	// Scope is whose KV cells may be shared: the tenant.
	Scope string `json:"scope,omitempty"`
	// Deadline is when the answer is wanted at the latest, in unix milliseconds; 0 is whenever. Of the prompts that wait
	// to be computed, the earliest goes first. It does not change the answer.
	Deadline int64 `json:"deadline,omitempty"`
	// Messages is the client's array, keys in the client's order (templates print them in that order).
	Messages json.RawMessage `json:"messages,omitempty"`
	Prompt   string          `json:"prompt,omitempty"`
	// Suffix is what comes after the answer: the model fills the gap (Text only, where a model has tokens for it).
	Suffix string `json:"suffix,omitempty"`
	// Tokens is a prompt already tokenized; it wins over Prompt.
	Tokens []int32 `json:"tokens,omitempty"`
	// Inputs are the texts to embed, at least one.
	Inputs []Input `json:"inputs,omitempty"`
	// Dimensions is how long a vector is to be; 0 is the model's own length.
	Dimensions int `json:"dimensions,omitempty"`
	// Tools, ToolChoice and ResponseFormat are the client's JSON, unread here.
	Tools          json.RawMessage `json:"tools,omitempty"`
	ToolChoice     json.RawMessage `json:"tool_choice,omitempty"`
	ResponseFormat json.RawMessage `json:"response_format,omitempty"`
	// OneToolCall has the answer end after its first call.
	OneToolCall bool `json:"one_tool_call,omitempty"`
	// ReasoningEffort is how much a model that can think is to think, in OpenAI's words: "none" to "xhigh". Empty is the
	// model's own way.
	ReasoningEffort string `json:"reasoning_effort,omitempty"`
	// Grammar is what the answer must keep to, in llama.cpp's GBNF; empty is none.
	Grammar string `json:"grammar,omitempty"`
	// Echo puts the prompt before the answer's text (Text only).
	Echo     bool     `json:"echo,omitempty"`
	Sampling Sampling `json:"sampling"`
	// Deterministic asks for an answer that is the same to the last bit alone, in a crowd and after a restart, on the same
	// machine with the same settings. It is slower, and starts over where it is interrupted. Engines that can't promise
	// it refuse the request.
	Deterministic bool `json:"deterministic,omitempty"`
	// Resume, if not nil, is how far an earlier run of this request had come. The answer goes on from there, and emit
	// and the completion hold all of it. Where it is no beginning of this answer, or the engine can't go on from
	// tokens, the run starts over.
	Resume *Resume `json:"resume,omitempty"`
	// Save, if not nil, is called with how far the run has come, as [SaveDue] says and at an [ErrHandOver], by the
	// goroutine that calls emit. It must not block for long. An engine that can't go on from tokens never calls it.
	Save func(*Resume) `json:"-"`
	// Began, if not nil, is called once, when the engine begins to compute the request: before that nothing is lost by
	// ending it. It is called by any goroutine, and must return at once. Only engines with [Info].Ahead need call it.
	Began func() `json:"-"`
}

// Begin calls Began.
func (r *Request) Begin() {
	if r.Began != nil {
		r.Began()
	}
}

// Input is one text to embed: Tokens win over Text.
type Input struct {
	Text   string  `json:"text,omitempty"`
	Tokens []int32 `json:"tokens,omitempty"`
}

// Sampling says how tokens are drawn and when the answer ends.
type Sampling struct {
	// Temperature 0 takes the likeliest token. Range 0 to 2.
	Temperature float64 `json:"temperature"`
	TopP        float64 `json:"top_p"`           // 0 < p ≤ 1
	TopK        int     `json:"top_k,omitempty"` // 0: no limit
	MinP        float64 `json:"min_p,omitempty"` // 0: off
	// FrequencyPenalty and PresencePenalty are OpenAI's, -2 to 2, over the tokens of the answer.
	FrequencyPenalty float64 `json:"frequency_penalty,omitempty"`
	PresencePenalty  float64 `json:"presence_penalty,omitempty"`
	// RepeatPenalty is llama.cpp's, over prompt and answer; 0 and 1 are off.
	RepeatPenalty float64           `json:"repeat_penalty,omitempty"`
	LogitBias     map[int32]float64 `json:"logit_bias,omitempty"`
	// Seed is always set (the producer draws one where the client gave none), so that a retry draws the same tokens.
	Seed uint64   `json:"seed"`
	Stop []string `json:"stop,omitempty"` // at most 4; cut from the answer
	// MaxTokens bounds the answer; 0 is until its end or the context's.
	MaxTokens int  `json:"max_tokens,omitempty"`
	MinTokens int  `json:"min_tokens,omitempty"`
	IgnoreEOS bool `json:"ignore_eos,omitempty"`
	// N is the number of answers, at least 1; answer i draws with Seed + i.
	N int `json:"n"`
	// BestOf, if more than N, is how many answers are made; the N of them are given that have the highest log-probability
	// a token. Such an answer is not streamed.
	BestOf int `json:"best_of,omitempty"`
	// Logprobs asks for the tokens' log-probabilities; TopLogprobs (0 to 20) for the likeliest others.
	Logprobs    bool `json:"logprobs,omitempty"`
	TopLogprobs int  `json:"top_logprobs,omitempty"`
}

// Chunk is a piece of an answer, in whole UTF-8 characters.
type Chunk struct {
	Index int    `json:"index"`
	Text  string `json:"text,omitempty"`
	// Reasoning is what the model thinks before its answer. It comes after Text only where a model says something, and
	// thinks again before it calls a function.
	Reasoning string    `json:"reasoning,omitempty"`
	Logprobs  []Logprob `json:"logprobs,omitempty"`
	// Finish is set on the last chunk of an answer, with or without text.
	Finish Finish `json:"finish,omitempty"`
}

// Finish is why an answer ended, in OpenAI's words.
type Finish string

const (
	FinishStop      Finish = "stop"       // end of text or a stop string
	FinishLength    Finish = "length"     // MaxTokens or the context's end
	FinishToolCalls Finish = "tool_calls" // the answer is a call that the model chose to make, or of which it chose the function
)

// CallFinish is why an answer ended that holds calls and came to its own end. As at OpenAI that is a mere stop where
// tool_choice named the function, in streams too.
func (r *Request) CallFinish() Finish {
	var named struct{ Type string }
	if json.Unmarshal(r.ToolChoice, &named) == nil && named.Type == "function" {
		return FinishStop
	}
	return FinishToolCalls
}

// Logprob is one token and how likely it was (natural logarithm).
type Logprob struct {
	Token   string    `json:"token"`
	Logprob float64   `json:"logprob"`
	Bytes   []byte    `json:"bytes,omitempty"`
	Top     []Logprob `json:"top,omitempty"`
}

// Completion is the whole answer to a request.
type Completion struct {
	// Choices are the answers; one for Tokenize and Count, without a text, and Detokenize, none for Embed.
	Choices []Choice `json:"choices"`
	// Embeddings are the vectors of Embed, in the order of the inputs; Tokens are those of Tokenize.
	Embeddings []Vector `json:"embeddings,omitempty"`
	Tokens     []int32  `json:"tokens,omitempty"`
	Usage      Usage    `json:"usage"`
}

// Choice is one of N answers.
type Choice struct {
	Text string `json:"text"`
	// Reasoning is what the model thought before the text, where it is one that thinks (Chat only).
	Reasoning string    `json:"reasoning,omitempty"`
	Finish    Finish    `json:"finish"`
	Logprobs  []Logprob `json:"logprobs,omitempty"`
	// ToolCalls is OpenAI's array, where the model made calls.
	ToolCalls json.RawMessage `json:"tool_calls,omitempty"`
}

// Usage counts what a request cost.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CachedTokens     int `json:"cached_tokens,omitempty"` // of PromptTokens, found in the KV cache
	CompletionTokens int `json:"completion_tokens"`       // over all choices
	// ResumedTokens, of CompletionTokens, were drawn by earlier runs. This one only computed them like a prompt.
	ResumedTokens int `json:"resumed_tokens,omitempty"`
	// ReasoningTokens are those of CompletionTokens that the model thought with.
	ReasoningTokens int `json:"reasoning_tokens,omitempty"`
	// EngineSeconds is this request's share of the engine's time: each step's time divided by its rows.
	EngineSeconds float64 `json:"engine_seconds,omitempty"`
	// FirstTokenSeconds is the time from Run to the first token, EngineSeconds or not.
	FirstTokenSeconds float64 `json:"first_token_seconds,omitempty"`
}

// Info is what an engine serves, and on what.
type Info struct {
	Models []ModelInfo `json:"models"`
	// Slots is how many sequences run at the same moment.
	Slots int `json:"slots"`
	// Ahead is how many requests beside those in its slots the engine wants to have waiting: it chooses among them, and
	// fills a slot at the moment when one is free. 0: it runs all that it is given at once.
	Ahead  int    `json:"ahead,omitempty"`
	Device string `json:"device"` // as "cpu (2 threads)" or "cuda:0 NVIDIA H100"
	// Version says what computes, as "llama.cpp v0.5.0".
	Version string `json:"version"`
}

// ModelInfo is one model that an engine serves.
type ModelInfo struct {
	Model
	// Context is the longest prompt and answer together, in tokens; 0 where the engine does not say.
	Context int `json:"context,omitempty"`
}

// DecodeObserver is told which requests (by ID) the engine is about to run in one native call, so that a crash can
// be put down to them. It is called on the engine's loop, only when the set changes: it must return at once.
type DecodeObserver func(ids []string)
