package remote

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"

	"lorry/engine"
)

// rawJSON is JSON as the client wrote it.
type rawJSON = json.RawMessage

// maxAnswer bounds an answer that comes whole.
const maxAnswer = 64 << 20

// send takes a slot and has one request answered; it is sent again while that may help.
func (e *Engine) send(ctx context.Context, l *listing, s served, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	if err := e.hold(ctx); err != nil {
		return nil, err
	}
	defer e.release()
	b, err := e.body(l, s, r, emit != nil)
	if err != nil {
		return nil, err
	}
	raw, err := encodeBody(b)
	if err != nil {
		return nil, err
	}
	var done *engine.Completion
	err = e.retry(ctx, func() (bool, error) {
		a := newAnswer(r, emit)
		if err := e.post(ctx, r.Kind, raw, a); err != nil {
			return a.pieces == 0, err
		}
		done, err = a.completion()
		return a.pieces == 0, err
	})
	return done, err
}

func encodeBody(b body) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(b); err != nil {
		return nil, engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "", "the request can't be sent: %v", err)
	}
	return buf.Bytes(), nil
}

// hold waits for a slot, which release gives back.
func (e *Engine) hold(ctx context.Context) error {
	select {
	case e.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *Engine) release() { <-e.slots }

func endpoint(k engine.Kind) string {
	if k == engine.Chat {
		return "/v1/chat/completions"
	}
	return "/v1/completions"
}

// post sends the body once and reads the answer into a.
func (e *Engine) post(ctx context.Context, k engine.Kind, raw []byte, a *answer) error {
	req, resp, err := e.postTo(ctx, endpoint(k), raw)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if a.emit != nil {
		return e.stream(ctx, req, resp, a)
	}
	var w wireAnswer
	if err := decode(req, resp, &w); err != nil {
		return err
	}
	return e.take(&w, a)
}

// postTo sends JSON to a path. A refusal is an error.
func (e *Engine) postTo(ctx context.Context, path string, raw []byte) (*http.Request, *http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.at.root+path, bytes.NewReader(raw))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.do(req)
	return req, resp, err
}

// take adds an answer or an event, or finds it to be an error.
func (e *Engine) take(w *wireAnswer, a *answer) error {
	if len(w.Error) == 0 || string(w.Error) == "null" {
		return a.add(w)
	}
	se := readError([]byte(`{"error":` + string(w.Error) + `}`))
	se.Message, se.Type = e.hush(se.Message), cmp.Or(se.Type, w.ErrorType)
	return se.midway()
}

// decode reads a whole JSON answer.
func decode(req *http.Request, resp *http.Response, into any) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return broken("%s %s: the answer broke off: %v", req.Method, req.URL.Redacted(), err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return engine.Errorf(engine.Internal, "", "", "engine/remote: %s %s: the answer is not what was asked for: %v: is this an OpenAI-compatible server?",
			req.Method, req.URL.Redacted(), err)
	}
	return nil
}

// stream reads events until [DONE]. A server that forgets to say so has ended well if all answers have.
func (e *Engine) stream(ctx context.Context, req *http.Request, resp *http.Response, a *answer) error {
	for ev, err := range events(resp.Body) {
		switch {
		case ctx.Err() != nil: // perhaps ended by emit
			return context.Cause(ctx)
		case err != nil:
			return broken("%s %s: %v", req.Method, req.URL.Redacted(), err)
		case ev.data == "[DONE]":
			return nil
		}
		if err := e.event(ev, a); err != nil {
			return err
		}
	}
	if !a.ended() {
		return broken("%s %s: the stream broke off", req.Method, req.URL.Redacted())
	}
	return nil
}

func (e *Engine) event(ev event, a *answer) error {
	var w wireAnswer
	err := json.Unmarshal([]byte(ev.data), &w)
	switch {
	case ev.error && err != nil:
		w.Error, _ = json.Marshal(ev.data)
	case ev.error && len(w.Error) == 0:
		w.Error = rawJSON(ev.data)
	case err != nil:
		return engine.Errorf(engine.Internal, "", "", "engine/remote: an event of the stream can't be read: %v", err)
	}
	return e.take(&w, a)
}

// fan sends one request for each answer, with seeds that count up, to a server that gives one at a time.
func (e *Engine) fan(ctx context.Context, l *listing, s served, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	done := make([]*engine.Completion, r.Sampling.N)
	var wg sync.WaitGroup
	for i := range done {
		one := *r
		one.Sampling.N, one.Sampling.Seed = 1, r.Sampling.Seed+uint64(i)
		var tell func(engine.Chunk)
		if emit != nil {
			tell = func(c engine.Chunk) {
				mu.Lock()
				defer mu.Unlock()
				c.Index = i
				emit(c)
			}
		}
		wg.Go(func() {
			var err error
			if done[i], err = e.send(ctx, l, s, &one, tell); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return merge(done), nil
}

// merge puts answers to one prompt together. The prompt counts once.
func merge(all []*engine.Completion) *engine.Completion {
	out := &engine.Completion{Usage: all[0].Usage}
	for i, c := range all {
		out.Choices = append(out.Choices, c.Choices...)
		if i > 0 {
			out.Usage.CompletionTokens += c.Usage.CompletionTokens
			out.Usage.EngineSeconds += c.Usage.EngineSeconds
		}
	}
	return out
}
