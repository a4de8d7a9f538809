package producer

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"lorry/access"
	"lorry/engine"
	"lorry/engine/echo"
)

// line is a client's websocket.
type line struct {
	t    testing.TB
	conn *websocket.Conn
}

// dial opens a websocket; headers are "Name: value".
func (r *road) dial(headers ...string) *line {
	r.t.Helper()
	h := http.Header{}
	for _, one := range headers {
		k, v, _ := strings.Cut(one, ": ")
		h.Set(k, v)
	}
	conn, _, err := websocket.Dial(r.t.Context(), r.url+responsesPath, &websocket.DialOptions{HTTPHeader: h})
	ok(r.t, err)
	conn.SetReadLimit(-1)
	r.t.Cleanup(func() { _ = conn.CloseNow() })
	return &line{r.t, conn}
}

func (l *line) send(event string) {
	l.t.Helper()
	ok(l.t, l.conn.Write(l.t.Context(), websocket.MessageText, []byte(event)))
}

// create asks for a response.
func (l *line) create(text, fields string) {
	l.t.Helper()
	if fields != "" {
		fields = "," + fields
	}
	l.send(fmt.Sprintf(`{"type":"response.create","model":"echo","input":%q%s}`, text, fields))
}

func (l *line) next() (e map[string]any) {
	l.t.Helper()
	kind, b, err := l.conn.Read(l.t.Context())
	ok(l.t, err)
	if kind != websocket.MessageText || json.Unmarshal(b, &e) != nil {
		l.t.Fatalf("%v frame: %s", kind, b)
	}
	return e
}

// all are the events of one response, or the error in its place.
func (l *line) all() (out []map[string]any) {
	l.t.Helper()
	for {
		e := l.next()
		out = append(out, e)
		switch e["type"] {
		case "response.completed", "response.failed", "response.incomplete", "error":
			return out
		}
	}
}

// response is the response that the next events end with.
func (l *line) response() map[string]any {
	l.t.Helper()
	es := l.all()
	v, isOne := es[len(es)-1]["response"].(map[string]any)
	if !isOne {
		l.t.Fatalf("%v", es)
	}
	return v
}

// closed wants the server to close the connection.
func (l *line) closed(want websocket.StatusCode) {
	l.t.Helper()
	for {
		_, _, err := l.conn.Read(l.t.Context())
		if got := websocket.CloseStatus(err); err != nil {
			if got != want {
				l.t.Errorf("closed with %d (%v), want %d", got, err, want)
			}
			return
		}
	}
}

// TestSocket: a websocket tells what a stream does, one response after the other, and goes on with each of them.
func TestSocket(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	l := r.dial()
	l.create("one two", "")
	over := l.all()
	sse := r.events(responsesPath, ask("one two", `"stream":true`))
	if !slices.Equal(types(over), types(sse)) || texts(over) != "one two" {
		t.Errorf("%v\n%v", types(over), types(sse))
	}
	for i, e := range over {
		if e["stream_id"] != nil || e["sequence_number"] != sse[i]["sequence_number"] {
			t.Errorf("%v", e)
		}
	}
	first := dig(over[len(over)-1], "response", "id").(string)
	r.do("GET", responsesPath+"/"+first, "").want(t, 200) // it is stored like others
	l.create("three", fmt.Sprintf(`"previous_response_id":%q,"stream":true`, first))
	if v := l.response(); v["previous_response_id"] != first || dig(v, "usage", "input_tokens") != 5.0 {
		t.Errorf("%v", v)
	}
}

// What is not stored can be gone on with over the websocket that made it, and only there, and only until it fails.
func TestSocketRemembers(t *testing.T) {
	r := answering(t)
	asked := r.summarizing("I see.")
	l, other := r.dial(), r.dial()
	l.create("hello", `"store":false`)
	id := l.response()["id"].(string)
	<-asked
	on := fmt.Sprintf(`"store":false,"previous_response_id":%q`, id)
	other.create("more", on)
	if es := other.all(); dig(es[0], "error", "code") != "previous_response_not_found" || es[0]["status"] != 400.0 {
		t.Errorf("%v", es)
	}
	l.create("fork", on+`,"stream_id":"b"`)
	if l.response(); string((<-asked).Messages) != `[{"role":"user","content":"hello"},{"role":"assistant","content":"I see."},{"role":"user","content":"fork"}]` {
		t.Error("the fork is not told what came before")
	}
	l.create("more", on)
	second := l.response()["id"].(string)
	<-asked
	l.create("stale", on) // the lane has gone on
	if es := l.all(); dig(es[0], "error", "code") != "previous_response_not_found" {
		t.Errorf("%v", es)
	}
	l.create("after a failure", fmt.Sprintf(`"previous_response_id":%q`, second))
	if es := l.all(); dig(es[0], "error", "code") != "previous_response_not_found" {
		t.Errorf("%v", es)
	}
}

// Who has read a response's end can go on with it, in any stream, however long the server takes to put the turn away.
func TestSocketForksAtOnce(t *testing.T) {
	r := answering(t)
	asked := r.summarizing("I see.")
	late := make(chan struct{})
	release := sync.OnceFunc(func() { close(late) })
	turns := r.server.turns
	r.server.turns = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if turns.ServeHTTP(w, q); strings.Contains(string(turnOf(q).body), "hello") {
			<-late
		}
	})
	l := r.dial()
	t.Cleanup(release)
	l.create("hello", `"store":false`)
	id := l.response()["id"].(string)
	<-asked
	l.create("fork", fmt.Sprintf(`"store":false,"stream_id":"b","previous_response_id":%q`, id))
	l.response()
	<-asked
}

// Without generate there is no run: only something to go on with.
func TestSocketWarmUp(t *testing.T) {
	r := answering(t)
	asked := r.summarizing("I see.")
	l := r.dial()
	for name, store := range map[string]string{"stored": "", "not stored": `,"store":false`} {
		l.create("hello", `"generate":false`+store)
		es := l.all()
		v, _ := es[len(es)-1]["response"].(map[string]any)
		if !slices.Equal(types(es), []string{"created", "in_progress", "completed"}) || len(v["output"].([]any)) != 0 || dig(v, "usage", "total_tokens") != 0.0 {
			t.Fatalf("%s: %v", name, es)
		}
		l.create("go on", fmt.Sprintf(`"previous_response_id":%q`, v["id"]))
		if l.response(); string((<-asked).Messages) != `[{"role":"user","content":"hello"},{"role":"user","content":"go on"}]` {
			t.Errorf("%s: what was prepared is lost", name)
		}
	}
	if n := r.runs.count(); n != 2 {
		t.Errorf("%d runs, want 2", n)
	}
}

// Streams run beside each other; within one, one after the other.
func TestSocketLanes(t *testing.T) {
	r := answering(t)
	release, started := make(chan struct{}), make(chan string, 8)
	r.work(func(_ context.Context, q *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		text := messages(t, q)[0].Content
		started <- text
		if text == "slow" {
			<-release
		}
		return &engine.Completion{Choices: []engine.Choice{{Text: text, Finish: engine.FinishStop}}}, nil
	})
	l := r.dial()
	l.create("slow", `"stream_id":"a"`)
	<-started
	l.create("behind it", `"stream_id":"a"`)
	l.create("quick", `"stream_id":"b"`)
	if es := l.all(); texts(es) != "quick" || es[0]["stream_id"] != "b" || es[len(es)-1]["stream_id"] != "b" {
		t.Errorf("%v", es)
	}
	close(release)
	for _, want := range []string{"slow", "behind it"} {
		if es := l.all(); texts(es) != want || es[0]["stream_id"] != "a" {
			t.Errorf("%q: %v", want, es)
		}
	}
}

func TestSocketRefusals(t *testing.T) {
	r := setup(t, Config{MaxBody: 3000})
	ok(t, r.server.Setup(t.Context()))
	r.echo(echo.Config{Context: 8})
	l := r.dial("Idempotency-Key: of the handshake, and no turn's")
	for name, c := range map[string]struct {
		event, code, param, stream string
		status                     float64
	}{
		"no JSON":             {`{`, codeJSON, "", "", 400},
		"no object":           {`[]`, codeType, "", "", 400},
		"no type":             {`{"model":"echo"}`, codeMissing, "type", "", 400},
		"unknown type":        {`{"type":"session.update","stream_id":"s"}`, codeValue, "type", "s", 400},
		"odd stream":          {`{"type":"response.create","stream_id":"a b"}`, "invalid_stream_id", "stream_id", "", 400},
		"long stream":         {`{"type":"response.create","stream_id":"` + strings.Repeat("a", 257) + `"}`, "invalid_stream_id", "stream_id", "", 400},
		"no input":            {`{"type":"response.create","model":"echo","stream_id":"s"}`, codeMissing, "input", "s", 400},
		"no stream":           {`{"type":"response.create","model":"echo","input":"x","stream":false}`, codeUnsupported, "stream", "", 400},
		"background":          {`{"type":"response.create","model":"echo","input":"x","background":true}`, codeUnsupported, "background", "", 400},
		"unknown field":       {`{"type":"response.create","model":"echo","input":"x","inptu":1}`, codeUnknown, "inptu", "", 400},
		"unknown model":       {`{"type":"response.create","model":"none","input":"x"}`, "model_not_found", "model", "", 404},
		"unknown response":    {`{"type":"response.create","model":"echo","input":"x","previous_response_id":"resp_1"}`, "previous_response_not_found", "previous_response_id", "", 400},
		"over the context":    {`{"type":"response.create","model":"echo","input":"` + strings.Repeat("x ", 9) + `"}`, engine.CodeContextLength, "messages", "", 400},
		"over a body's limit": {`{"type":"response.create","model":"echo","input":"` + strings.Repeat("x", 3000) + `"}`, codeTooLarge, "", "", 413},
		"a zero byte":         {`{"type":"response.create","model":"echo","input":"\u0000"}`, codeValue, "", "", 400},
	} {
		l.send(c.event)
		e := l.next()
		stream, _ := e["stream_id"].(string)
		param, _ := dig(e, "error", "param").(string)
		if e["type"] != "error" || e["status"] != c.status || dig(e, "error", "code") != c.code || param != c.param || stream != c.stream || dig(e, "error", "message") == "" || dig(e, "error", "type") == nil {
			t.Errorf("%s: %v", name, e)
		}
	}
	ok(t, l.conn.Write(t.Context(), websocket.MessageBinary, []byte(`{}`)))
	if e := l.next(); dig(e, "error", "code") != codeType {
		t.Errorf("%v", e)
	}
	l.send(`{"type":"response.steer","previous_response_id":"resp_1","input":"left"}`)
	if e := l.next(); e["type"] != "response.steer.failed" || dig(e, "error", "code") != "steering_not_supported" || dig(e, "steer", "input") != "left" || dig(e, "steer", "previous_response_id") != "resp_1" {
		t.Errorf("%v", e)
	}
	for range 2 {
		if l.create("still here", ""); l.response()["status"] != "completed" {
			t.Error("the connection is of no use any more")
		}
	}
	l.send(`{"type":"response.create","input":"` + strings.Repeat("x", 3000+envelope) + `"}`)
	l.closed(websocket.StatusMessageTooBig)
}

// The bounds of a connection: responses that wait or run, and streams.
func TestSocketBounds(t *testing.T) {
	r := answering(t)
	r.work(func(ctx context.Context, _ *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	l := r.dial()
	for i := range maxTurns {
		l.create("x", fmt.Sprintf(`"stream_id":"s%d"`, i%2))
	}
	l.create("x", `"stream_id":"s3"`)
	if e := l.next(); e["status"] != 429.0 || e["stream_id"] != "s3" {
		t.Errorf("%v", e)
	}
	l = r.dial()
	l.create("x", `"previous_response_id":"resp_1"`) // a stream without a name is none of them
	l.all()
	for i := range maxLanes + 1 {
		l.create("x", fmt.Sprintf(`"previous_response_id":"resp_1","stream_id":"s%d"`, i))
		if e := l.next(); (dig(e, "error", "code") == "websocket_stream_limit_reached") != (i == maxLanes) {
			t.Errorf("stream %d: %v", i, e)
		}
	}
}

// What a connection holds in memory is bounded: requests that wait, and responses that it remembers.
func TestSocketRoom(t *testing.T) {
	r := setup(t, Config{MaxBody: 1000})
	ok(t, r.server.Setup(t.Context()))
	release, started := make(chan struct{}), make(chan struct{}, 16)
	r.work(func(_ context.Context, q *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		started <- struct{}{}
		<-release
		return &engine.Completion{Choices: []engine.Choice{{Text: "ok", Finish: engine.FinishStop}}}, nil
	})
	l, long := r.dial(), strings.Repeat("x", 800)
	for i := range bodies {
		l.create(long, fmt.Sprintf(`"store":false,"stream_id":"s%d"`, i))
		<-started
	}
	l.create(long, `"stream_id":"more"`)
	if e := l.next(); e["status"] != 429.0 || e["stream_id"] != "more" {
		t.Errorf("%v", e)
	}
	close(release)
	for range bodies {
		l.response()
	}
	l.create(long, `"store":false,"stream_id":"s0"`)
	last := l.response()["id"]
	l.create(long, `"store":false,"stream_id":"more"`)
	l.response()
	l.create("go on", fmt.Sprintf(`"previous_response_id":%q`, last))
	if e := l.next(); dig(e, "error", "code") != "previous_response_not_found" {
		t.Errorf("%v", e)
	}
}

// A bug of ours ends a connection, and no other.
func TestSocketPanic(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	turns := r.server.turns
	r.server.turns = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.Contains(string(turnOf(q).body), "bug") {
			panic(http.ErrAbortHandler)
		}
		turns.ServeHTTP(w, q)
	})
	l, other := r.dial(), r.dial()
	l.create("bug", "")
	l.closed(-1)
	if other.create("x", ""); other.response()["status"] != "completed" {
		t.Error("the other connection suffers")
	}
}

// Who is not let in, or asks for no websocket, hears so in plain HTTP.
func TestSocketHandshake(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	upgrade := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	r.do("GET", responsesPath, "").refused(t, 426, "upgrade_required")
	r.do("GET", responsesPath, "", upgrade[:3]...).refused(t, 400, "invalid_handshake")
	for name, headers := range map[string][]string{"origin": {"Origin: https://evil.example"}, "site": {"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"}, "no host": {"Origin: null"}} {
		t.Run(name, func(t *testing.T) {
			r.do("GET", responsesPath, "", append(headers, upgrade...)...).refused(t, 403, "cross_origin")
		})
	}
	l := r.dial("Origin: " + r.url)
	if l.create("x", ""); l.response()["status"] != "completed" {
		t.Error("a page of ours is let in")
	}
	key, _, err := r.access.CreateKey(t.Context(), access.CreateKey{Tenant: "default"})
	ok(t, err)
	wait(t, "the key is known", func() bool { return r.do("GET", "/v1/models", "").status == 401 })
	r.do("GET", responsesPath, "", upgrade...).refused(t, 401, "")
	l.create("x", "")
	if e := l.next(); e["status"] != 401.0 {
		t.Errorf("who is not let in any more: %v", e)
	}
	l = r.dial("Authorization: Bearer " + key)
	if l.create("x", ""); l.response()["status"] != "completed" {
		t.Error("a key is let in")
	}
}

func TestSocketsOfATenant(t *testing.T) {
	r := setup(t, Config{TenantWaiting: 1})
	l := r.dial()
	_, res, err := websocket.Dial(t.Context(), r.url+responsesPath, nil)
	if err == nil || res.StatusCode != 429 {
		t.Errorf("a second one: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
	ok(t, l.conn.Close(websocket.StatusNormalClosure, ""))
	wait(t, "the first has left", func() bool {
		conn, _, err := websocket.Dial(t.Context(), r.url+responsesPath, nil)
		if err == nil {
			_ = conn.CloseNow()
		}
		http.DefaultClient.CloseIdleConnections()
		return err == nil
	})
}

// A client that goes away cancels what runs for it, and what waits is not begun.
func TestSocketHangUp(t *testing.T) {
	r := answering(t)
	started, ended := make(chan struct{}, 2), make(chan error, 2)
	r.work(func(ctx context.Context, _ *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		started <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	l := r.dial()
	l.create("runs", "")
	<-started
	l.create("waits", "")
	ok(t, l.conn.CloseNow())
	if err := <-ended; err == nil || err.Error() != "cancelled" {
		t.Errorf("it ended by %v", err)
	}
	wait(t, "the connection is over", func() bool { return r.server.openSockets() == 0 })
	if n := r.runs.count(); n != 1 {
		t.Errorf("%d runs, want 1", n)
	}
}

func (s *Server) openSockets() (n int) {
	s.sockets.mu.Lock()
	defer s.sockets.mu.Unlock()
	return len(s.sockets.n)
}

// A server that leaves finishes what is under way, takes nothing new, and says that it goes.
func TestSocketDrain(t *testing.T) {
	r := answering(t)
	release, started := make(chan struct{}), make(chan struct{})
	r.work(func(context.Context, *engine.Request, func(engine.Chunk)) (*engine.Completion, error) {
		close(started)
		<-release
		return &engine.Completion{Choices: []engine.Choice{{Text: "done", Finish: engine.FinishStop}}}, nil
	})
	ctx, leave := context.WithCancel(t.Context())
	s, second := r.second(Config{}, ctx)
	idle, busy := second.dial(), second.dial()
	busy.create("x", "")
	<-started
	leave()
	idle.closed(websocket.StatusGoingAway)
	wait(t, "it drains", s.draining.Load)
	busy.create("y", `"stream_id":"late"`)
	if e := busy.next(); e["status"] != 503.0 || dig(e, "error", "code") != codeDraining || e["stream_id"] != "late" {
		t.Errorf("%v", e)
	}
	close(release)
	if v := busy.response(); dig(v, "output", 0, "content", 0, "text") != "done" {
		t.Errorf("%v", v)
	}
	busy.closed(websocket.StatusGoingAway)
}

// The grace ends what is under way.
func TestSocketGrace(t *testing.T) {
	r := answering(t)
	started := make(chan struct{})
	r.work(func(ctx context.Context, _ *engine.Request, _ func(engine.Chunk)) (*engine.Completion, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, leave := context.WithCancel(t.Context())
	_, second := r.second(Config{Grace: time.Millisecond}, ctx)
	l := second.dial()
	l.create("x", "")
	<-started
	leave()
	if e := l.next(); e["status"] != 503.0 || dig(e, "error", "code") != codeDraining || dig(e, "error", "headers", "x-lorry-job") == nil {
		t.Errorf("%v", e)
	}
	l.closed(websocket.StatusGoingAway)
}

// Connections end: when nobody asks, when they are old, and when nobody is there.
func TestSocketEnds(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		code   websocket.StatusCode
		told   string
	}{
		"nothing asked": {Config{SocketIdle: 30 * time.Millisecond}, websocket.StatusNormalClosure, ""},
		"too old":       {Config{SocketLife: 30 * time.Millisecond}, websocket.StatusNormalClosure, "websocket_connection_limit_reached"},
	} {
		t.Run(name, func(t *testing.T) {
			l := setup(t, c.config).dial()
			if c.told != "" {
				if e := l.next(); dig(e, "error", "code") != c.told {
					t.Errorf("%v", e)
				}
			}
			l.closed(c.code)
		})
	}
}

// Who answers to pings stays.
func TestSocketPing(t *testing.T) {
	r := setup(t, Config{KeepAlive: 2 * time.Second}) // a client has twice as long to answer
	pings := make(chan struct{}, 1)
	alive, _, err := websocket.Dial(t.Context(), r.url+responsesPath, &websocket.DialOptions{OnPingReceived: func(context.Context, []byte) bool {
		select {
		case pings <- struct{}{}:
		default:
		}
		return true
	}})
	ok(t, err)
	ctx := alive.CloseRead(t.Context())
	for range 2 {
		select {
		case <-pings:
		case <-ctx.Done():
			t.Fatal("it is closed")
		}
	}
	if r.server.openSockets() != 1 {
		t.Error("it is closed")
	}
	_ = alive.CloseNow()
}

// A client that is gone without a word answers to none.
func TestSocketGone(t *testing.T) {
	r := setup(t, Config{KeepAlive: 20 * time.Millisecond})
	gone, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	ok(t, err)
	defer gone.Close()
	_, err = fmt.Fprintf(gone, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", responsesPath)
	ok(t, err)
	// It reads what comes, but as one that does not know what it is.
	var all []byte
	for buf := make([]byte, 512); err == nil; {
		var n int
		n, err = gone.Read(buf)
		all = append(all, buf[:n]...)
	}
	if !strings.HasPrefix(string(all), "HTTP/1.1 101") {
		t.Errorf("%q", all)
	}
	wait(t, "its place is free", func() bool { return r.server.openSockets() == 0 })
}

// piped hands out one end of a pipe as its connection.
type piped struct {
	http.ResponseWriter
	conn net.Conn
}

func (p piped) WriteHeader(status int) {
	_, _ = fmt.Fprintf(p.conn, "HTTP/1.1 %d\r\n\r\n", status)
}

func (p piped) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return p.conn, bufio.NewReadWriter(bufio.NewReader(p.conn), bufio.NewWriter(p.conn)), nil
}

// A client may take as long to read an event as that of a stream may, whatever pings do meanwhile.
func TestSocketSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() { _, _ = theirs.Read(make([]byte, 64)) }() // the handshake's answer
		r := httptest.NewRequest(http.MethodGet, responsesPath, nil)
		for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
			r.Header.Set(k, v)
		}
		conn, err := websocket.Accept(piped{httptest.NewRecorder(), ours}, r, nil)
		ok(t, err)
		sk := &socket{s: &Server{cfg: Config{KeepAlive: 15 * time.Second}}, conn: conn}
		sk.ctx, sk.cancel = context.WithCancel(t.Context())
		go sk.ping()
		told := make(chan error, 1)
		go func() { told <- sk.send("", map[string]any{"type": "response.created"}) }()
		time.Sleep(slowest - time.Second) // the bubble's
		_, err = theirs.Read(make([]byte, 64))
		if told := <-told; err != nil || told != nil {
			t.Errorf("it reads %v, and was told %v", err, told)
		}
		sk.cancel()
		_ = conn.CloseNow()
	})
}

// Many turns over many connections at once: each is answered, and nothing is left behind.
func TestSocketCrowd(t *testing.T) {
	r := answering(t).echo(echo.Config{})
	ls := make([]*line, 8)
	for i := range ls {
		ls[i] = r.dial()
		for n := range 4 {
			ls[i].create(fmt.Sprintf("%d %d", i, n), fmt.Sprintf(`"stream_id":"s%d","store":false`, n))
		}
	}
	for _, l := range ls {
		for range 4 {
			if l.response()["status"] != "completed" {
				t.Error("not answered")
			}
		}
		ok(t, l.conn.Close(websocket.StatusNormalClosure, ""))
	}
	wait(t, "all are closed", func() bool { return r.server.openSockets() == 0 })
}

// FuzzClientEvent: whatever a frame holds, it is an event that the socket understood, or one of OpenAI's errors.
func FuzzClientEvent(f *testing.F) {
	for _, seed := range []string{`{"type":"response.create","model":"m","input":"x","stream_id":"a","generate":false}`, `{"type":"response.steer","previous_response_id":"r","input":[]}`,
		`{"type":"response.create","stream_id":"a b"}`, `{"type":7}`, `[]`, `{"type":"response.create","model":"m","input":[{"type":"compaction","encrypted_content":"x"}],"stream":true}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		e, err := readEnvelope(frame)
		if e.stream != "" && !streamID.MatchString(e.stream) {
			t.Errorf("stream %q", e.stream)
		}
		if err != nil {
			_ = must(json.Marshal(asAPI(err).object()))
			return
		}
		if e.kind == "response.steer" {
			return
		}
		if d, err := readTurn(frame, limits{maxN: 1}); err == nil && (!d.stream || d.response.echo.Background) {
			t.Errorf("%s: %+v", frame, d)
		}
	})
}
