// Package child puts an engine behind a process boundary: native code may crash, and take nothing with it but itself.
//
// The parent's end, made by [Start], is an engine.Engine. It runs the executable, hands it one end of a socket pair as
// descriptor [FD], multiplexes requests over it, and starts it again when it ends. The child's end is [Serve].
//
// Before each native call whose set of requests is new, the child writes that set into the pipe. What is written stays
// readable when the writer dies: so the parent knows what was in the call that killed it. Those requests end as
// engine.Crashed with the child's last words, all others at once as engine.Unavailable, and may run again.
//
// A child that hangs in a native call is killed, and that counts as a crash: see [Config.Hang].
//
// A child ends when its pipe does. On Linux the kernel also kills it with its parent.
package child

import (
	"cmp"
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"lorry/engine"
)

// Config says what to run. Only Path is needed.
type Config struct {
	// Path is the executable, Args its arguments. It must call [Serve].
	Path string
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Name stands for the child in errors and logs. Empty: the executable's name.
	Name string
	// Log gets starts and ends, and at debug what the child prints on stderr.
	Log zerolog.Logger
	// StartTimeout is how long the child may take to open its engine. 0: two minutes.
	StartTimeout time.Duration
	// Wait is how long a run waits for a child that is being started again. 0: 10 s.
	Wait time.Duration
	// Backoff is the wait before the first restart, doubled for each further one up to 10 s, and forgotten when the
	// child stayed up for a minute. 0: 100 ms.
	Backoff time.Duration
	// Hang is how long the child may have calls and neither make a step (see [Stepper]) nor say anything, before it is
	// killed, which counts as a crash. A step is some hundred milliseconds, but the first ones may wait for a model's
	// file. 0: two minutes; negative: for ever.
	Hang time.Duration
	// Grace is how long a child may take to end when it is closed, before it is killed. 0: 5 s.
	Grace time.Duration
	// OnCrash, if not nil, is told of each end that was not asked for, before the restart, in place of the log. It must
	// return soon.
	OnCrash func(Crash)
}

func (c Config) withDefaults() Config {
	c.Name = cmp.Or(c.Name, filepath.Base(c.Path))
	c.StartTimeout = cmp.Or(c.StartTimeout, 2*time.Minute)
	c.Wait = cmp.Or(c.Wait, 10*time.Second)
	c.Backoff = cmp.Or(c.Backoff, 100*time.Millisecond)
	c.Grace = cmp.Or(c.Grace, 5*time.Second)
	c.Hang = cmp.Or(c.Hang, 2*time.Minute)
	return c
}

// Crash is an end of the child that was not asked for.
type Crash struct {
	PID int
	// Suspects are the IDs of the requests that were in the native call; of all that were under way, where it hung outside
	// of one. Empty: it was idle, or ended from outside.
	Suspects []string
	// Stderr is its last words: up to 40 lines, and the beginning of a Go trace after them.
	Stderr string
	// Uptime counts from exec.
	Uptime time.Duration
	// Err says how it ended, as "signal: killed".
	Err error
}

// Engine is the parent's end.
type Engine struct {
	cfg    Config
	ctx    context.Context // ends with Close and with Start's
	cancel context.CancelFunc
	done   chan struct{} // closed when the last child is reaped

	mu      sync.Mutex
	now     *process      // nil while none is ready
	changed chan struct{} // closed when the supervisor sets now
	last    error         // why there is none
}

var (
	_ engine.Engine       = (*Engine)(nil)
	_ engine.Introspector = (*Engine)(nil)
)

var (
	errClosed     = engine.Errorf(engine.Unavailable, "", "", "the engine is closed")
	errRestarting = engine.Errorf(engine.Unavailable, "", "", "the engine's process ended; it is being started again")
)

// Start runs the child and returns when it is ready. It fails with the child's own message when that can't open its
// engine, and then tries no more. The engine lives until Close, or until ctx ends.
func Start(ctx context.Context, cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(ctx)
	p, err := launch(ctx, cfg)
	if err != nil {
		cancel()
		return nil, err
	}
	e := &Engine{cfg: cfg, ctx: ctx, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	e.set(p, nil)
	go e.supervise(p)
	return e, nil
}

// PID is the child's process, 0 while there is none.
func (e *Engine) PID() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now == nil {
		return 0
	}
	return e.now.cmd.Process.Pid
}

// Info asks the child. It waits for a restart as Run does.
func (e *Engine) Info(ctx context.Context) (engine.Info, error) {
	m, err := e.ask(ctx, "", func(string) *message { return &message{Kind: kindInfo} }, listener{})
	if err != nil {
		return engine.Info{}, err
	}
	if m.Info == nil {
		return engine.Info{}, engine.Errorf(engine.Internal, "", "", "the engine's process gave no info")
	}
	return *m.Info, nil
}

// Snapshot asks the child for its loop. It waits for a restart as Run does, and for the step under way.
func (e *Engine) Snapshot(ctx context.Context) (engine.Snapshot, error) {
	m, err := e.ask(ctx, "", func(string) *message { return &message{Kind: kindLook} }, listener{})
	if err != nil {
		return engine.Snapshot{}, err
	}
	if m.Look == nil {
		return engine.Snapshot{}, engine.Errorf(engine.Internal, "", "", "the engine's process showed no loop")
	}
	return *m.Look, nil
}

// Run has the child answer the request. While the child is down it waits for Config.Wait, then fails as unavailable.
// When the child dies in a call that held the request, the error is of class Crashed.
func (e *Engine) Run(ctx context.Context, r *engine.Request, emit func(engine.Chunk)) (*engine.Completion, error) {
	m, err := e.ask(ctx, r.ID, func(id string) *message {
		named := *r
		named.ID = id
		return &message{Kind: kindRun, Request: &named, Stream: emit != nil, Save: r.Save != nil, Began: r.Began != nil}
	}, listener{emit, r.Save, r.Began})
	if err != nil {
		return nil, err
	}
	if m.Completion == nil {
		return nil, engine.Errorf(engine.Internal, "", "", "the engine's process gave no answer")
	}
	return m.Completion, nil
}

// ask puts a question to the child of the moment, or to the next one if that ends before it was asked. A request
// without an ID gets one, so that it can be told from others in a crash.
func (e *Engine) ask(ctx context.Context, id string, question func(id string) *message, l listener) (*message, error) {
	for {
		p, err := e.up(ctx)
		if err != nil {
			return nil, err
		}
		n, c, ended := p.begin(id)
		if ended == nil {
			return p.ask(ctx, n, c, question(c.id), l)
		}
		e.drop(p, ended)
	}
}

// up is the child that serves, waited for.
func (e *Engine) up(ctx context.Context) (*process, error) {
	patience := time.NewTimer(e.cfg.Wait)
	defer patience.Stop()
	for {
		p, changed, last := e.state()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case e.ctx.Err() != nil:
			return nil, errClosed
		case p != nil:
			return p, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-e.ctx.Done():
		case <-patience.C:
			return nil, engine.Errorf(engine.Unavailable, "", "", "the engine's process is down: %v", last)
		}
	}
}

func (e *Engine) state() (*process, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now, e.changed, e.last
}

func (e *Engine) set(p *process, why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now, e.last = p, why
	close(e.changed)
	e.changed = make(chan struct{})
}

// drop forgets a child whose pipe has ended. The supervisor may have done so before, and have a new one.
func (e *Engine) drop(p *process, why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now == p {
		e.now, e.last = nil, why
	}
}

// Close ends the child and the runs under way. It returns when the process is gone: after the grace, by force.
func (e *Engine) Close() error {
	e.cancel()
	<-e.done
	return nil
}
