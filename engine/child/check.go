package child

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Check looks at a file that nobody trusts yet, by a command that may be ended by it, or find no end: unlike a [Tool] it is
// not asked to stop, but killed.
type Check struct {
	// Path is the engine's executable, Args its arguments: "check" and what `lorry-engine check --help` says.
	Path string
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Limit is how long it may take. 0: two minutes.
	Limit time.Duration
}

// ErrRefused is a file that can't be used: see Refusal. Other errors of Check.Run are of this machine.
var ErrRefused = errors.New("the file can't be used")

// Refusal is an ErrRefused: the check found a fault, or died of the file, or found no end.
type Refusal struct {
	// Reason is one sentence. Of a check that died it names that, how it ended, and its last words.
	Reason string
	// Stderr is all of its last words, as in Crash.
	Stderr string
}

func (r *Refusal) Error() string   { return r.Reason }
func (r *Refusal) Is(t error) bool { return t == ErrRefused }

// maxReport bounds what a check may say.
const maxReport = 16 << 20

// errTooLong is the cause of a check that was ended.
var errTooLong = errors.New("the check took too long")

// Run runs the check, kills it when its time is over or ctx ends, and reads what it printed into report.
func (c Check) Run(ctx context.Context, report any) error {
	limit := cmp.Or(c.Limit, 2*time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTooLong)
	defer cancel()
	var out bytes.Buffer
	last := new(tail)
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = &capped{&out, maxReport}, last
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = time.Second
	runtime.LockOSThread() // see process.spawn
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	switch _, ended := errors.AsType[*exec.ExitError](err); {
	case context.Cause(ctx) == errTooLong:
		return c.refusal(fmt.Sprintf("took longer than %v", limit), last)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case ended && ownWords(err, last.String()) != "":
		return &Refusal{ownWords(err, last.String()), last.String()}
	case ended:
		return c.refusal(fmt.Sprintf("ended: %v", err), last)
	case err != nil:
		return fmt.Errorf("engine/child: check: %w", err)
	}
	if err := json.Unmarshal(out.Bytes(), report); err != nil {
		return fmt.Errorf("engine/child: read what %s printed: %w", c.Path, err)
	}
	return nil
}

// refusal is of a check that did not end by itself.
func (c Check) refusal(how string, last *tail) *Refusal {
	what := strings.Join(append([]string{filepath.Base(c.Path)}, c.Args[:min(1, len(c.Args))]...), " ")
	reason := fmt.Sprintf("the process that looked at it (%s) %s", what, how)
	if words := last.brief(); words != "" {
		reason += ": " + words
	}
	return &Refusal{reason, last.String()}
}

// capped keeps the first bytes written.
type capped struct {
	to   *bytes.Buffer
	left int
}

// Write fails when there is no room: the writer's pipe breaks.
func (c *capped) Write(b []byte) (int, error) {
	if c.left -= len(b); c.left < 0 {
		return 0, errors.New("engine/child: the check says too much")
	}
	return c.to.Write(b)
}
