package scheduler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"lorry/result"
	"lorry/webhook"
)

// maxBody is what receivers may be expected to take. A longer answer is left out: the job's ID leads to it.
const maxBody = 512 << 10

// newOutgoing is the event of a verdict that wants one. It depends on the verdict alone but for Created, so that
// announcing twice says the same.
func newOutgoing(v *result.Verdict, now time.Time) (webhook.Outgoing, error) {
	o := webhook.Outgoing{V: webhook.V, ID: webhook.EventID(v.Job), Tenant: v.Tenant, Job: v.Job, Type: "lorry.job." + string(v.State),
		URL: v.Webhook.URL, Secret: v.Webhook.Secret, Created: now.UnixMilli(), Ended: v.Ended}
	j := v.Object()
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

func event(o webhook.Outgoing, j *result.Object) webhook.Event {
	return webhook.Event{ID: o.ID, Object: "event", CreatedAt: o.Ended / 1000, Type: o.Type, Data: j}
}

// marshal is JSON without HTML escapes, which would blow answers up.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
