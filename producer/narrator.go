package producer

import (
	"unicode/utf8"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// narrator tells a response's events, as OpenAI's SDKs read them.
//
// An event's sequence number depends on the answer alone, not on the pieces in which it came: text counts by its bytes,
// a delta has the number of its last byte, and each other event counts one. So a stream that was cut off goes on behind
// the last number that arrived, through whichever server, without a text being kept anywhere for it.
type narrator struct {
	*streamed
	seq   int // the next event's number
	after int // events up to this number have been told before
	// opened and texted say that the response's, and the text's, first events are out; text is what is told of it.
	opened, texted bool
	text           []byte
	logprobs       []engine.Logprob
	item           int // the next output item's index
}

func newNarrator(st *streamed) *narrator {
	return &narrator{streamed: st, after: st.order.response.after}
}

// tell sends an event, unless it was told before.
func (n *narrator) tell(kind string, fields map[string]any) error {
	seq := n.seq
	n.seq++
	if seq <= n.after {
		return nil
	}
	return n.say(kind, seq, fields)
}

func (n *narrator) say(kind string, seq int, fields map[string]any) error {
	fields["type"], fields["sequence_number"] = kind, seq
	return n.out.tell(kind, fields)
}

// open tells that there is a response.
func (n *narrator) open() error {
	if n.opened {
		return nil
	}
	n.opened = true
	r := result.NewResponse(n.job.ID, n.job.Request.Model.Name, n.job.Created, "in_progress", n.order.response.echo)
	if err := n.tell("response.created", map[string]any{"response": r}); err != nil {
		return err
	}
	return n.tell("response.in_progress", map[string]any{"response": r})
}

// at is what events about the text have in common.
func (n *narrator) at(fields map[string]any) map[string]any {
	fields["item_id"], fields["output_index"], fields["content_index"] = result.MessageID(n.job.ID), n.item, 0
	return fields
}

func (n *narrator) openText() error {
	if err := n.open(); err != nil || n.texted {
		return err
	}
	n.texted = true
	item := result.OutputMessage{ID: result.MessageID(n.job.ID), Type: "message", Status: "in_progress", Role: "assistant", Content: []result.OutputText{}}
	if err := n.tell("response.output_item.added", map[string]any{"output_index": n.item, "item": item}); err != nil {
		return err
	}
	return n.tell("response.content_part.added", n.at(map[string]any{"part": textPart("", nil)}))
}

func textPart(text string, ls []engine.Logprob) result.OutputText {
	return result.OutputText{Type: "output_text", Text: text, Annotations: []any{}, Logprobs: result.ResponseLogprobs(ls)}
}

// piece tells new text.
func (n *narrator) piece(c engine.Chunk) error {
	if c.Text == "" && len(c.Logprobs) == 0 {
		return nil
	}
	if err := n.openText(); err != nil {
		return err
	}
	n.text, n.logprobs = append(n.text, c.Text...), append(n.logprobs, c.Logprobs...)
	from := n.seq
	n.seq += len(c.Text)
	text, logprobs := unheard(c.Text, n.after-from+1), c.Logprobs
	if text == "" {
		return nil
	}
	if len(text) < len(c.Text) {
		logprobs = nil
	}
	return n.say("response.output_text.delta", n.seq-1, n.at(map[string]any{"delta": text, "logprobs": result.ResponseLogprobs(logprobs)}))
}

// unheard is a text without its first bytes, from a character's start on.
func unheard(text string, heard int) string {
	heard = min(max(heard, 0), len(text))
	for heard < len(text) && !utf8.RuneStart(text[heard]) {
		heard++
	}
	return text[heard:]
}

// finish tells the rest of a response that is over.
func (n *narrator) finish(v *result.Verdict) error {
	if v.State != queue.Succeeded {
		return n.failed(v)
	}
	rest, err := n.relay.rest(v.Completion)
	if err != nil {
		return n.streamed.fail(err)
	}
	body := n.trip.response(v)
	if n.end(rest[0], v) != nil {
		return nil // the client is gone, and the job is over
	}
	_ = n.tell("response."+body.Status, map[string]any{"response": body})
	return nil
}

// end tells the items to their ends.
func (n *narrator) end(rest engine.Chunk, v *result.Verdict) error {
	if err := n.open(); err != nil {
		return err
	}
	if m := result.ResponseMessage(v); m != nil {
		if err := n.endText(rest, m); err != nil {
			return err
		}
	}
	for _, c := range result.ResponseCalls(v) {
		if err := n.call(c); err != nil {
			return err
		}
	}
	return nil
}

func (n *narrator) endText(rest engine.Chunk, m *result.OutputMessage) error {
	if err := n.openText(); err != nil {
		return err
	}
	if err := n.piece(rest); err != nil {
		return err
	}
	whole := textPart(string(n.text), n.logprobs)
	if err := n.tell("response.output_text.done", n.at(map[string]any{"text": whole.Text, "logprobs": whole.Logprobs})); err != nil {
		return err
	}
	if err := n.tell("response.content_part.done", n.at(map[string]any{"part": whole})); err != nil {
		return err
	}
	n.item++
	return n.tell("response.output_item.done", map[string]any{"output_index": n.item - 1, "item": m})
}

// call tells a function call whole: calls are known at the end only.
func (n *narrator) call(c result.FunctionCall) error {
	i := n.item
	n.item++
	begun := c
	begun.Status, begun.Arguments = "in_progress", ""
	for _, e := range []struct {
		kind   string
		fields map[string]any
	}{
		{"response.output_item.added", map[string]any{"item": begun}},
		{"response.function_call_arguments.delta", map[string]any{"item_id": c.ID, "delta": c.Arguments}},
		{"response.function_call_arguments.done", map[string]any{"item_id": c.ID, "name": c.Name, "arguments": c.Arguments}},
		{"response.output_item.done", map[string]any{"item": c}},
	} {
		e.fields["output_index"] = i
		if err := n.tell(e.kind, e.fields); err != nil {
			return err
		}
	}
	return nil
}

// failed ends a stream whose response has no answer: as an ordinary error while nothing has left and nobody can read the
// response otherwise.
func (n *narrator) failed(v *result.Verdict) error {
	if !n.out.begun() && !n.background() {
		return n.reply(v)
	}
	if n.open() == nil {
		_ = n.tell("response.failed", map[string]any{"response": result.EndedResponse(v, n.order.response.echo)})
	}
	return nil
}

// broken ends a stream that began and can't go on.
func (n *narrator) broken(e *apiError) error {
	seq := n.seq
	n.seq++
	return n.out.broken(seq, e)
}
