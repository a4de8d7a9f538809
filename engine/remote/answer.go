package remote

import (
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"lorry/engine"
)

// wireAnswer is a whole answer, or an event of a stream: chats put texts into message or delta, texts into text.
type wireAnswer struct {
	Choices []wireChoice    `json:"choices"`
	Usage   *wireUsage      `json:"usage"`
	Timings *wireTimings    `json:"timings"`
	Error   json.RawMessage `json:"error"`
	// ErrorType is TGI's, beside an error that is a text.
	ErrorType string `json:"error_type"`
}

type wireChoice struct {
	Index    int          `json:"index"`
	Text     string       `json:"text"`
	Message  *wireMessage `json:"message"`
	Delta    *wireMessage `json:"delta"`
	Finish   *string      `json:"finish_reason"`
	Logprobs wireLogprobs `json:"logprobs"`
}

type wireMessage struct {
	Content   *string        `json:"content"`
	Reasoning string         `json:"reasoning_content"` // llama-server, vLLM, DeepSeek
	Thought   string         `json:"reasoning"`         // newer vLLM, some hosts
	ToolCalls []wireToolCall `json:"tool_calls"`
}

type wireUsage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	Details          struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	AnswerDetails struct {
		Reasoning int `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

// wireTimings are llama-server's. They count where usage is missing, and know the engine's time.
type wireTimings struct {
	PromptN     int     `json:"prompt_n"`
	CacheN      int     `json:"cache_n"`
	PromptMS    float64 `json:"prompt_ms"`
	PredictedN  int     `json:"predicted_n"`
	PredictedMS float64 `json:"predicted_ms"`
}

// answer gathers what a server says, whole or in pieces.
type answer struct {
	r       *engine.Request
	emit    func(engine.Chunk)
	choices []gathered
	began   time.Time
	first   float64
	pieces  int // passed on
	tokens  int // events with text: an estimate where nobody counts
	usage   *wireUsage
	timings *wireTimings
}

// gathered is one choice so far.
type gathered struct {
	text     strings.Builder
	thought  strings.Builder
	logprobs []engine.Logprob
	calls    []wireToolCall
	seen     bool // the server spoke of it
	begun    bool // the prompt's echo was given
	ended    bool
	reason   string
	finish   engine.Finish // set when it was passed on
}

func newAnswer(r *engine.Request, emit func(engine.Chunk)) *answer {
	return &answer{r: r, emit: emit, choices: make([]gathered, r.Sampling.N), began: time.Now()}
}

// add takes an answer or an event.
func (a *answer) add(w *wireAnswer) error {
	if w.Usage != nil {
		a.usage = w.Usage
	}
	if w.Timings != nil {
		a.timings = w.Timings
	}
	for i := range w.Choices {
		if err := a.choice(&w.Choices[i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *answer) choice(w *wireChoice) error {
	if w.Index < 0 || w.Index >= len(a.choices) {
		return engine.Errorf(engine.Internal, "", "", "engine/remote: the server gave answer %d of %d", w.Index, len(a.choices))
	}
	g := &a.choices[w.Index]
	g.seen = true
	text, calls := w.said()
	g.calls = joinCalls(g.calls, calls)
	logprobs := w.Logprobs.tokens(a.r.Sampling.TopLogprobs)
	if w.Finish != nil && *w.Finish == "abort" {
		return broken("the server aborted the request")
	}
	if w.Finish != nil {
		g.ended, g.reason = true, *w.Finish
	}
	a.gain(w.Index, w.thought(), text, logprobs)
	return nil
}

// said is the choice's text, wherever it stands; a content of null is none.
func (w *wireChoice) said() (string, []wireToolCall) {
	m := cmp.Or(w.Message, w.Delta)
	switch {
	case m == nil:
		return w.Text, nil
	case m.Content == nil:
		return "", m.ToolCalls
	}
	return *m.Content, m.ToolCalls
}

// thought is what the model thinks, by either of its names; a server that sends both means one.
func (w *wireChoice) thought() string {
	if m := cmp.Or(w.Message, w.Delta); m != nil {
		return cmp.Or(m.Reasoning, m.Thought)
	}
	return ""
}

// gain adds a piece to a choice and passes it on: with the prompt before the first one where that is wanted, and with
// the reason for the end where it is known.
func (a *answer) gain(i int, thought, text string, logprobs []engine.Logprob) {
	g := &a.choices[i]
	if text != "" || thought != "" || len(logprobs) > 0 {
		if a.first == 0 {
			a.first = time.Since(a.began).Seconds()
		}
		a.tokens++
	}
	if !g.begun && a.r.Echo && !serverEchoes(a.r) && (text != "" || g.ended) {
		text, g.begun = a.r.Prompt+text, true
	}
	g.text.WriteString(text)
	g.thought.WriteString(thought)
	g.logprobs = append(g.logprobs, logprobs...)
	c := engine.Chunk{Index: i, Text: text, Reasoning: thought, Logprobs: logprobs}
	if g.ended && g.reason != "" && g.finish == "" {
		g.finish = finishOf(g.reason, a.r)
		c.Finish = g.finish
	}
	a.tell(c)
}

func (a *answer) tell(c engine.Chunk) {
	if a.emit == nil || (c.Text == "" && c.Reasoning == "" && len(c.Logprobs) == 0 && c.Finish == "") {
		return
	}
	a.pieces++
	a.emit(c)
}

// ended says that every choice has come to its end.
func (a *answer) ended() bool {
	for i := range a.choices {
		if !a.choices[i].ended {
			return false
		}
	}
	return true
}

// finish ends the choices whose end the server did not explain.
func (a *answer) finish() {
	for i := range a.choices {
		if g := &a.choices[i]; g.finish == "" {
			g.ended, g.reason = true, string(a.guess(g))
			a.gain(i, "", "", nil)
		}
	}
}

// guess is why an answer ended when the server gave no reason.
func (a *answer) guess(g *gathered) engine.Finish {
	switch n := a.r.Sampling.MaxTokens; {
	case len(g.calls) > 0:
		return a.r.CallFinish()
	case n > 0 && a.counts().CompletionTokens >= n*len(a.choices):
		return engine.FinishLength
	}
	return engine.FinishStop
}

// finishOf translates: TGI says eos_token and stop_sequence, SGLang may say its matched stop, OpenAI content_filter. Not
// all say of a call to a named function what OpenAI says.
func finishOf(reason string, r *engine.Request) engine.Finish {
	switch reason {
	case "length", "max_tokens":
		return engine.FinishLength
	case "tool_calls", "function_call":
		return r.CallFinish()
	}
	return engine.FinishStop
}

// completion is the whole. An answer with a choice missing is none.
func (a *answer) completion() (*engine.Completion, error) {
	for i := range a.choices {
		if !a.choices[i].seen {
			return nil, engine.Errorf(engine.Internal, "", "", "engine/remote: the server gave no answer %d of %d", i+1, len(a.choices))
		}
	}
	a.finish()
	c := &engine.Completion{Usage: a.counts()}
	for i := range a.choices {
		g := &a.choices[i]
		choice := engine.Choice{Text: g.text.String(), Reasoning: g.thought.String(), Finish: g.finish, Logprobs: g.logprobs}
		if len(g.calls) > 0 {
			choice.ToolCalls, _ = json.Marshal(g.calls)
		}
		c.Choices = append(c.Choices, choice)
	}
	return c, nil
}

// counts is the server's count, else llama-server's timings, else the number of pieces.
func (a *answer) counts() engine.Usage {
	u := engine.Usage{CompletionTokens: a.tokens, FirstTokenSeconds: a.first}
	if t := a.timings; t != nil {
		u.PromptTokens, u.CachedTokens, u.CompletionTokens = t.PromptN+t.CacheN, t.CacheN, t.PredictedN
		u.EngineSeconds = (t.PromptMS + t.PredictedMS) / 1000
	}
	if w := a.usage; w != nil {
		u.PromptTokens, u.CompletionTokens, u.CachedTokens = w.PromptTokens, w.CompletionTokens, w.Details.Cached
		u.ReasoningTokens = w.AnswerDetails.Reasoning
	}
	return u
}
