package result

import (
	"encoding/json"

	"lorry/queue"
)

// Object is a job as clients see it, in the API and in events. Times are unix seconds. Scripts hold these names.
type Object struct {
	ID        string            `json:"id"`
	Object    string            `json:"object"` // "lorry.job"
	Status    queue.State       `json:"status"`
	CreatedAt int64             `json:"created_at"`
	StartedAt int64             `json:"started_at,omitempty"`
	EndedAt   int64             `json:"ended_at,omitempty"`
	Deadline  int64             `json:"deadline,omitempty"`
	Model     string            `json:"model"`
	Endpoint  queue.Endpoint    `json:"endpoint"`
	Lane      queue.Lane        `json:"lane"`
	Attempt   int               `json:"attempt,omitempty"`
	Worker    string            `json:"worker,omitempty"`
	Cached    bool              `json:"cached,omitempty"`
	ReplayOf  string            `json:"replay_of,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Usage     *Usage            `json:"usage,omitempty"`
	// Response is the answer as the endpoint would have given it; Error is why there is none.
	Response *ObjectResponse `json:"response,omitempty"`
	Error    json.RawMessage `json:"error,omitempty"`
}

// ObjectResponse is an HTTP answer inside an Object.
type ObjectResponse struct {
	StatusCode int             `json:"status_code"`
	Body       json.RawMessage `json:"body"`
}

// Object shows a status, with its answer where that is asked for.
func (st *Status) Object(answer bool) *Object {
	o := &Object{ID: st.Job, Object: "lorry.job", Status: st.State, CreatedAt: st.Created / 1000, StartedAt: st.Started / 1000, EndedAt: st.Ended / 1000,
		Deadline: st.Deadline / 1000, Model: st.Model, Endpoint: st.Endpoint, Lane: st.Lane, Attempt: st.Attempt, Worker: st.Worker, Cached: st.Cached, Metadata: st.Metadata}
	if st.Verdict != nil {
		o.end(st.Verdict, answer)
	}
	return o
}

// Object shows a verdict with its answer, without what is the fleet's own: its receiver may be anybody.
func (v *Verdict) Object() *Object {
	o := &Object{ID: v.Job, Object: "lorry.job", Status: v.State, CreatedAt: v.Created / 1000, StartedAt: v.Started / 1000, EndedAt: v.Ended / 1000,
		Model: v.Model.Name, Endpoint: v.Endpoint, Lane: v.Lane, Attempt: v.Attempt, Cached: v.Cached, Metadata: v.Metadata}
	o.end(v, true)
	return o
}

func (o *Object) end(v *Verdict, answer bool) {
	o.ReplayOf = v.ReplayOf
	if v.Completion != nil {
		u := OpenAIUsage(v.Completion.Usage)
		o.Usage = &u
	}
	status, body := Response(v)
	switch {
	case v.State != queue.Succeeded:
		var e struct{ Error json.RawMessage }
		_ = json.Unmarshal(body, &e) // our own bytes
		o.Error = e.Error
	case answer:
		o.Response = &ObjectResponse{status, body}
	}
}
