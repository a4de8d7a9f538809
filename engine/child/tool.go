package child

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Tool is a command of the engine's executable that does one thing, reports how far it is, and ends. It runs native code
// on the user's file, and so in a process of its own.
type Tool struct {
	// Path is the executable, Args its arguments.
	Path string
	Args []string
	// Progress, if not nil, is told how far it is.
	Progress func(Progress)
}

// Progress is how far a tool is: Done of Of, 0 of 0 where it can't say.
type Progress struct {
	Stage string `json:"stage"`
	Done  int    `json:"done,omitempty"`
	Of    int    `json:"of,omitempty"`
}

// said is one line of a tool's standard output.
type said struct {
	Progress *Progress       `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// toolGrace is how long a tool may tidy up after ctx has ended, before it is killed.
const toolGrace = 5 * time.Second

// Run starts the tool and reads its result into result. When ctx ends, the tool's standard input does: it tidies up and
// follows. It gets no signal of the terminal's, so that nothing ends it half-way.
func (t Tool) Run(ctx context.Context, result any) error {
	var last tail
	cmd := exec.CommandContext(ctx, t.Path, t.Args...)
	cmd.Stderr = &last
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = toolGrace
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("engine/child: %w", err)
	}
	cmd.Cancel = in.Close
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("engine/child: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("engine/child: start %s: %w", t.Path, err)
	}
	raw, readErr := t.listen(out)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return toolError(err, last.String())
	case readErr != nil:
		return readErr
	}
	return json.Unmarshal(raw, result)
}

func (t Tool) listen(out io.Reader) (result json.RawMessage, err error) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var s said
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return nil, fmt.Errorf("engine/child: the tool wrote %.80q: %w", lines.Text(), err)
		}
		if s.Progress != nil && t.Progress != nil {
			t.Progress(*s.Progress)
		}
		if s.Result != nil {
			result = s.Result
		}
	}
	if result == nil {
		return nil, errors.New("engine/child: the tool gave no result")
	}
	return result, lines.Err()
}

// toolError is a Refusal of the tool's own last line, where it failed by itself, or else how it ended and all that it said.
func toolError(err error, words string) error {
	if own := ownWords(err, words); own != "" {
		return &Refusal{own, words}
	}
	if words != "" {
		return fmt.Errorf("engine/child: the engine's process ended: %w: %s", err, words)
	}
	return fmt.Errorf("engine/child: the engine's process ended: %w", err)
}

// ownWords are the last line of a process that failed by itself; empty of one that was ended.
func ownWords(err error, words string) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		return ""
	}
	return strings.TrimPrefix(words[strings.LastIndex(words, "\n")+1:], "lorry-engine: ")
}

// Reporter is the tool's own end.
type Reporter struct {
	mu  sync.Mutex
	out *json.Encoder
}

// NewReporter writes to a tool's standard output.
func NewReporter(stdout io.Writer) *Reporter {
	e := json.NewEncoder(stdout)
	e.SetEscapeHTML(false)
	return &Reporter{out: e}
}

// Progress tells how far the tool is.
func (r *Reporter) Progress(stage string, done, of int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.out.Encode(said{Progress: &Progress{stage, done, of}}) // a parent that has gone ends us by our input
}

// Result is the tool's last word.
func (r *Reporter) Result(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("engine/child: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Encode(said{Result: raw})
}

// stopped is the exit code of a tool that was told to stop.
const stopped = 130

// OnStop has a tool end when its parent wants it to, or has gone: it calls tidy, then exits. A native call under way can't
// be ended otherwise.
func OnStop(stdin io.Reader, tidy func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		ch <- syscall.SIGTERM
	}()
	go func() {
		<-ch
		tidy()
		os.Exit(stopped)
	}()
}
