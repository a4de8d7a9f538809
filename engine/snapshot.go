package engine

import (
	"context"
	"time"
)

// Introspector is an engine that shows its loop.
type Introspector interface {
	// Snapshot is the loop between two steps. It waits for the step under way.
	Snapshot(ctx context.Context) (Snapshot, error)
}

// Snapshot is an engine's loop at one moment.
type Snapshot struct {
	At    time.Time `json:"at"`
	Slots int       `json:"slots"`
	// Running are the sequences at work, the oldest first; Waiting is how many are not yet.
	Running []Sequence `json:"running"`
	Waiting int        `json:"waiting"`
	Cells   Cells      `json:"cells"`
	// Adapters are those that are loaded, and what turns between them cost.
	Adapters AdapterUse `json:"adapters"`
	// Last is the step before this moment.
	Last   Step   `json:"last"`
	Totals Totals `json:"totals"`
}

// Sequence is one answer being made.
type Sequence struct {
	// ID is the request's, Scope whose it is.
	ID      string `json:"id"`
	Scope   string `json:"scope,omitempty"`
	Adapter string `json:"adapter,omitempty"`
	Slot    int    `json:"slot"`
	// Prompt and Drawn are tokens, Computed is how many of both are in the KV cache, Shared how many of these were found
	// there. Most is how many tokens the answer may have.
	Prompt   int `json:"prompt"`
	Shared   int `json:"shared,omitempty"`
	Computed int `json:"computed"`
	Drawn    int `json:"drawn"`
	Most     int `json:"most"`
	// Rows is how many of its tokens the last step computed.
	Rows int `json:"rows"`
	// Seconds since it was asked for.
	Seconds float64 `json:"seconds"`
}

// Cells are those of the KV cache: each holds a token. Idle ones are kept of answers that have ended, for requests that
// begin alike.
type Cells struct {
	All  int `json:"all"`
	Busy int `json:"busy"`
	Idle int `json:"idle"`
	Free int `json:"free"`
}

// AdapterUse is what LoRA adapters take. All but Loaded and Bytes count from the engine's start.
type AdapterUse struct {
	Loaded  int   `json:"loaded"`
	Bytes   int64 `json:"bytes"`
	Loads   int   `json:"loads"`
	Evicted int   `json:"evicted"` // of Loads, those that were freed to make room for others
	// Changes is how often the engine computed with another adapter than before. ChangeSeconds is what one costs, by the
	// moving mean; 0 before any.
	Changes       int     `json:"changes"`
	ChangeSeconds float64 `json:"change_seconds"`
	// Turns is how many ended while others waited for theirs, TurnSeconds how long these took together.
	Turns       int     `json:"turns"`
	TurnSeconds float64 `json:"turn_seconds"`
}

// Step is one native call with what goes before and after it.
type Step struct {
	PromptRows int `json:"prompt_rows"` // tokens of prompts
	AnswerRows int `json:"answer_rows"` // one of each answer
	// Adapter is the one whose turn it was; empty: the base's.
	Adapter string `json:"adapter,omitempty"`
	Parts   Parts  `json:"parts"`
}

// Parts are what a step's time goes into, in seconds. On an accelerator Draw holds the wait for what Compute began.
type Parts struct {
	Plan    float64 `json:"plan"`    // who runs, and in which cells
	Compute float64 `json:"compute"` // the native call
	Draw    float64 `json:"draw"`    // the next tokens, and their text
	Settle  float64 `json:"settle"`  // what has ended
}

// Sum is the step's whole time.
func (p Parts) Sum() float64 { return p.Plan + p.Compute + p.Draw + p.Settle }

// Add adds another step's.
func (p *Parts) Add(q Parts) {
	p.Plan, p.Compute, p.Draw, p.Settle = p.Plan+q.Plan, p.Compute+q.Compute, p.Draw+q.Draw, p.Settle+q.Settle
}

// Totals count from the engine's start, and from zero again in a new process.
type Totals struct {
	Steps      int   `json:"steps"`
	Failed     int   `json:"failed"` // native calls
	PromptRows int   `json:"prompt_rows"`
	AnswerRows int   `json:"answer_rows"`
	Drawn      int   `json:"drawn"`
	Shared     int   `json:"shared"` // tokens found in cells
	Preempted  int   `json:"preempted"`
	Parked     int   `json:"parked,omitempty"` // sequences that gave their slots to those of another adapter, and kept their cells
	Mismatched int   `json:"mismatched"`       // times that the cells were not what was believed; 0 but for a fault
	Parts      Parts `json:"parts"`
	// Times counts steps by how long they took: Times[i] of at most StepBounds[i], the last one of more.
	Times []int `json:"times"`
}

// StepBounds are the seconds that bound the counts in [Totals.Times].
var StepBounds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}

// Count adds a step.
func (t *Totals) Count(s Step) {
	if t.Times == nil {
		t.Times = make([]int, len(StepBounds)+1)
	}
	t.Steps++
	t.PromptRows, t.AnswerRows = t.PromptRows+s.PromptRows, t.AnswerRows+s.AnswerRows
	t.Parts.Add(s.Parts)
	took, i := s.Parts.Sum(), 0
	for i < len(StepBounds) && took > StepBounds[i] {
		i++
	}
	t.Times[i]++
}
