package engine

import "errors"

// Resume is how far a run had come: all that another run of the same request needs to go on, in this engine or in
// another one of the same model. The sampler has no state but the seed and the number of tokens drawn, and text held
// back, stop strings and grammars follow from the tokens.
type Resume struct {
	// Choices are the answers so far, by index.
	Choices []Partial `json:"choices"`
	// Usage is what was spent on them.
	Usage Usage `json:"usage"`
}

// Partial is the beginning of one answer.
type Partial struct {
	Tokens []int32 `json:"tokens,omitempty"`
	// Logprobs are those of Tokens, where they were asked for.
	Logprobs []Logprob `json:"logprobs,omitempty"`
}

// Tokens is how many tokens there are, over all choices. A nil Resume has none.
func (r *Resume) Tokens() (n int) {
	if r == nil {
		return 0
	}
	for _, c := range r.Choices {
		n += len(c.Tokens)
	}
	return n
}

// ErrHandOver is the cause with which a caller ends a run's context that is to go on elsewhere: Request.Save is called
// once more, with all that was drawn, before Run returns it.
var ErrHandOver = errors.New("engine: the run is handed over")

const (
	// saveEvery tokens are worth a Save: some seconds of a busy CPU, and more than most answers have.
	saveEvery = 32
	// saveShare is the most of an answer that may be lost, as a divisor: so that what a long one costs to save grows
	// with its length, not with its square.
	saveShare = 16
)

// SaveDue says whether Request.Save is to be called again, when saved of the drawn tokens were in the last call.
func SaveDue(drawn, saved int) bool { return drawn-saved >= max(saveEvery, drawn/saveShare) }
