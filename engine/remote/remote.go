// Package remote is an engine that runs elsewhere: any server that speaks the OpenAI protocol, as vLLM, SGLang, TGI,
// llama-server, a hosted provider, or another Lorry.
//
// The server names its models; each is served here under a digest made of the server's address and that name, since
// nobody can see its weights. Servers differ in what they call things, in what they leave out, and in how they fail;
// the differences that were met are in dialect.go, answer.go and errors.go.
package remote

import (
	"cmp"
	"context"
	"net/http"
	"sync"
	"time"

	"lorry/engine"
)

// Config says where the server is. Only URL is needed.
type Config struct {
	// URL is the server's address, with or without the /v1 at its end.
	URL string
	// Key is sent as a bearer token. Empty: none is sent.
	Key string
	// Models are the names to serve, of those that the server lists. Empty: all. A server without a list serves these.
	Models []string
	// MaxConcurrent bounds the requests under way; more wait here. 0: 16.
	MaxConcurrent int
	// Retries is how often a request is sent again after the first time, when the server was away, busy or failing and
	// nothing of the answer was passed on. 0: 3. Negative: never.
	Retries int
	// Backoff is the wait before the first retry, doubled for each further one up to 8 s, where the server names no
	// time with Retry-After. 0: 500 ms.
	Backoff time.Duration
	// ListEvery is how long the server's list of models is believed. 0: 30 s.
	ListEvery time.Duration
	// SharePrompts lets the server reuse the KV cells of one tenant's prompt for another tenant: faster, and measurable
	// by who can time answers. False: vLLM salts its cache by tenant, llama-server reuses nothing.
	SharePrompts bool
	// HTTPClient sends the requests. Nil: one that follows no redirects and waits for answers as long as the caller.
	HTTPClient *http.Client
}

func (c Config) withDefaults() Config {
	c.MaxConcurrent = cmp.Or(c.MaxConcurrent, 16)
	c.Retries = max(0, cmp.Or(c.Retries, 3))
	c.Backoff = cmp.Or(c.Backoff, 500*time.Millisecond)
	c.ListEvery = cmp.Or(c.ListEvery, 30*time.Second)
	return c
}

// Engine is a remote server. It holds no state of the server's but its list of models.
type Engine struct {
	cfg   Config
	at    address
	http  *http.Client
	ours  bool // http is ours to close
	slots chan struct{}

	listing chan struct{} // a lock that can be waited for with a context
	list    *listing      // under listing; nil: not asked yet

	mu     sync.Mutex
	closed context.Context // ends with Close
	close  context.CancelFunc
	runs   sync.WaitGroup
}

var _ engine.Engine = (*Engine)(nil)

// New checks the address. It asks the server nothing: Info and Run do, so that the server may start later.
func New(cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	at, err := parseAddress(cfg.URL)
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, at: at, http: cfg.HTTPClient, slots: make(chan struct{}, cfg.MaxConcurrent), listing: make(chan struct{}, 1)}
	if e.http == nil {
		e.http, e.ours = newClient(cfg.MaxConcurrent), true
	}
	e.closed, e.close = context.WithCancel(context.Background())
	return e, nil
}

func newClient(conns int) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost, t.MaxIdleConns = conns, conns
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Info asks the server for its models, unless it did a moment ago. While the server is away it fails as unavailable.
func (e *Engine) Info(ctx context.Context) (engine.Info, error) {
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return engine.Info{}, err
	}
	defer leave()
	l, err := e.models(ctx)
	if err != nil {
		return engine.Info{}, e.settle(ctx, err)
	}
	return engine.Info{
		Models: l.infos(), Slots: e.cfg.MaxConcurrent, Device: "remote " + e.at.host, Version: l.dialect.name() + " at " + e.at.root,
	}, nil
}

// Run sends the request. It is sent again, a bounded number of times, as long as nothing was passed to emit.
func (e *Engine) Run(ctx context.Context, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	if r.Deterministic {
		return nil, engine.Errorf(engine.Invalid, engine.CodeUnsupported, "lorry.deterministic",
			"this engine is a server that promises no deterministic answers: leave lorry.deterministic out")
	}
	if r.Sampling.BestOf > r.Sampling.N {
		return engine.Best(ctx, r, e.Run)
	}
	ctx, leave, err := e.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	c, err := e.run(ctx, r, emit)
	if err != nil {
		return nil, e.settle(ctx, err)
	}
	return c, nil
}

// run resolves the model, then sends the request, or one for each answer where the server gives but one.
func (e *Engine) run(ctx context.Context, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	var s served
	var l *listing
	err := e.retry(ctx, func() (bool, error) {
		var err error
		s, l, err = e.resolve(ctx, r.Model)
		return true, err
	})
	if err != nil {
		return nil, err
	}
	if !r.Samples() {
		return e.compute(ctx, l, s, r)
	}
	if l.dialect == llamaServer && r.Sampling.N > 1 {
		return e.fan(ctx, l, s, r, emit)
	}
	return e.send(ctx, l, s, r, emit)
}

// enter counts a call in and ties it to Close.
func (e *Engine) enter(ctx context.Context) (context.Context, func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	if e.closed.Err() != nil {
		return nil, nil, errClosed
	}
	e.runs.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.closed, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil); e.runs.Done() }, nil
}

var errClosed error = engine.Errorf(engine.Unavailable, "", "", "the engine is closed")

// settle is what a failed call returns: the caller's cause where it left, else an *engine.Error.
func (e *Engine) settle(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return engine.AsError(err)
}

// Close ends the requests under way.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.close()
	e.mu.Unlock()
	e.runs.Wait()
	if e.ours {
		e.http.CloseIdleConnections()
	}
	return nil
}
