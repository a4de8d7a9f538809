package scheduler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"lorry/queue"
	"lorry/result"
	"lorry/webhook"
)

// eventJob is a job in an event's data: the same names as in GET /v1/jobs/{id}.
type eventJob struct {
	ID        string            `json:"id"`
	Object    string            `json:"object"` // "lorry.job"
	Status    queue.State       `json:"status"`
	CreatedAt int64             `json:"created_at"`
	StartedAt int64             `json:"started_at,omitempty"`
	EndedAt   int64             `json:"ended_at,omitempty"`
	Model     string            `json:"model"`
	Endpoint  queue.Endpoint    `json:"endpoint"`
	Lane      queue.Lane        `json:"lane"`
	Attempt   int               `json:"attempt,omitempty"`
	Cached    bool              `json:"cached,omitempty"`
	ReplayOf  string            `json:"replay_of,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Usage     *result.Usage     `json:"usage,omitempty"`
	Response  *eventResponse    `json:"response,omitempty"`
	Error     json.RawMessage   `json:"error,omitempty"`
}

type eventResponse struct {
	StatusCode int             `json:"status_code"`
	Body       json.RawMessage `json:"body"`
}

// maxBody is what receivers may be expected to take. A longer answer is left out: the job's ID leads to it.
const maxBody = 512 << 10

// newOutgoing is the event of a verdict that wants one. It depends on the verdict alone but for Created, so that
// announcing twice says the same.
func newOutgoing(v *result.Verdict, now time.Time) (webhook.Outgoing, error) {
	o := webhook.Outgoing{V: webhook.V, ID: webhook.EventID(v.Job), Tenant: v.Tenant, Job: v.Job, Type: "lorry.job." + string(v.State),
		URL: v.Webhook.URL, Secret: v.Webhook.Secret, Created: now.UnixMilli(), Ended: v.Ended}
	j := newEventJob(v)
	body, err := marshal(event(o, j))
	if err == nil && len(body) > maxBody {
		j.Response = nil
		body, err = marshal(event(o, j))
	}
	if err != nil {
		return o, fmt.Errorf("scheduler: event of %s: %w", v.Job, err)
	}
	o.Body = body
	return o, nil
}

func event(o webhook.Outgoing, j *eventJob) webhook.Event {
	return webhook.Event{ID: o.ID, Object: "event", CreatedAt: o.Ended / 1000, Type: o.Type, Data: j}
}

func newEventJob(v *result.Verdict) *eventJob {
	j := &eventJob{ID: v.Job, Object: "lorry.job", Status: v.State, CreatedAt: v.Created / 1000, StartedAt: v.Started / 1000, EndedAt: v.Ended / 1000,
		Model: v.Model.Name, Endpoint: v.Endpoint, Lane: v.Lane, Attempt: v.Attempt, Cached: v.Cached, ReplayOf: v.ReplayOf, Metadata: v.Metadata}
	if v.Completion != nil {
		u := result.OpenAIUsage(v.Completion.Usage)
		j.Usage = &u
	}
	status, body := result.Response(v)
	if v.State == queue.Succeeded {
		j.Response = &eventResponse{status, body}
		return j
	}
	var e struct{ Error json.RawMessage }
	_ = json.Unmarshal(body, &e) // result's own bytes
	j.Error = e.Error
	return j
}

// marshal is JSON without HTML escapes, which would blow answers up.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
