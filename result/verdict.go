// Package result decides once how a job ended, remembers it, and answers repeats without a GPU.
//
// RESULTS (JetStream) holds the truth: the first verdict committed for a job stands. Redis holds what can be derived
// from it again: states, claims, answers, the response cache and the flights of equal requests.
package result

import (
	"lorry/engine"
	"lorry/queue"
)

// V is the version of every record that this package writes. A reader takes V and V−1.
const V = 1

// Verdict is how a job ended: its one terminal record.
type Verdict struct {
	V      int         `json:"v"`
	Job    string      `json:"job"`
	Tenant string      `json:"tenant"`
	Lane   queue.Lane  `json:"lane"`
	State  queue.State `json:"state"`
	// Endpoint shapes the answer; Model is what it ran on.
	Endpoint queue.Endpoint `json:"endpoint"`
	// Encoding is the job's.
	Encoding   string             `json:"encoding,omitempty"`
	Model      engine.Model       `json:"model"`
	Completion *engine.Completion `json:"completion,omitempty"`
	Error      *engine.Error      `json:"error,omitempty"`
	// Created, Started and Ended are unix milliseconds; Started is 0 for a job that never ran.
	Created int64  `json:"created"`
	Started int64  `json:"started,omitempty"`
	Ended   int64  `json:"ended"`
	Attempt int    `json:"attempt,omitempty"`
	Worker  string `json:"worker,omitempty"`
	// Cached answers came from the cache or from Leader's run: they cost no engine time.
	Cached bool   `json:"cached,omitempty"`
	Leader string `json:"leader,omitempty"`
	// Joules is the energy put down to this job; 0 where it isn't measured.
	Joules   float64           `json:"joules,omitempty"`
	CacheKey string            `json:"cache_key,omitempty"`
	Webhook  *queue.Webhook    `json:"webhook,omitempty"`
	Idem     *queue.Idem       `json:"idem,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Batch    string            `json:"batch,omitempty"`
	Line     int               `json:"line,omitempty"`
	CustomID string            `json:"custom_id,omitempty"`
	ReplayOf string            `json:"replay_of,omitempty"`
	// Waited jobs are not in RESULTS.
	Waited bool `json:"waited,omitempty"`

	raw []byte // the record, once encoded
}

// For starts the verdict of a job: all but how it ended.
func For(j *queue.Job, s queue.State, ended int64) *Verdict {
	return factsOf(j).verdict(j.Tenant, j.ID, s, ended)
}

// Status is what Redis knows of a job, terminal or not.
type Status struct {
	Job      string            `json:"job"`
	Tenant   string            `json:"tenant"`
	Lane     queue.Lane        `json:"lane"`
	State    queue.State       `json:"state"`
	Endpoint queue.Endpoint    `json:"endpoint"`
	Model    string            `json:"model"`
	Created  int64             `json:"created"`           // unix milliseconds, as all times here
	Started  int64             `json:"started,omitempty"` // of the running or last attempt
	Ended    int64             `json:"ended,omitempty"`
	Deadline int64             `json:"deadline,omitempty"`
	Attempt  int               `json:"attempt,omitempty"` // runs begun
	Worker   string            `json:"worker,omitempty"`
	Cached   bool              `json:"cached,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Verdict is set once the state is terminal.
	Verdict *Verdict `json:"verdict,omitempty"`
}

// Event tells of changed states, many of one tenant at once. It travels on queue.EventsSubject and is a hint.
type Event struct {
	V    int      `json:"v"`
	Jobs []Change `json:"jobs"`
}

// Change is one job's new state.
type Change struct {
	Job    string      `json:"job"`
	Tenant string      `json:"tenant"`
	State  queue.State `json:"state"`
	Lane   queue.Lane  `json:"lane,omitempty"`
	Model  string      `json:"model,omitempty"`
	Worker string      `json:"worker,omitempty"`
	At     int64       `json:"at"` // unix milliseconds
}
