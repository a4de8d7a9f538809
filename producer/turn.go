package producer

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// turn is one response.create on its way. It takes an answer that is no stream, which is an error, as its writer.
type turn struct {
	socket *socket
	lane   *lane
	stream string
	body   []byte
	header http.Header
	status int
	answer bytes.Buffer
	kept   *stored
	size   int // of kept, about
}

type turnKey struct{}

// turnOf is the turn that a request was made of; nil where it came by HTTP.
func turnOf(r *http.Request) *turn {
	t, _ := r.Context().Value(turnKey{}).(*turn)
	return t
}

func (t *turn) Header() http.Header         { return t.header }
func (t *turn) Write(b []byte) (int, error) { return t.answer.Write(b) }
func (t *turn) WriteHeader(status int)      { t.status = status }

// run answers the turn as if it had been posted.
func (t *turn) run() {
	defer t.panicked()
	t.header = http.Header{}
	t.socket.s.turns.ServeHTTP(t, t.request())
	if t.kept == nil {
		t.socket.remember(t)
	}
	if t.status < http.StatusBadRequest {
		return
	}
	var e struct {
		Error map[string]any `json:"error"`
	}
	_ = json.Unmarshal(t.answer.Bytes(), &e) // our own bytes
	e.Error["headers"] = t.told()
	_ = t.socket.send(t.stream, map[string]any{"type": "error", "status": t.status, "error": e.Error})
}

// panicked is for a bug of ours, as net/http has it: the connection ends, not the server. What the turn's handler can
// still answer is answered and logged by observe.
func (t *turn) panicked() {
	p := recover()
	if p == nil {
		return
	}
	if p != http.ErrAbortHandler {
		t.socket.s.cfg.Log.Error().Any("panic", p).Bytes("stack", debug.Stack()).Msg("websocket panicked")
	}
	_ = t.socket.conn.CloseNow()
}

// told are the headers that say more of an error.
func (t *turn) told() map[string]string {
	out := map[string]string{}
	for _, name := range []string{headerRequest, headerJob, "Retry-After"} {
		if v := t.header.Get(name); v != "" {
			out[strings.ToLower(name)] = v
		}
	}
	return out
}

// ofHandshake are the headers that hold for each turn. An idempotency key does not: turns differ.
var ofHandshake = []string{"Authorization", headerCache, "Traceparent"}

func (t *turn) request() *http.Request {
	from := t.socket.from
	r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: from.URL.Path}, Pattern: "WEBSOCKET " + string(queue.Responses), Proto: from.Proto, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Host: from.Host, RemoteAddr: from.RemoteAddr, Body: io.NopCloser(bytes.NewReader(t.body)), ContentLength: int64(len(t.body))}
	for _, name := range ofHandshake {
		if v := from.Header.Get(name); v != "" {
			r.Header.Set(name, v)
		}
	}
	return r.WithContext(context.WithValue(t.socket.ctx, turnKey{}, t))
}

// keep has the turn's response gone on with, over this websocket, from before its end is told: who has read that may ask
// in another lane at once. Its size is about that of what was asked.
func (t *turn) keep(r *stored, size int) {
	t.kept, t.size = r, size
	t.socket.remember(t)
}

// remember replaces a lane's last response by the turn's; a turn that failed leaves none. When the room is used up, the
// other lanes' are forgotten: their clients send the conversation again.
func (sk *socket) remember(t *turn) {
	sk.mu.Lock()
	defer sk.mu.Unlock()
	sk.forget(t.lane)
	if sk.kept+t.size > bodies*int(sk.s.cfg.MaxBody) {
		for _, l := range sk.lanes {
			sk.forget(l)
		}
	}
	if t.kept != nil {
		t.lane.last, t.lane.size = t.kept, t.size
		sk.kept += t.size
	}
}

func (sk *socket) forget(l *lane) {
	sk.kept -= l.size
	l.last, l.size = nil, 0
}

// recall is a response that any lane of the websocket had last.
func (t *turn) recall(id string) *stored {
	if t == nil {
		return nil
	}
	t.socket.mu.Lock()
	defer t.socket.mu.Unlock()
	for _, l := range t.socket.lanes {
		if l.last != nil && l.last.id == id {
			found := *l.last
			return &found
		}
	}
	return nil
}

// frames tells a turn's events.
type frames struct {
	turn *turn
	w    http.ResponseWriter // of the turn, which logs and metrics watch
	sent bool
}

func (f *frames) begun() bool    { return f.sent }
func (f *frames) comment() error { return nil } // the socket pings
func (f *frames) end()           {}

func (f *frames) tell(_ string, fields map[string]any) error {
	if !f.sent {
		f.sent = true
		f.w.WriteHeader(http.StatusOK)
	}
	return f.turn.socket.send(f.turn.stream, fields)
}

func (f *frames) broken(seq int, e *apiError) error {
	f.turn.keep(nil, 0)
	return f.tell("error", map[string]any{"type": "error", "sequence_number": seq, "status": e.Status, "error": e.object()})
}

// readTurn reads a response.create, which is a request for a response with the websocket's own fields.
func readTurn(body []byte, l limits) (*order, error) {
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	o.accept("type", "stream_id") // the socket has read them
	o.unsupported("stream", "true")
	o.put("stream", json.RawMessage("true"))
	o.unsupported("background", "false")
	generate := true
	o.flag("generate", &generate)
	d, err := readResponse(o, l)
	if err != nil {
		return nil, err
	}
	d.response.warm = !generate
	return d, nil
}

func (o *order) warms() bool { return o.response != nil && o.response.warm }

// warmUp answers at once with a response of nothing, which can be gone on with. It costs what a request does, but no run.
func (t *trip) warmUp() error {
	ctx, cancel := t.step()
	defer cancel()
	if err := t.charge(ctx); err != nil {
		return err
	}
	v := result.For(t.job, queue.Succeeded, time.Now().UnixMilli())
	v.Completion = &engine.Completion{Choices: []engine.Choice{{}}}
	return newStreamed(t).finish(v)
}
