package producer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"lorry/access"
	"lorry/batch"
	"lorry/engine"
	"lorry/engine/echo"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/registry"
	"lorry/result"
	"lorry/result/resulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// road is the API over a real nats-server and a real Valkey.
type road struct {
	t      testing.TB
	nats   *server.Server
	redis  *redis.Client
	queue  *queue.Queue
	store  *result.Store
	access *access.Store
	models *registry.Registry
	// batches are there once shelve was called. Nobody reads their lines here.
	batches *batch.Batches
	server  *Server
	url     string
	runs    runs
}

// setup starts a road whose API has the settings of c, without a worker.
func setup(t testing.TB, c Config) *road {
	t.Helper()
	r := &road{t: t, nats: queuetest.Server(t)}
	r.queue = queuetest.New(t, queue.Config{Conn: queuetest.Connect(t, r.nats), Timeout: 2 * time.Second})
	r.redis = resulttest.Client(t, resulttest.Server(t))
	r.store = resulttest.New(t, result.Config{Queue: r.queue, Redis: r.redis})
	r.access = access.New(access.Config{JS: r.queue.JS(), Open: true, Log: zerolog.Nop()})
	r.models = registry.New(registry.Config{JS: r.queue.JS(), Log: zerolog.Nop()})
	ok(t, r.access.Setup(t.Context()))
	ok(t, r.models.Setup(t.Context()))
	ok(t, r.queue.SetupBase(t.Context(), engine.Model{Base: echo.Base}.B()))
	run(t, r.access.Run)
	run(t, r.models.Run)
	<-r.access.Ready()
	<-r.models.Ready()
	ok(t, r.models.Put(t.Context(), registry.Model{Name: "echo", Base: echo.Base, Created: 1}))
	r.serve(c)
	return r
}

// serve starts the API.
func (r *road) serve(c Config) {
	c.Queue, c.Results, c.Registry, c.Access = r.queue, r.store, r.models, r.access
	c.Log = zerolog.New(zerolog.NewTestWriter(r.t)).Level(zerolog.ErrorLevel)
	s, err := New(c)
	ok(r.t, err)
	web := httptest.NewServer(s.Handler())
	r.server, r.url = s, web.URL
	r.t.Cleanup(web.Close)
	run(r.t, s.Run)
}

// run runs something until the test ends.
func run(t testing.TB, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runs counts what workers ran.
type runs struct {
	mu  sync.Mutex
	ids []string
}

func (r *runs) add(id string) { r.mu.Lock(); defer r.mu.Unlock(); r.ids = append(r.ids, id) }

func (r *runs) count() int { r.mu.Lock(); defer r.mu.Unlock(); return len(r.ids) }

// runner answers a request, as an engine does.
type runner func(ctx context.Context, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error)

// work is a worker's side of the road, without its care: pull, claim, run, settle, acknowledge; and a dispatcher's,
// without its order: what is in the backlog goes into the window.
func (r *road) work(f runner) {
	b := engine.Model{Base: echo.Base}.B()
	for _, l := range queue.Lanes {
		run(r.t, func(ctx context.Context) error { return r.pull(ctx, l, b, f) })
	}
	run(r.t, r.dispatch)
}

// echo works with the echo engine.
func (r *road) echo(c echo.Config) *road {
	e, err := echo.New(c)
	ok(r.t, err)
	r.t.Cleanup(func() { _ = e.Close() })
	r.work(e.Run)
	return r
}

func (r *road) pull(ctx context.Context, l queue.Lane, b string, f runner) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	p := r.queue.Puller(l, b)
	for ctx.Err() == nil {
		ls, err := p.Pull(ctx, 16, 100*time.Millisecond)
		if err != nil {
			continue
		}
		for _, lease := range ls {
			wg.Go(func() { r.deliver(ctx, lease, f) })
		}
	}
	return nil
}

func (r *road) deliver(ctx context.Context, l *queue.Lease, f runner) {
	cs, err := r.store.Claim(ctx, "w", time.Minute, []*queue.Lease{l})
	if err != nil {
		return
	}
	for _, h := range cs[0].Run {
		if _, err := r.store.Settle(context.WithoutCancel(ctx), r.verdict(ctx, h, f)); err != nil && ctx.Err() == nil {
			r.t.Error(err)
		}
	}
	_ = l.Ack()
}

// verdict runs a job until it is cancelled.
func (r *road) verdict(ctx context.Context, h *result.Held, f runner) *result.Verdict {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sub, err := r.queue.Conn().SubscribeSync(queue.CancelSubject(h.Job.ID))
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }()
		go func() {
			if _, err := sub.NextMsgWithContext(ctx); err == nil {
				cancel(errors.New("cancelled"))
			}
		}()
	}
	r.runs.add(h.Job.ID)
	q := h.Job.Request
	c, err := f(ctx, &q, r.emitter(h.Job, strconv.Itoa(h.Attempt)+"-0"))
	v := result.For(h.Job, queue.Succeeded, time.Now().UnixMilli())
	v.Completion, v.Attempt, v.Worker = c, h.Attempt, "w"
	if err != nil {
		v.State, v.Completion, v.Error = queue.Failed, nil, engine.AsError(err)
	}
	return v
}

func (r *road) emitter(j *queue.Job, attempt string) func(engine.Chunk) {
	seq := 0
	return func(c engine.Chunk) {
		r.token(j.ID, attempt, seq, c)
		seq++
	}
}

// token publishes a hint.
func (r *road) token(job, attempt string, seq int, c engine.Chunk) {
	b, _ := json.Marshal(queue.TokenMessage{V: queue.V, Seq: seq, Chunk: c})
	_ = r.queue.Conn().Publish(queue.TokensSubject(job, attempt), b)
}

// dispatch feeds what is woken up.
func (r *road) dispatch(ctx context.Context) error {
	sub, err := r.queue.Conn().SubscribeSync("wake.>")
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for next := uint64(1); ; {
		ms, _, _ := r.queue.Read(ctx, queue.StreamBacklog, "backlog.>", next, 100)
		for _, m := range ms {
			next = m.Seq + 1
			for data := range queue.Bundled(m.Data) {
				j, err := queue.DecodeJob(data)
				if err != nil {
					return err
				}
				_, errs := r.queue.Feed(ctx, j.Lane, j.Request.Model.B(), queue.Pack([][]byte{data}, 1))
				if errs[0] != nil {
					return errs[0]
				}
			}
		}
		if _, err := sub.NextMsgWithContext(ctx); err != nil {
			return nil
		}
	}
}

// answer is what a client gets.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send is a request; headers are "Name: value".
func (r *road) send(ctx context.Context, method, path, body string, headers ...string) (answer, error) {
	q, err := http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(body))
	ok(r.t, err)
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		q.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	http.DefaultClient.CloseIdleConnections()
	return answer{res.StatusCode, res.Header, b}, err
}

func (r *road) do(method, path, body string, headers ...string) answer {
	r.t.Helper()
	a, err := r.send(r.t.Context(), method, path, body, headers...)
	ok(r.t, err)
	return a
}

func (r *road) post(path, body string, headers ...string) answer {
	r.t.Helper()
	return r.do("POST", path, body, headers...)
}

// want checks status and reads the body.
func (a answer) want(t testing.TB, status int) map[string]any {
	t.Helper()
	var v map[string]any
	if a.status != status || json.Unmarshal(a.body, &v) != nil {
		t.Fatalf("%d %s\nwant %d", a.status, a.body, status)
	}
	return v
}

// refused wants an error of OpenAI's shape.
func (a answer) refused(t *testing.T, status int, code string) {
	t.Helper()
	var v struct {
		Error struct {
			Message, Type string
			Param, Code   *string
		}
	}
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil || a.status != status || v.Error.Message == "" || v.Error.Type == "" {
		t.Fatalf("%d %s\nwant %d %s (%v)", a.status, a.body, status, code, err)
	}
	if got := v.Error.Code; (got == nil) != (code == "") || got != nil && *got != code {
		t.Errorf("%s: want code %q", a.body, code)
	}
	if a.header.Get("X-Request-Id") == "" {
		t.Error("no x-request-id")
	}
}

// dig follows keys and indices into JSON.
func dig(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// patience ends what hangs. No machine that is only slow needs it.
const patience = 2 * time.Minute

// wait polls what has no hint of its own.
func wait(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("never: " + what)
		}
	}
}

func (r *road) state(id string) queue.State {
	st, err := r.store.Get(r.t.Context(), "default", id)
	if err != nil {
		return ""
	}
	return st.State
}

// second serves another producer on the same road until ctx ends, and returns a view of the road through it.
func (r *road) second(c Config, ctx context.Context) (*Server, *road) {
	c.Queue, c.Results, c.Registry, c.Access, c.Log = r.queue, r.store, r.models, r.access, zerolog.Nop()
	s, err := New(c)
	ok(r.t, err)
	web := httptest.NewServer(s.Handler())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	r.t.Cleanup(func() { <-done; web.Close() })
	return s, &road{t: r.t, queue: r.queue, store: r.store, url: web.URL}
}
