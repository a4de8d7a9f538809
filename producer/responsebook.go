package producer

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/queue"
	"lorry/result"
)

// newResponseBook keeps responses that were asked for with store.
func newResponseBook(js jetstream.JetStream, replicas int) book[responseRecord] {
	return book[responseRecord]{js, replicas, "responses", regexp.MustCompile(`^resp_[0-9a-z]{26}$`)}
}

// responseRecord is a response in its book.
type responseRecord struct {
	V     int    `json:"v"`
	Model string `json:"model"`
	// Created is in unix milliseconds.
	Created int64               `json:"created"`
	Echo    result.ResponseEcho `json:"echo"`
	// Items are all that the model was given but the instructions, those of the conversation before it too.
	Items []inputItem `json:"items"`
	// Verdict is the answer, unless RESULTS has it.
	Verdict json.RawMessage `json:"verdict,omitempty"`
}

func (r responseRecord) version() int { return r.V }

// stored is a response as it stands now.
type stored struct {
	responseRecord
	id      string
	state   queue.State
	verdict *result.Verdict // nil while it is under way
}

// response looks a tenant's response up.
func (s *Server) response(ctx context.Context, tenant, id string) (*stored, error) {
	r, err := s.responses.get(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	out := &stored{responseRecord: r, id: id}
	if r.Verdict != nil {
		out.verdict, err = result.Decode(r.Verdict)
		if err == nil {
			out.state = out.verdict.State
		}
		return out, err
	}
	st, err := s.cfg.Results.Get(ctx, tenant, jobOf(id))
	if errors.Is(err, result.ErrNotFound) {
		return nil, errNoRecord // never submitted, or gone
	}
	if err == nil {
		out.state, out.verdict = st.State, st.Verdict
	}
	return out, err
}

// body is the response as clients see it.
func (r *stored) body() result.ResponseBody {
	if r.verdict != nil {
		return result.EndedResponse(r.verdict, r.Echo)
	}
	status := "queued"
	if r.state == queue.Running {
		status = "in_progress"
	}
	return result.NewResponse(jobOf(r.id), r.Model, r.Created, status, r.Echo)
}

// record is a trip's response as it is kept; v is nil where RESULTS will have the answer.
func (t *trip) record(v *result.Verdict) responseRecord {
	w := t.order.response
	r := responseRecord{V: bookV, Model: t.job.Request.Model.Name, Created: t.job.Created, Echo: w.echo, Items: w.items}
	if v != nil {
		r.Verdict = v.Encode()
	}
	return r
}

// goOn puts the conversation before the request's own input that it goes on with.
func (t *trip) goOn(tenant string) error {
	w := t.order.response
	if w == nil {
		return nil
	}
	if w.echo.PreviousResponseID == nil {
		t.order.converse(nil)
		return nil
	}
	ctx, cancel := t.step()
	defer cancel()
	id := *w.echo.PreviousResponseID
	before, err := t.previous(ctx, tenant, id)
	switch {
	case errors.Is(err, errNoRecord):
		return refuse("previous_response_not_found", "previous_response_id", "Previous response with id '%s' not found.", clip(id))
	case err != nil:
		return store(err)
	case before.state != queue.Succeeded:
		return refuse(codeValue, "previous_response_id", "Previous response with id '%s' has no answer to go on with: its status is '%s'.", clip(id), before.body().Status)
	}
	if err := t.s.vault(tenant).openAll(before.Items); err != nil {
		return err
	}
	t.order.converse(slices.Concat(before.Items, outputItems(before.verdict)))
	return nil
}

// previous looks a response up: among those that the websocket alone has, then in the book.
func (t *trip) previous(ctx context.Context, tenant, id string) (*stored, error) {
	if found := t.turn.recall(id); found != nil {
		return found, nil
	}
	return t.s.response(ctx, tenant, id)
}

// background says whether the response goes on without the connection.
func (t *trip) background() bool { return t.order.response != nil && t.order.response.echo.Background }

// keepAsked keeps what a background response was asked, before its job is submitted: whoever sees the response finds it.
func (t *trip) keepAsked() error {
	if !t.background() || t.standing != nil {
		return nil
	}
	ctx, cancel := t.step()
	defer cancel()
	return store(t.s.responses.put(ctx, t.job.Tenant, result.AnswerID(queue.Responses, t.job.ID), t.record(nil)))
}

// response is one that was waited for, kept where it is to be. One that can't be kept says so: the answer is there.
func (t *trip) response(v *result.Verdict) result.ResponseBody {
	w := t.order.response
	if w.echo.Store && !w.echo.Background && !w.told && v.State == queue.Succeeded {
		ctx, cancel := t.step()
		defer cancel()
		if err := t.s.responses.put(ctx, t.job.Tenant, result.AnswerID(queue.Responses, v.Job), t.record(v)); err != nil {
			t.s.cfg.Log.Warn().Err(err).Str("job", v.Job).Msg("response is not stored")
			w.echo.Store = false
		}
	}
	if t.turn != nil && !w.echo.Store {
		t.turn.keep(&stored{t.record(nil), result.AnswerID(queue.Responses, v.Job), v.State, v}, len(t.job.Request.Messages))
	}
	return result.EndedResponse(v, w.echo)
}
