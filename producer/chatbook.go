package producer

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/queue"
	"lorry/result"
)

// newChatBook keeps chat completions that were asked for with store.
func newChatBook(js jetstream.JetStream, replicas int) book[chatRecord] {
	return book[chatRecord]{js, replicas, "chats", regexp.MustCompile(`^chatcmpl-[0-9a-z]{26}$`)}
}

// chatRecord is a chat completion in its book.
type chatRecord struct {
	V        int             `json:"v"`
	Model    string          `json:"model"`
	Echo     result.ChatEcho `json:"echo"`
	Messages json.RawMessage `json:"messages"`
	// Verdict is the answer, unless RESULTS has it.
	Verdict json.RawMessage `json:"verdict,omitempty"`
}

func (r chatRecord) version() int { return r.V }

// keptChat is a stored one with its answer.
type keptChat struct {
	chatRecord
	id      string
	verdict *result.Verdict
}

// storedChat looks a tenant's completion up. One that has no answer (yet) is not there.
func (s *Server) storedChat(ctx context.Context, tenant, id string) (*keptChat, error) {
	r, err := s.chats.get(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	out := &keptChat{chatRecord: r, id: id}
	if r.Verdict != nil {
		out.verdict, err = result.Decode(r.Verdict)
		return out, err
	}
	st, err := s.cfg.Results.Get(ctx, tenant, jobOf(id))
	if errors.Is(err, result.ErrNotFound) || err == nil && st.State != queue.Succeeded {
		return nil, errNoRecord
	}
	if err != nil {
		return nil, err
	}
	out.verdict = st.Verdict
	return out, nil
}

func (c *keptChat) object() any { return result.NewStoredChat(c.verdict, c.Echo) }

// chatID is the ID of a trip's answer.
func (t *trip) chatID() string { return result.AnswerID(queue.Chat, t.job.ID) }

// outlives says whether the answer is in RESULTS.
func (t *trip) outlives() bool { return t.async || t.recorded() }

// keepChat keeps what a chat was asked whose answer RESULTS will have, before its job is submitted: whoever sees the
// answer finds it.
func (t *trip) keepChat() error {
	if !t.order.store || !t.outlives() || t.standing != nil {
		return nil
	}
	ctx, cancel := t.step()
	defer cancel()
	return store(t.s.chats.put(ctx, t.job.Tenant, t.chatID(), t.chatRecord(nil)))
}

// keepAnswer keeps a chat that was waited for. The answer leaves in any case: that it can't be read again is in the log.
func (t *trip) keepAnswer(v *result.Verdict) {
	if !t.order.store || t.outlives() || v.State != queue.Succeeded {
		return
	}
	ctx, cancel := t.step()
	defer cancel()
	if err := t.s.chats.put(ctx, t.job.Tenant, t.chatID(), t.chatRecord(v)); err != nil {
		t.s.cfg.Log.Warn().Err(err).Str("job", v.Job).Msg("chat completion is not stored")
	}
}

// chatRecord is a trip's chat as it is kept; v is nil where RESULTS will have the answer.
func (t *trip) chatRecord(v *result.Verdict) chatRecord {
	r := chatRecord{V: bookV, Model: t.job.Request.Model.Name, Echo: t.order.chatEcho(), Messages: t.job.Request.Messages}
	r.Echo.RequestID = t.w.Header().Get(headerRequest)
	if v != nil {
		r.Verdict = v.Encode()
	}
	return r
}

func (o *order) chatEcho() result.ChatEcho {
	q := &o.request
	s := q.Sampling
	e := result.ChatEcho{Metadata: o.metadata, InputUser: o.user, ServiceTier: "default", Temperature: s.Temperature, TopP: s.TopP, PresencePenalty: s.PresencePenalty,
		FrequencyPenalty: s.FrequencyPenalty, Tools: q.Tools, ToolChoice: q.ToolChoice, ResponseFormat: q.ResponseFormat}
	if o.metadata == nil {
		e.Metadata = map[string]string{}
	}
	if o.seeded {
		e.Seed = new(int64(s.Seed))
	}
	if o.lane == queue.Flex {
		e.ServiceTier = string(queue.Flex)
	}
	return e
}
