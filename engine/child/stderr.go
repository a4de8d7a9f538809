package child

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"sync"
)

const (
	tailLines  = 40      // kept before a trace
	traceLines = 20      // kept of a trace
	lineBytes  = 4 << 10 // kept of a line
)

// traceStart is where Go begins to print its state. What explains a crash of native code (an assertion, a what())
// stands before it, and would be pushed out by hundreds of lines.
var traceStart = regexp.MustCompile(`^(panic: |fatal error: |SIG[A-Z]+: |goroutine \d+ )`)

// tail is the end of a child's stderr: its last words. Each whole line goes to each.
type tail struct {
	each func(line string)

	mu    sync.Mutex
	part  []byte
	lines []string
	trace int // lines of the trace so far; 0: none has begun
}

// Write takes what the child printed. It never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := b; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		t.part = append(t.part, line[:min(len(line), lineBytes-len(t.part))]...)
		if whole {
			t.flush()
		}
		rest = after
	}
	return len(b), nil
}

// flush ends the line under way.
func (t *tail) flush() {
	line := strings.ToValidUTF8(strings.TrimRight(string(t.part), "\r"), "\uFFFD")
	t.part = t.part[:0]
	t.add(line)
	if t.each != nil {
		t.each(line)
	}
}

func (t *tail) add(line string) {
	if t.trace > 0 || traceStart.MatchString(line) {
		t.trace++
	}
	switch {
	case t.trace > traceLines:
	case t.trace == 0 && len(t.lines) == tailLines:
		t.lines = append(t.lines[:0], t.lines[1:]...)
		fallthrough
	default:
		t.lines = append(t.lines, line)
	}
}

// String is the last words so far, without a line break at the end.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.part) > 0 {
		t.flush()
	}
	return strings.Join(t.lines, "\n")
}

// briefLines are what a person reads of them first.
const briefLines = 3

// brief is the last lines that say something, and of a trace the first, in one line.
func (t *tail) brief() string {
	lines := strings.Split(t.String(), "\n")
	t.mu.Lock()
	lines = lines[:len(lines)-max(0, min(t.trace, traceLines)-1)]
	t.mu.Unlock()
	lines = slices.DeleteFunc(lines, func(s string) bool { return strings.TrimSpace(s) == "" })
	return strings.Join(lines[max(0, len(lines)-briefLines):], "; ")
}
