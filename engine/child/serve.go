package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"lorry/engine"
)

// linger is how long the child gives its engine to end, once the pipe has. It is less than the parent's grace.
const linger = 4 * time.Second

// beatEvery is how often the child says that it goes on, while it has calls.
const beatEvery = 250 * time.Millisecond

// Stepper is an engine that counts its steps, by which the parent tells one that is busy from one that hangs. Of other
// engines it only knows that the process runs.
type Stepper interface {
	// Steps is how many native calls have returned. It must not wait for one.
	Steps() int
}

// server is the child's end.
type server struct {
	conn   io.ReadWriteCloser
	engine engine.Engine // set before ready is sent
	ctx    context.Context
	runs   sync.WaitGroup

	write sync.Mutex

	mu       sync.Mutex
	calls    map[uint64]context.CancelCauseFunc
	shutting bool
}

// errPipe is the end of the runs' contexts in the child when the parent has gone.
var errPipe = errors.New("engine/child: the pipe to the parent has ended")

// Serve opens an engine, tells the parent that it is ready, and serves it until the pipe ends (nil: the parent has
// closed it, or died) or ctx does. It closes conn and the engine. The caller must then end the process: where an
// engine is stuck in a native call, or still opening, Serve returns without it.
//
// open gets the observer that the engine must call before native calls. Its error, as text, is what the parent's Start
// fails with.
func Serve(ctx context.Context, conn io.ReadWriteCloser, open func(observe engine.DecodeObserver) (engine.Engine, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer conn.Close()
	s := &server{conn: conn, ctx: ctx, calls: map[uint64]context.CancelCauseFunc{}}
	opened, ended := make(chan error, 1), make(chan error, 1)
	go func() { opened <- s.open(open) }()
	if err := s.opening(opened, ended); err != nil {
		return err
	}
	go s.beat(ctx)
	select {
	case err := <-ended:
		cancel(errPipe)
		return errors.Join(err, s.shut())
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), s.shut())
	}
}

func (s *server) open(open func(engine.DecodeObserver) (engine.Engine, error)) (err error) {
	s.engine, err = open(s.observe)
	return err
}

// opening waits for the engine, and watches the pipe meanwhile: the parent asks nothing before it is ready.
func (s *server) opening(opened <-chan error, ended chan error) error {
	asked := make(chan struct{})
	go func() { ended <- s.read(asked) }()
	select {
	case err := <-opened:
		if err != nil {
			return errors.Join(err, s.send(&message{Kind: kindFatal, Error: engine.AsError(err)}))
		}
		close(asked)
		return s.send(&message{Kind: kindReady, Beats: true})
	case err := <-ended:
		return errors.Join(errPipe, err)
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// read takes the parent's messages until the pipe ends. None is looked at before the engine is open.
func (s *server) read(open <-chan struct{}) error {
	in := newFrameReader(s.conn)
	for {
		m, err := in.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("engine/child: read: %w", err)
		}
		select {
		case <-open:
		case <-s.ctx.Done():
			return nil
		}
		s.handle(m)
	}
}

func (s *server) handle(m *message) {
	switch m.Kind {
	case kindRun:
		s.begin(m.N, func(ctx context.Context) { s.run(ctx, m) })
	case kindCancel:
		s.finish(m.N, leaving(m))
	case kindInfo:
		s.begin(m.N, func(ctx context.Context) { s.info(ctx, m.N) })
	case kindLook:
		s.begin(m.N, func(ctx context.Context) { s.look(ctx, m.N) })
	}
}

// begin starts a call, unless the engine is being closed: the pipe's end will be the parent's answer.
func (s *server) begin(n uint64, call func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shutting {
		return
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	s.calls[n] = cancel
	s.runs.Go(func() {
		defer s.finish(n, nil)
		call(ctx)
	})
}

// errCancelled is what a run ends with here when the parent's caller has left.
var errCancelled error = engine.Errorf(engine.Cancelled, "", "", "the caller ended the run")

// leaving is the cause that a cancelled run ends with here.
func leaving(m *message) error {
	if m.HandOver {
		return engine.ErrHandOver
	}
	return errCancelled
}

func (s *server) finish(n uint64, why error) {
	s.mu.Lock()
	cancel := s.calls[n]
	delete(s.calls, n)
	s.mu.Unlock()
	if cancel != nil {
		cancel(why)
	}
}

// run answers one request. A panic in the engine is not caught: it is a crash, as it would be in native code.
func (s *server) run(ctx context.Context, m *message) {
	var emit func(engine.Chunk)
	if m.Stream {
		emit = func(c engine.Chunk) { s.send(&message{Kind: kindChunk, N: m.N, Chunk: &c}) }
	}
	if m.Save {
		m.Request.Save = func(r *engine.Resume) { s.send(&message{Kind: kindSaved, N: m.N, Resume: r}) }
	}
	if m.Began {
		m.Request.Began = func() { s.send(&message{Kind: kindBegan, N: m.N}) }
	}
	done, err := s.engine.Run(ctx, m.Request, emit)
	if err != nil {
		s.fail(m.N, err)
		return
	}
	s.answer(&message{Kind: kindDone, N: m.N, Completion: done})
}

func (s *server) info(ctx context.Context, n uint64) {
	info, err := s.engine.Info(ctx)
	if err != nil {
		s.fail(n, err)
		return
	}
	s.answer(&message{Kind: kindInfo, N: n, Info: &info})
}

func (s *server) look(ctx context.Context, n uint64) {
	e, ok := s.engine.(engine.Introspector)
	if !ok {
		s.fail(n, errNoLoop)
		return
	}
	look, err := e.Snapshot(ctx)
	if err != nil {
		s.fail(n, err)
		return
	}
	s.answer(&message{Kind: kindLook, N: n, Look: &look})
}

// errNoLoop is what an engine without a loop to show says.
var errNoLoop error = engine.Errorf(engine.Invalid, engine.CodeUnsupported, "", "this engine has no loop to show")

func (s *server) fail(n uint64, err error) {
	s.send(&message{Kind: kindError, N: n, Error: engine.AsError(err)})
}

// answer sends the last message of a call; where that can't be written as JSON, it sends why.
func (s *server) answer(m *message) {
	if err := s.send(m); err != nil && s.ctx.Err() == nil {
		s.fail(m.N, err)
	}
}

// observe writes the set into the pipe before it returns: the kernel holds it whatever happens to this process next.
func (s *server) observe(ids []string) { s.send(&message{Kind: kindDecoding, IDs: ids}) }

// beat tells the parent of steps, for as long as there are calls.
func (s *server) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	stepper, counts := s.engine.(Stepper)
	for last := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		n := last + 1
		if counts {
			n = stepper.Steps()
		}
		if n != last && s.busy() {
			s.send(&message{Kind: kindBeat})
		}
		last = n
	}
}

func (s *server) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls) > 0
}

// send writes one frame. The parent always reads, so that it does not wait for long.
func (s *server) send(m *message) error {
	frame, err := encode(m)
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	if _, err := s.conn.Write(frame); err != nil {
		return fmt.Errorf("engine/child: write: %w", err)
	}
	return nil
}

// shut ends the engine with its runs, unless it is stuck.
func (s *server) shut() error {
	s.mu.Lock()
	s.shutting = true
	s.mu.Unlock()
	closed := make(chan error, 1)
	go func() {
		err := s.engine.Close()
		s.runs.Wait()
		closed <- err
	}()
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		return errors.New("engine/child: the engine did not close in time")
	}
}
