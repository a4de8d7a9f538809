package scheduler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"lorry/queue"
	"lorry/result"
	"lorry/webhook"
)

// maxBody is what receivers may be expected to take. A longer answer is left out: the job's ID leads to it.
const maxBody = 512 << 10

// fact is what RESULTS says of an end: of a job, or of a batch.
type fact struct {
	job   *result.Verdict
	batch *result.End
}

// hookMark stands in every record that has a webhook of its own: in a string of JSON its quotes would be escaped. It
// spares the decoding of all the others.
var hookMark = []byte(`"webhook":`)

// heard says whether anybody may want to hear of a record.
func heard(subject string, data []byte, page webhook.Page) bool {
	kind, tenant := subjectOf(subject)
	if kind == "end" {
		return bytes.Contains(data, hookMark) || page.Heard(tenant, "batch.")
	}
	return bytes.Contains(data, hookMark) || page.Heard(tenant, "lorry.job.", "response.")
}

// subjectOf takes the beginning of a subject of RESULTS apart.
func subjectOf(subject string) (kind, tenant string) {
	p := strings.SplitN(subject, ".", 4)
	if len(p) < 4 {
		return "", ""
	}
	return p[1], p[2]
}

func readFact(subject string, data []byte) (f fact, err error) {
	if kind, _ := subjectOf(subject); kind == "end" {
		f.batch, err = result.DecodeEnd(data)
	} else {
		f.job, err = result.Decode(data)
	}
	return f, err
}

// tale is one event of a fact: all of it but where it goes.
type tale struct {
	id, kind string
	data     any
	// own says that it also goes to the webhook that came with the job or batch.
	own bool
}

// tales are the events of a fact.
func (f fact) tales() []tale {
	if f.batch != nil {
		return []tale{{webhook.EventID(f.batch.Batch), "batch." + f.batch.Status, map[string]string{"id": f.batch.Batch}, true}}
	}
	out := []tale{{webhook.EventID(f.job.Job), "lorry.job." + string(f.job.State), f.job.Object(), true}}
	if f.job.Endpoint == queue.Responses {
		id := result.AnswerID(queue.Responses, f.job.Job)
		out = append(out, tale{webhook.ResponseEventID(f.job.Job), "response." + result.ResponseStatus(f.job), map[string]string{"id": id}, false})
	}
	return out
}

// outgoing are a fact's events on their ways: to its own webhook, and to each endpoint that wants them. They depend on
// the fact alone but for Created, so that announcing twice says the same.
func (f fact) outgoing(page webhook.Page, now time.Time) (out []webhook.Outgoing, err error) {
	base, own := f.base(now)
	for _, t := range f.tales() {
		to := page.Wanting(base.Tenant, t.kind)
		if len(to) == 0 && (own == nil || !t.own) {
			continue
		}
		o, err := t.outgoing(base)
		if err != nil {
			return nil, err
		}
		if own != nil && t.own {
			mine := o
			mine.URL, mine.Secret = own.URL, own.Secret
			out = append(out, mine)
		}
		for _, e := range to {
			theirs := o
			theirs.Endpoint, theirs.Delivery = e.ID, webhook.DeliveryID(o.ID, e.ID)
			out = append(out, theirs)
		}
	}
	return out, nil
}

// base is what all events of a fact have in common, and the fact's own webhook.
func (f fact) base(now time.Time) (webhook.Outgoing, *queue.Webhook) {
	o := webhook.Outgoing{V: webhook.V, Created: now.UnixMilli()}
	if f.batch != nil {
		o.Tenant, o.Job, o.Ended = f.batch.Tenant, f.batch.Batch, f.batch.Ended
		return o, f.batch.Webhook
	}
	o.Tenant, o.Job, o.Ended = f.job.Tenant, f.job.Job, f.job.Ended
	return o, f.job.Webhook
}

func (t tale) outgoing(o webhook.Outgoing) (webhook.Outgoing, error) {
	o.ID, o.Type = t.id, t.kind
	body, err := marshal(event(o, t.data))
	if j, ok := t.data.(*result.Object); ok && err == nil && len(body) > maxBody {
		j.Response = nil
		body, err = marshal(event(o, j))
	}
	if err != nil {
		return o, fmt.Errorf("scheduler: event of %s: %w", o.Job, err)
	}
	o.Body = body
	return o, nil
}

// refill makes a replay whole: its body is made of the record, as it was the first time, and so is where it goes unless that
// is an endpoint.
func (f fact) refill(o *webhook.Outgoing) error {
	base, own := f.base(time.UnixMilli(o.Created))
	for _, t := range f.tales() {
		if t.kind != o.Type {
			continue
		}
		made, err := t.outgoing(base)
		if err != nil {
			return err
		}
		o.Body, o.Ended = made.Body, made.Ended
		if o.Endpoint == "" && own != nil {
			o.URL, o.Secret = own.URL, own.Secret
		}
		return nil
	}
	return fmt.Errorf("scheduler: the record of %s tells of no %s", o.Job, o.Type)
}

func event(o webhook.Outgoing, data any) webhook.Event {
	return webhook.Event{ID: o.ID, Object: "event", CreatedAt: o.Ended / 1000, Type: o.Type, Data: data}
}

// marshal is JSON without HTML escapes, which would blow answers up.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
