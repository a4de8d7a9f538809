// Package producer accepts work from people and programs: OpenAI's API, TGI's, and Lorry's own for jobs.
//
// A request becomes a queue.Job, and then takes one of three roads:
//
//   - waited (the default): the job goes straight into its base's ready window, and the answer of the HTTP request is
//     its record. A client that hangs up cancels it.
//   - waited, with a webhook or an idempotency key: the same, but its end is committed to RESULTS, and hanging up
//     leaves it running.
//   - asynchronous (Prefer: respond-async): 202 once it is on disk; the scheduler orders it.
//
// Cacheable requests (temperature 0, a seed, or lorry.cache) may be answered from the cache or by an equal request that
// is under way. What the cache does is said in x-lorry-cache.
package producer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"lorry/access"
	"lorry/batch"
	"lorry/blob"
	"lorry/queue"
	"lorry/registry"
	"lorry/result"
	"lorry/webhook"
)

// Config says what the API stands on. Queue, Results, Registry and Access are required, and are to be running.
type Config struct {
	Queue    *queue.Queue
	Results  *result.Store
	Registry *registry.Registry
	Access   *access.Store
	// Files are what POST /v1/files keeps. Nil: the server has no files.
	Files *batch.Files
	// Batches are what POST /v1/batches makes of them. Nil: the server has no batches.
	Batches *batch.Batches
	// Weights are the models and adapters that POST /lorry/v1/models keeps. Nil: the server takes none.
	Weights blob.Store
	// TryAdapter is registry.Adapter's Try for these, TryModel registry.Base's; nil where no engine is at hand.
	TryAdapter func(ctx context.Context, base registry.Model, digest string) error
	TryModel   func(ctx context.Context, digest string) error
	// QuantizeModel is registry.Base's Quantize, for a format; again takes a file that is quantized already. An
	// *engine.Error of class Invalid is what the client asked for wrongly. Nil where no engine is at hand.
	QuantizeModel func(ctx context.Context, digest, to string, again bool) (io.ReadCloser, error)
	// Sealer seals webhooks' own secrets. Nil keeps them as they are.
	Sealer *webhook.Sealer
	Log    zerolog.Logger

	// MaxBody bounds a request's body in bytes (uploads have bounds of their own); past it clients get 413. 0: 1 MiB, what a message of NATS may carry.
	MaxBody int64
	// MaxModel bounds the file of a pushed model, in bytes; past it clients get 413. 0: registry.MaxModel.
	MaxModel int64
	// MaxN bounds the answers of one request. 0: 8.
	MaxN int
	// TenantWaiting bounds the requests of one tenant that wait here at the same moment; past it they get 429. 0: 512. Its
	// open websockets, each good for 16 requests at once, are bounded by an eighth of it.
	TenantWaiting int
	// Wait bounds how long a request waits for its answer. 0: 590 s, below the 600 s after which the SDKs hang up.
	Wait time.Duration
	// KeepAlive is how often a silent stream gets a comment, and a websocket a ping, so that proxies keep it open. A client
	// that does not answer to a ping for twice as long is gone. 0: 15 s.
	KeepAlive time.Duration
	// Timeout bounds the steps of a request that do not wait for an engine. 0: 10 s.
	Timeout time.Duration
	// Grace is how long a drain waits for answers under way. 0: 30 s.
	Grace time.Duration
	// SocketIdle closes a websocket over which nothing was asked for so long. 0: 10 min.
	SocketIdle time.Duration
	// SocketLife closes one once it is so old and has no answer under way. 0: 1 h, as OpenAI does.
	SocketLife time.Duration
	// DefaultModel answers POST /generate without a model. Empty: the only one there is.
	DefaultModel string
	// WebhookAllow are the private networks that webhooks may go to.
	WebhookAllow []netip.Prefix
	// Ready, if not nil, is a further condition of GET /readyz, as that a worker is there. It gets little time.
	Ready func(context.Context) error
	// NoMetrics leaves GET /metrics out.
	NoMetrics bool
}

// Server is the HTTP API.
type Server struct {
	cfg     Config
	handler http.Handler
	waiting tenants
	sockets tenants
	turns   http.Handler // answers what comes over them
	uploads uploads
	recent  recent
	hooks   *webhook.Endpoints
	// responses are those that are kept to be read later.
	responses book[responseRecord]
	// chats are those completions that are.
	chats book[chatRecord]
	// background is for verdicts whose answers have left already.
	background chan *result.Verdict
	draining   atomic.Bool
	leaving    chan struct{} // closed when draining begins
	// over ends when the drain's grace is used up: answers under way are given up.
	over   context.Context
	giveUp context.CancelCauseFunc
	// held are the requests under way. The lock orders "one more" before "no more".
	mu   sync.Mutex
	held int
	idle chan struct{} // closed when draining and none is held
}

// errDrained is why waiting ended at a drain's end.
var errDrained = errors.New("producer: drained")

// Defaults of Config.
const (
	defaultMaxBody = 1 << 20
	defaultMaxN    = 8
)

// New makes the API. It asks nobody anything.
func New(c Config) (*Server, error) {
	if c.Queue == nil || c.Results == nil || c.Registry == nil || c.Access == nil {
		return nil, errors.New("producer: Queue, Results, Registry and Access are required")
	}
	c.MaxBody = cmp.Or(c.MaxBody, defaultMaxBody)
	c.MaxN = cmp.Or(c.MaxN, defaultMaxN)
	c.TenantWaiting = cmp.Or(c.TenantWaiting, 512)
	c.Wait = cmp.Or(c.Wait, 590*time.Second)
	c.KeepAlive = cmp.Or(c.KeepAlive, 15*time.Second)
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.Grace = cmp.Or(c.Grace, 30*time.Second)
	c.SocketIdle = cmp.Or(c.SocketIdle, 10*time.Minute)
	c.SocketLife = cmp.Or(c.SocketLife, time.Hour)
	s := &Server{cfg: c, background: make(chan *result.Verdict, 4096), idle: make(chan struct{}), leaving: make(chan struct{})}
	s.waiting = tenants{most: c.TenantWaiting, n: map[string]int{}, gauge: metricWaiting, full: "Too many requests of this tenant are waiting for their answers (%d). Try again in a moment, or send them with 'Prefer: respond-async'."}
	s.sockets = tenants{most: socketsOf(c.TenantWaiting), n: map[string]int{}, gauge: metricSockets, full: "Too many websockets of this tenant are open (%d). Close those that are done, or use one for several responses, each with a stream_id."}
	s.over, s.giveUp = context.WithCancelCause(context.Background())
	s.hooks = webhook.NewEndpoints(webhook.EndpointsConfig{JS: c.Queue.JS(), Sealer: c.Sealer, Allow: c.WebhookAllow, Log: c.Log})
	s.responses, s.chats = newResponseBook(c.Queue.JS(), c.Queue.Replicas()), newChatBook(c.Queue.JS(), c.Queue.Replicas())
	s.handler, s.turns = s.routes(), s.observe(s.answer(s.work(readTurn)))
	return s, nil
}

// Handler serves the API. It is safe to serve before Run and after: work is refused while the server drains.
func (s *Server) Handler() http.Handler { return s.handler }

// Run does what happens behind the answers until ctx ends, then drains: new work is refused with 503, answers under way
// get the grace, and what is left is given up (jobs that nobody else can see the end of are cancelled).
func (s *Server) Run(ctx context.Context) error {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.settle(stop) })
	<-ctx.Done()
	s.drain()
	close(stop)
	wg.Wait()
	return nil
}

func (s *Server) drain() {
	s.mu.Lock()
	s.draining.Store(true)
	close(s.leaving)
	if s.held == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	t := time.NewTimer(s.cfg.Grace)
	defer t.Stop()
	select {
	case <-s.idle:
	case <-t.C:
		s.giveUp(errDrained)
		<-s.idle // every wait ends with over, every other step has a timeout
	}
}

// hold counts a request as under way; false while the server drains.
func (s *Server) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		return false
	}
	s.held++
	return true
}

func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held--; s.held == 0 && s.draining.Load() {
		close(s.idle)
	}
}

const (
	settleAtOnce  = 64
	settleTimeout = 10 * time.Second
	// settleLinger is how long a cached answer's record waits for company: a script call for each would cost Redis more
	// than the answers do.
	settleLinger = 50 * time.Millisecond
)

// settle records cached answers after they have left: the client does not wait for the bookkeeping.
func (s *Server) settle(stop <-chan struct{}) {
	for {
		select {
		case v := <-s.background:
			s.settleSome(v, stop)
		case <-stop:
			for len(s.background) > 0 {
				s.settleSome(<-s.background, stop)
			}
			return
		}
	}
}

// settleSome waits for company, unless the server stops, and records all that is there. It waits with a timer, not at the
// channel: a receiver there would be woken for each answer, on the core that the next request needs.
func (s *Server) settleSome(v *result.Verdict, stop <-chan struct{}) {
	t := time.NewTimer(settleLinger)
	defer t.Stop()
	select {
	case <-t.C:
	case <-stop:
	}
	for vs := s.collect(v); len(vs) > 0; vs = s.collect() {
		s.settleNow(vs)
	}
}

// collect takes what is there, up to a script call's worth.
func (s *Server) collect(vs ...*result.Verdict) []*result.Verdict {
	for len(vs) < settleAtOnce {
		select {
		case v := <-s.background:
			vs = append(vs, v)
		default:
			return vs
		}
	}
	return vs
}

func (s *Server) settleNow(vs []*result.Verdict) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if _, err := s.cfg.Results.Settle(ctx, vs...); err != nil {
		metricUnrecorded.Add(float64(len(vs)))
		s.cfg.Log.Warn().Err(err).Int("jobs", len(vs)).Msg("cached answers left without a record")
	}
}

// record settles a verdict later. Under load it is dropped: the answer was the record.
func (s *Server) record(v *result.Verdict) {
	select {
	case s.background <- v:
	default:
		metricUnrecorded.Inc()
	}
}

// tenants counts by tenant what waits, or is open.
type tenants struct {
	most  int
	gauge prometheus.Gauge
	full  string // what a tenant hears that has too many: a format of the bound
	mu    sync.Mutex
	n     map[string]int
}

// enter takes a place for a tenant. most, unless 0, is the tenant's own bound.
func (t *tenants) enter(tenant string, most int) error {
	most = cmp.Or(most, t.most)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n[tenant] >= most {
		return &apiError{Status: http.StatusTooManyRequests, Type: typeRateLimit, Code: codeRate, RetryAfter: time.Second,
			Message: fmt.Sprintf(t.full, most)}
	}
	t.n[tenant]++
	t.gauge.Inc()
	return nil
}

func (t *tenants) leave(tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gauge.Dec()
	if t.n[tenant]--; t.n[tenant] == 0 {
		delete(t.n, tenant)
	}
}
