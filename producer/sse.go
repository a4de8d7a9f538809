package producer

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"lorry/result"
)

// slowest is how long a client may take to read one event.
const slowest = 30 * time.Second

// sse writes server-sent events. The header leaves with the first, so that what fails before is an ordinary error.
type sse struct {
	w     http.ResponseWriter
	began bool
	buf   bytes.Buffer
}

// events is where a response's events go. An error is errHungUp: nobody reads any more.
type events interface {
	// begun says whether something has left; until then a failure is an ordinary error.
	begun() bool
	// tell sends an event.
	tell(kind string, fields map[string]any) error
	// broken sends the last event of a stream that can't go on; seq is its number.
	broken(seq int, e *apiError) error
	// comment shows that the stream is alive.
	comment() error
	end()
}

func (e *sse) begun() bool { return e.began }

// tell sends an event with its name, as the Responses API does.
func (e *sse) tell(kind string, fields map[string]any) error {
	return e.send([]byte("event: " + kind + "\ndata: " + string(must(json.Marshal(fields))) + "\n\n"))
}

func (e *sse) broken(seq int, err *apiError) error {
	o := err.object()
	return e.tell("error", map[string]any{"type": "error", "sequence_number": seq, "code": o.Code, "message": o.Message, "param": o.Param})
}

// event sends a value.
func (e *sse) event(v any) error {
	e.buf.Reset()
	e.buf.WriteString("data: ")
	enc := json.NewEncoder(&e.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("producer: " + err.Error()) // our own types: a bug
	}
	e.buf.WriteByte('\n') // Encode wrote the first
	return e.send(e.buf.Bytes())
}

// fail sends an error. The SDKs raise it.
func (e *sse) fail(err *apiError) error {
	return e.event(map[string]result.APIError{"error": err.object()})
}

// done sends the end mark.
func (e *sse) done() error { return e.send([]byte("data: [DONE]\n\n")) }

// comment sends what clients skip and proxies count as life.
func (e *sse) comment() error { return e.send([]byte(": keep-alive\n\n")) }

// send writes and flushes: a token is worth more now than in a full packet. Its one error is errHungUp.
func (e *sse) send(b []byte) error {
	if !e.began {
		e.begin()
	}
	rc := http.NewResponseController(e.w)
	_ = rc.SetWriteDeadline(time.Now().Add(slowest)) // not every writer can
	if _, err := e.w.Write(b); err != nil {
		return errHungUp
	}
	if rc.Flush() != nil {
		return errHungUp
	}
	return nil
}

// end takes the deadline off the connection, which the next request may use.
func (e *sse) end() {
	if e.began {
		_ = http.NewResponseController(e.w).SetWriteDeadline(time.Time{})
	}
}

func (e *sse) begin() {
	e.began = true
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // nginx would collect them
	e.w.WriteHeader(http.StatusOK)
}
