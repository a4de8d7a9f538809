package producer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"lorry/access"
)

// socket is a connection of the Responses API's websocket mode. Each response.create on it is a request as POST
// /v1/responses takes it, answered by the same road, with events as text frames. Requests with one stream_id run one
// after the other (a lane), others beside them. Its reader, its watch and its lanes are goroutines that end with it.
type socket struct {
	s      *Server
	conn   *websocket.Conn
	from   *http.Request // the handshake
	ctx    context.Context
	cancel context.CancelFunc
	turns  sync.WaitGroup
	// writing is how many events wait to be written, or are. Each has a bound of its own.
	writing atomic.Int32

	mu    sync.Mutex
	lanes map[string]*lane
	named int // of them; one may be without a name
	// open is how many turns wait or run, bytes what they ask; kept is the size of all lanes' last responses. Once leaving
	// is set, there are no more turns.
	open    int
	bytes   int
	kept    int
	leaving bool
	quiet   *time.Timer // since no turn is open
}

// lane is the turns of one stream_id.
type lane struct {
	waiting []*turn
	busy    bool
	// last is the lane's last response, unless it is stored or failed: the websocket alone can go on with it.
	last *stored
	size int // of last, about
}

// Bounds of one connection, as OpenAI's.
const (
	maxTurns = 16
	maxLanes = 32
	// bodies is how many of the longest bodies a connection's turns may hold together, and the responses that it
	// remembers too.
	bodies = 4
	// envelope is how much longer than a body a frame may be. What is longer ends the connection (1009).
	envelope = 4 << 10
)

// connect opens a websocket. A browser lets any page open one, with what it knows of us, and asks nobody; so its origin is
// checked as that of a POST.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) error {
	if err := sameOrigin(posted(r)); err != nil {
		return err
	}
	who, err := s.who(r)
	if err != nil {
		return err
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		return &apiError{Status: http.StatusUpgradeRequired, Type: typeInvalid, Code: "upgrade_required", Message: "GET /v1/responses opens a websocket: ask for the upgrade, or POST a request."}
	}
	if !s.hold() {
		return draining(w)
	}
	defer s.release()
	if err := s.sockets.enter(who.Tenant, socketsOf(s.cfg.Access.Tenant(who.Tenant).MaxWaiting)); err != nil {
		return err
	}
	defer s.sockets.leave(who.Tenant)
	return s.upgrade(w, r, who)
}

// socketsOf is how many connections a tenant may hold that may have so many requests waiting, an eighth: each carries
// several at once, and may hold several bodies of input. 0 stays 0, which is no bound of its own.
func socketsOf(waiting int) int { return (waiting + 7) / 8 }

func posted(r *http.Request) *http.Request {
	out := *r
	out.Method = http.MethodPost
	return &out
}

// upgrade makes the connection a websocket and serves it to its end.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, who access.Principal) error {
	h := &handshake{ResponseWriter: w}
	conn, err := websocket.Accept(h, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // sameOrigin has verified it
	if err != nil {
		return &apiError{Status: h.status, Type: typeInvalid, Code: "invalid_handshake", Message: "The websocket could not be opened: " + strings.TrimSpace(h.text.String())}
	}
	conn.SetReadLimit(s.cfg.MaxBody + envelope)
	began := time.Now()
	sk := &socket{s: s, conn: conn, from: r, lanes: map[string]*lane{}, quiet: time.NewTimer(s.cfg.SocketIdle)}
	sk.ctx, sk.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	why := sk.run()
	s.cfg.Log.Debug().Err(why).Str("tenant", who.Tenant).Dur("took", time.Since(began)).Msg("websocket closed")
	return nil
}

// handshake keeps the library's plain answer to a bad handshake back: ours has OpenAI's shape.
type handshake struct {
	http.ResponseWriter
	status int
	text   bytes.Buffer
}

func (h *handshake) WriteHeader(status int) {
	if h.status = status; status == http.StatusSwitchingProtocols {
		h.ResponseWriter.WriteHeader(status)
	}
}

func (h *handshake) Write(b []byte) (int, error) { return h.text.Write(b) }
func (h *handshake) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// run reads until the connection ends, by whomever, and returns why. Turns that are under way then are hung up on.
func (sk *socket) run() error {
	var wg sync.WaitGroup
	wg.Go(sk.watch)
	wg.Go(sk.ping)
	var err error
	for err == nil {
		err = sk.read()
	}
	sk.cancel()
	sk.turns.Wait()
	_ = sk.conn.CloseNow()
	wg.Wait()
	sk.quiet.Stop()
	return err
}

// watch closes the connection when it is time.
func (sk *socket) watch() {
	life := time.NewTimer(sk.s.cfg.SocketLife)
	defer life.Stop()
	for {
		select {
		case <-sk.ctx.Done():
			return
		case <-sk.s.leaving:
			sk.leave(websocket.StatusGoingAway, "the server is shutting down: connect again")
			return
		case <-life.C:
			sk.fail("", refuse("websocket_connection_limit_reached", "", "Responses websocket connection limit reached (%s). Create a new websocket connection to continue.", sk.s.cfg.SocketLife))
			sk.leave(websocket.StatusNormalClosure, "the connection is too old: connect again")
			return
		case <-sk.quiet.C:
			if sk.idle() {
				sk.leave(websocket.StatusNormalClosure, "nothing was asked for too long: connect again")
				return
			}
		}
	}
}

// idle says whether no turn has come since the timer ran out; then none may come any more.
func (sk *socket) idle() bool {
	sk.mu.Lock()
	defer sk.mu.Unlock()
	sk.leaving = sk.open == 0
	return sk.leaving
}

// leave takes no more turns, waits for those that are open, and closes.
func (sk *socket) leave(code websocket.StatusCode, why string) {
	sk.mu.Lock()
	sk.leaving = true
	sk.mu.Unlock()
	sk.turns.Wait()
	_ = sk.conn.Close(code, why)
}

// ping finds out that a client is gone which never said so. One that is slow to read can't be asked meanwhile: the library
// gives a ping five seconds to get past an event.
func (sk *socket) ping() {
	t := time.NewTicker(sk.s.cfg.KeepAlive)
	defer t.Stop()
	for {
		select {
		case <-sk.ctx.Done():
			return
		case <-t.C:
		}
		if sk.writing.Load() > 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(sk.ctx, 2*sk.s.cfg.KeepAlive)
		err := sk.conn.Ping(ctx)
		cancel()
		if err != nil && sk.writing.Load() == 0 {
			_ = sk.conn.CloseNow()
			return
		}
	}
}

// read takes one event of the client's. An error is the connection's end.
func (sk *socket) read() error {
	kind, frame, err := sk.conn.Read(sk.ctx)
	if err != nil {
		return err
	}
	if kind != websocket.MessageText {
		sk.fail("", refuse(codeType, "", "Events are JSON in text frames, but got a binary one."))
		return nil
	}
	e, err := readEnvelope(frame)
	switch {
	case err != nil:
	case e.kind == "response.steer":
		sk.steer(e)
	default:
		err = sk.enter(&turn{socket: sk, stream: e.stream, body: frame})
	}
	if err != nil {
		sk.fail(e.stream, asAPI(err))
	}
	return nil
}

// clientEvent is what of an event is for the socket itself.
type clientEvent struct {
	kind, stream string
	input        json.RawMessage // of a steer
	previous     string
}

var streamID = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,256}$`)

func readEnvelope(frame []byte) (e clientEvent, err error) {
	if err := checkText(frame); err != nil {
		return e, err
	}
	o, err := newObject(frame)
	if err != nil {
		return e, err
	}
	var stream string
	if o.text("stream_id", &stream, len(frame)) && !streamID.MatchString(stream) {
		o.fail(refuse("invalid_stream_id", "stream_id", "Invalid 'stream_id': expected 1 to 256 letters, digits, '_', '-' or '.', but got '%s'.", clip(stream)))
	}
	if o.err == nil {
		e.stream = stream
	}
	if o.has("type") {
		o.oneOf("type", &e.kind, "response.create", "response.steer")
	} else {
		o.missing("type")
	}
	if e.kind == "response.steer" {
		e.input, _ = o.take("input")
		o.text("previous_response_id", &e.previous, len(frame))
	}
	return e, o.done0()
}

// steer hands the input back: a response here is not changed while it is made.
func (sk *socket) steer(e clientEvent) {
	_ = sk.send(e.stream, map[string]any{"type": "response.steer.failed", "sequence_number": 0, "steer": map[string]any{"input": e.input, "previous_response_id": e.previous},
		"error": map[string]string{"type": typeInvalid, "code": "steering_not_supported", "message": "Models here can't be steered. Send the input with response.create once the response is over."}})
}

// enter puts a turn into its lane, and sets the lane going.
func (sk *socket) enter(t *turn) error {
	sk.mu.Lock()
	defer sk.mu.Unlock()
	if err := sk.full(t); err != nil {
		return err
	}
	l := sk.lane(t.stream)
	t.lane = l
	l.waiting = append(l.waiting, t)
	sk.open, sk.bytes = sk.open+1, sk.bytes+len(t.body)
	sk.quiet.Stop()
	if !l.busy {
		l.busy = true
		sk.turns.Go(func() { sk.work(l) })
	}
	return nil
}

// full says why there is no room for a turn.
func (sk *socket) full(t *turn) error {
	switch {
	case sk.leaving:
		return unavailable(codeDraining, "This connection is about to be closed and takes no new work. Connect again.")
	case sk.open >= maxTurns, sk.bytes+len(t.body) > bodies*int(sk.s.cfg.MaxBody):
		return &apiError{Status: http.StatusTooManyRequests, Type: typeRateLimit, Code: codeRate, RetryAfter: time.Second,
			Message: fmt.Sprintf("Too many responses of this connection wait or are under way: at most %d, whose requests have together %s. Try again when one is over, or open another connection.", maxTurns, size(bodies*sk.s.cfg.MaxBody))}
	case t.stream != "" && sk.named == maxLanes && sk.lanes[t.stream] == nil:
		return refuse("websocket_stream_limit_reached", "stream_id", "This connection has seen %d values of 'stream_id', and takes no more. Use one of them, or open another connection.", maxLanes)
	}
	return nil
}

// lane is the one of a stream_id, made where there is none.
func (sk *socket) lane(stream string) *lane {
	l := sk.lanes[stream]
	if l != nil {
		return l
	}
	if stream != "" {
		sk.named++
	}
	l = &lane{}
	sk.lanes[stream] = l
	return l
}

// work runs a lane's turns until none waits.
func (sk *socket) work(l *lane) {
	for t := sk.next(l); t != nil; t = sk.next(l) {
		t.run()
		sk.over(t)
	}
}

// next is a lane's next turn; nil if there is none, or nobody to hear of it.
func (sk *socket) next(l *lane) *turn {
	sk.mu.Lock()
	defer sk.mu.Unlock()
	if len(l.waiting) == 0 || sk.ctx.Err() != nil {
		l.busy = false
		return nil
	}
	t := l.waiting[0]
	l.waiting = l.waiting[1:]
	return t
}

func (sk *socket) over(t *turn) {
	sk.mu.Lock()
	defer sk.mu.Unlock()
	sk.bytes -= len(t.body)
	if sk.open--; sk.open == 0 {
		sk.quiet.Reset(sk.s.cfg.SocketIdle)
	}
}

// send writes an event.
func (sk *socket) send(stream string, fields map[string]any) error {
	if stream != "" {
		fields["stream_id"] = stream
	}
	sk.writing.Add(1)
	defer sk.writing.Add(-1)
	ctx, cancel := context.WithTimeout(sk.ctx, slowest)
	defer cancel()
	if sk.conn.Write(ctx, websocket.MessageText, must(json.Marshal(fields))) != nil {
		return errHungUp
	}
	return nil
}

// fail tells what is no response's error.
func (sk *socket) fail(stream string, e *apiError) {
	_ = sk.send(stream, map[string]any{"type": "error", "status": e.Status, "error": e.object()})
}
