package producer

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// streamed is a streaming answer under way.
type streamed struct {
	*trip
	out    events
	chunks *sse // out, where it takes a chat's
	relay  *relay
	shape  shape
	tokens chan *nats.Msg
	done   bool // the first chunk has left
	// narrator tells the answer where it is one of the Responses API.
	narrator *narrator
}

// tokensAhead is how many token messages may wait for a slow client; past it they are lost, and the verdict has the rest.
const tokensAhead = 4096

func newStreamed(t *trip) *streamed {
	st := &streamed{trip: t, chunks: &sse{w: t.w}, relay: newRelay(t.job.Request.Sampling.N), shape: shapeOf(t.job, t.order.usage)}
	st.out = st.chunks
	if t.turn != nil {
		st.out = &frames{turn: t.turn, w: t.w}
	}
	if t.order.response != nil {
		st.narrator = newNarrator(st)
	}
	return st
}

// run answers with server-sent events. What fails before the first one is an ordinary error.
func (st *streamed) run(ctx context.Context, w *result.Waiter) error {
	st.tokens = make(chan *nats.Msg, tokensAhead)
	sub, err := st.s.cfg.Queue.Conn().ChanSubscribe(queue.TokensSubject(st.job.ID, "*"), st.tokens)
	if err != nil {
		return st.sent(errors.Join(queue.ErrAway, err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	v, err := st.start(ctx, w)
	if v == nil && err == nil && st.background() {
		err = st.narrator.open() // it may be long until there is anything to tell, and the client wants its ID
	}
	if v == nil && err == nil {
		v, err = st.listen(ctx, w)
	}
	if err != nil {
		if v, err = st.ended(ctx, err); v == nil {
			return st.fail(err)
		}
	}
	return st.finish(v)
}

// listen passes tokens on until the verdict is there. The error is ctx's cause, the client's, or errDiverged.
func (st *streamed) listen(ctx context.Context, w *result.Waiter) (*result.Verdict, error) {
	look, alive := time.NewTicker(lookEvery), time.NewTicker(st.s.cfg.KeepAlive)
	defer look.Stop()
	defer alive.Stop()
	for {
		select {
		case m := <-st.tokens:
			if err := st.token(m); err != nil {
				return nil, err
			}
			alive.Reset(st.s.cfg.KeepAlive)
		case m := <-w.Done():
			return result.Decode(m.Data)
		case <-look.C:
			if v := w.Look(ctx); v != nil {
				return v, nil
			}
		case <-alive.C:
			if err := st.out.comment(); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// token sends what is new in a token message.
func (st *streamed) token(m *nats.Msg) error {
	at, ok := parseAttempt(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
	var tm queue.TokenMessage
	if !ok || json.Unmarshal(m.Data, &tm) != nil {
		return nil // a newer worker's
	}
	c, any, err := st.relay.hint(at, tm)
	if err != nil || !any {
		return err
	}
	return st.send(c)
}

// send sends a piece, and before the first one who speaks.
func (st *streamed) send(c engine.Chunk) error {
	if st.narrator != nil {
		st.firstLeft()
		return st.narrator.piece(c)
	}
	if st.firstLeft() {
		for i := range st.relay.choices {
			if err := st.event(st.shape.opening(i)); err != nil {
				return err
			}
		}
	}
	return st.event(st.shape.piece(c))
}

// firstLeft notes that something leaves, and says whether it is the first.
func (st *streamed) firstLeft() bool {
	if st.done {
		return false
	}
	st.done = true
	metricFirst.Observe(time.Since(st.began).Seconds())
	return true
}

// event sends a chunk, if there is one.
func (st *streamed) event(chunk any) error {
	if chunk == nil {
		return nil
	}
	return st.chunks.event(chunk)
}

// fail ends the stream with an error: an ordinary answer while nothing has left, else an event.
func (st *streamed) fail(err error) error {
	defer st.out.end()
	if !st.out.begun() {
		return err
	}
	if errors.Is(err, errHungUp) {
		return nil
	}
	st.s.cfg.Log.Warn().Err(err).Str("job", st.job.ID).Msg("stream ended with an error")
	if st.narrator != nil {
		_ = st.narrator.broken(asAPI(err))
		return nil
	}
	_ = st.chunks.fail(asAPI(err)) // a client that hung up
	return nil
}

// finish sends what is left of the verdict that stands.
func (st *streamed) finish(v *result.Verdict) error {
	defer st.out.end()
	if st.narrator != nil {
		return st.narrator.finish(v)
	}
	if v.State != queue.Succeeded {
		return st.failed(v)
	}
	rest, err := st.relay.rest(v.Completion)
	if err != nil {
		return st.fail(err)
	}
	for _, c := range rest {
		if err := st.close(c, v.Completion.Choices[c.Index].ToolCalls); err != nil {
			return nil // the client is gone, and the job is over
		}
	}
	st.keepAnswer(v)
	if st.order.usage {
		_ = st.chunks.event(st.shape.usage(v.Completion.Usage))
	}
	_ = st.chunks.done()
	return nil
}

// close sends a choice's last text and its calls, then why it ended.
func (st *streamed) close(c engine.Chunk, calls json.RawMessage) error {
	finish := c.Finish
	c.Finish = ""
	if c.Text != "" || c.Reasoning != "" || len(c.Logprobs) > 0 || !st.done {
		if err := st.send(c); err != nil {
			return err
		}
	}
	if err := st.event(st.shape.calls(c.Index, calls)); err != nil {
		return err
	}
	return st.event(st.shape.end(c.Index, finish))
}

// failed ends a stream whose job did not succeed.
func (st *streamed) failed(v *result.Verdict) error {
	if !st.out.begun() {
		return st.reply(v)
	}
	_, body := result.Response(v)
	return st.chunks.event(json.RawMessage(body))
}
