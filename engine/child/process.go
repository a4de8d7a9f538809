package child

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"lorry/engine"
)

// process is one life of the child, from exec to its end.
type process struct {
	cfg   Config
	cmd   *exec.Cmd
	conn  net.Conn
	out   *outbox
	tail  *tail
	began time.Time

	first  chan *message // ready or fatal
	gone   chan struct{} // closed when the pipe has ended
	exited chan struct{} // closed when the process has; exit says how
	exit   error
	why    error // of the pipe's end, if it was not just that; read after gone

	mu       sync.Mutex
	calls    map[uint64]*call
	next     uint64
	decoding []string
	quiet    int           // looks of guard since the last sign of life
	hung     error         // why guard ended it
	ended    *engine.Error // what new calls get
}

// launch starts a child and returns when it is ready to serve. Its error says what the child said.
func launch(ctx context.Context, cfg Config) (*process, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	p := newProcess(cfg, ours)
	err = p.spawn(theirs)
	theirs.Close() // else the pipe would not end with the child
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("engine/child: start %s: %w", cfg.Name, err)
	}
	go p.read()
	go p.out.drain(p.conn, p.gone)
	if err := p.handshake(ctx); err != nil {
		p.stop()
		p.reap(briefly)
		return nil, fmt.Errorf("engine/child: start %s: %w", cfg.Name, p.explain(err))
	}
	return p, nil
}

func newProcess(cfg Config, conn net.Conn) *process {
	p := &process{
		cfg: cfg, conn: conn, out: newOutbox(), tail: new(tail), began: time.Now(), calls: map[uint64]*call{},
		first: make(chan *message, 1), gone: make(chan struct{}), exited: make(chan struct{}),
	}
	p.tail.each = func(line string) { cfg.Log.Debug().Str("engine", cfg.Name).Str("line", line).Msg("engine says") }
	p.cmd = exec.Command(cfg.Path, cfg.Args...)
	p.cmd.Env = append(os.Environ(), cfg.Env...)
	p.cmd.Stderr = p.tail
	p.cmd.SysProcAttr = attributes()
	p.cmd.WaitDelay = time.Second // for a grandchild that holds stderr
	return p
}

// spawn starts the process, and waits for it, on one thread that lives as long: on Linux the parent-death signal is
// sent when the thread that forked ends, and Go ends idle threads that were locked.
func (p *process) spawn(theirs *os.File) error {
	p.cmd.ExtraFiles = []*os.File{theirs}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.exit = p.cmd.Wait()
			close(p.exited)
		}
	}()
	return <-started
}

var (
	errNotReady = errors.New("it was not ready in time")
	errSilent   = errors.New("it ended before it was ready")
)

// handshake waits for the child's first message.
func (p *process) handshake(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.StartTimeout, errNotReady)
	defer cancel()
	select {
	case m := <-p.first:
		if m.Beats && p.cfg.Hang > 0 {
			go p.guard()
		}
		return firstError(m)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.gone:
	}
	select { // fatal, then the end
	case m := <-p.first:
		return firstError(m)
	default:
		return errSilent
	}
}

func firstError(m *message) error {
	if m.Kind == kindFatal {
		return errors.New(m.Error.Message)
	}
	return nil
}

// explain adds what the child can't have said itself: how it ended, and its last words.
func (p *process) explain(err error) error {
	switch {
	case errors.Is(err, errNotReady):
		return fmt.Errorf("%w (%v)%s", err, p.cfg.StartTimeout, p.words())
	case errors.Is(err, errSilent) && p.why != nil:
		return fmt.Errorf("%w%s", p.why, p.words())
	case errors.Is(err, errSilent):
		return fmt.Errorf("%w (%v)%s", err, p.exitText(), p.words())
	}
	return err
}

func (p *process) words() string {
	if s := p.tail.String(); s != "" {
		return ": " + s
	}
	return ""
}

func (p *process) exitText() string {
	if p.exit == nil {
		return "exit status 0"
	}
	return p.exit.Error()
}

// read takes messages until the pipe's end.
func (p *process) read() {
	defer close(p.gone)
	in := newFrameReader(p.conn)
	for {
		m, err := in.next()
		if err != nil {
			p.why = protocolError(err)
			break
		}
		p.handle(m)
	}
	p.conn.Close()
	if err := p.hangs(); err != nil {
		p.why = err
	}
	p.end(errRestarting, true)
}

// protocolError is err unless it is only the end of the pipe.
func protocolError(err error) error {
	if err == nil || strings.HasPrefix(err.Error(), "engine/child: ") {
		return err
	}
	return nil
}

func (p *process) handle(m *message) {
	p.alive()
	switch m.Kind {
	case kindBeat:
	case kindReady, kindFatal:
		select {
		case p.first <- m:
		default:
		}
	case kindDecoding:
		p.mu.Lock()
		p.decoding = m.IDs
		p.mu.Unlock()
	default:
		p.deliver(m)
	}
}

// deliver hands a message to its call. A call's last message also clears its request of suspicion.
func (p *process) deliver(m *message) {
	p.mu.Lock()
	c := p.calls[m.N]
	if c != nil && m.last() {
		delete(p.calls, m.N)
		if !p.asked(c.id) {
			p.decoding = slices.DeleteFunc(p.decoding, func(id string) bool { return id == c.id })
		}
	}
	p.mu.Unlock()
	if c != nil {
		c.put(m)
	}
}

// asked says that there is a call of this name: the same request may have been given, taken back and given again.
func (p *process) asked(id string) bool {
	for _, c := range p.calls {
		if c.id == id {
			return true
		}
	}
	return false
}

// end refuses new calls and ends those under way; but it spares the suspects' where their end must wait for the child's
// last words.
func (p *process) end(err *engine.Error, spareSuspects bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended = err
	}
	for n, c := range p.calls {
		if !spareSuspects || !slices.Contains(p.decoding, c.id) {
			delete(p.calls, n)
			c.fail(err)
		}
	}
}

// begin registers a call, and names it where the caller did not. It is refused when the pipe has ended.
func (p *process) begin(id string) (uint64, *call, *engine.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return 0, nil, p.ended
	}
	p.next++
	c := newCall(cmp.Or(id, fmt.Sprintf("unnamed-%d", p.next)))
	if len(p.calls) == 0 {
		p.quiet = 0
	}
	p.calls[p.next] = c
	return p.next, c, nil
}

func (p *process) forget(n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, n)
}

// ask sends a question and waits for its answer. A caller that gives up is free at once, or after its last save; the
// child is told, and its call stays on the list until the child is done with it, for it may still bring the child down.
func (p *process) ask(ctx context.Context, n uint64, c *call, m *message, l listener) (*message, error) {
	m.N = n
	frame, err := encode(m)
	if err != nil {
		p.forget(n)
		return nil, engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "", "the request can't be sent to the engine: %v", err)
	}
	p.out.put(frame)
	answer, err := c.wait(ctx, l)
	if err != nil && ctx.Err() != nil {
		p.leave(n, c, l, l.save != nil && errors.Is(context.Cause(ctx), engine.ErrHandOver))
	}
	return answer, err
}

// parting is how long a caller that hands its run over waits for what was drawn: some steps of a busy child.
const parting = 5 * time.Second

// leave tells the child that the caller is going, and where the run is to go on elsewhere, hears how far it had come.
func (p *process) leave(n uint64, c *call, l listener, handOver bool) {
	frame, err := encode(&message{Kind: kindCancel, N: n, HandOver: handOver})
	if err != nil {
		return // it holds nothing that can't be encoded
	}
	p.out.put(frame)
	if handOver {
		ctx, cancel := context.WithTimeout(context.Background(), parting)
		defer cancel()
		_, _ = c.wait(ctx, l) // its error is the child's word for our leaving
	}
}

// stop ends the pipe on purpose: all calls end at once, none is suspected.
func (p *process) stop() {
	p.end(errClosed, false)
	p.conn.Close()
}

// briefly is how long a process whose pipe has ended may take to follow.
const briefly = 2 * time.Second

// reap waits for the process, and kills it when the grace is over. It returns with all of stderr read.
func (p *process) reap(grace time.Duration) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		p.cmd.Process.Kill()
	}
	<-p.exited
	<-p.gone
}

// crash is the account of an end that was not asked for, after reap. It ends the suspects' calls.
func (p *process) crash() Crash {
	p.mu.Lock()
	suspects := slices.Clone(p.decoding)
	p.mu.Unlock()
	c := Crash{
		PID: p.cmd.Process.Pid, Suspects: suspects, Stderr: p.tail.String(), Uptime: time.Since(p.began),
		Err: fmt.Errorf("engine/child: %s ended: %s", p.cfg.Name, p.exitText()),
	}
	how := p.exitText()
	if p.why != nil {
		c.Err = fmt.Errorf("engine/child: %s was ended: %w", p.cfg.Name, p.why)
		how = p.why.Error()
	}
	p.end(&engine.Error{
		Class: engine.Crashed, Message: "the engine's process ended in a call that held this request: " + how, Stderr: c.Stderr,
	}, false)
	return c
}
