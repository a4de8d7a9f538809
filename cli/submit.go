package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
)

// submission is what the flags of submit say.
type submission struct {
	file, out, model, lane, format, system string
	maxTokens, concurrency                 int
	temperature                            float64
	tempSet                                bool
	async, wait, waitSet, stream, quiet    bool
}

func newSubmit(bind Bind) *cobra.Command {
	var s submission
	c := &cobra.Command{Use: "submit [PROMPT...]", Short: "Send prompts, and follow them to their answers",
		Long: `Send a prompt, or a file of them, and print the answers.

The words after submit are one prompt; its answer is printed as text. With -f (a file, or - for standard input) every
line is a prompt: plain text, a JSON string, or a JSON object that is a request of /v1/chat/completions ("messages") or
/v1/completions ("prompt"), or a line of an OpenAI batch file ("custom_id", "url", "body"). Answers are JSON lines in
the order of the input, each with its line's number. A file is checked as a whole before anything is sent.

--async does not wait: it prints jobs (lorry job get shows how they went). --async --wait submits them all the same,
then waits for their ends: they outlive this command's connection, and a restart of Lorry. Ctrl-C cancels what is
waited for, and keeps the answers so far.`,
		Example: `  lorry submit "Why is the sky blue?"
  lorry submit --stream --max-tokens 200 Tell me about the sea
  lorry submit -f prompts.txt -O answers.jsonl --concurrency 32
  cat prompts.jsonl | lorry submit -f - | jq -r .text
  lorry submit --async -f night.jsonl -O jobs.jsonl`}
	target := bind(c)
	f := c.Flags()
	f.StringVarP(&s.file, "file", "f", "", "file of prompts, one a line; - is standard input")
	f.StringVarP(&s.out, "out", "O", "", "file for the answers instead of standard output")
	f.StringVarP(&s.model, "model", "m", "", "model, where a request names none; empty: the first that is served")
	f.StringVar(&s.system, "system", "", "system message before each plain prompt")
	f.IntVar(&s.maxTokens, "max-tokens", 0, "longest answer, where a request does not say; 0: the server's")
	f.Float64Var(&s.temperature, "temperature", 1, "0 to 2, where a request does not say")
	f.StringVar(&s.lane, "lane", "", "interactive, flex or batch; empty: the server's choice")
	f.IntVarP(&s.concurrency, "concurrency", "c", 8, "requests under way at the same moment")
	f.BoolVar(&s.async, "async", false, "submit without waiting for the answers")
	f.BoolVar(&s.wait, "wait", true, "wait for the answers; with --async, for the jobs' ends")
	f.BoolVar(&s.stream, "stream", false, "print one prompt's answer as it comes")
	f.BoolVarP(&s.quiet, "quiet", "q", false, "no progress and no summary")
	OutputFlag(c, &s.format)
	c.RunE = func(c *cobra.Command, args []string) error {
		s.tempSet, s.waitSet = c.Flags().Changed("temperature"), c.Flags().Changed("wait")
		if err := s.check(args, c.InOrStdin()); err != nil {
			return err
		}
		cl, err := connect(target)
		if err != nil {
			return err
		}
		return s.run(c.Context(), cl, args, c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr())
	}
	return c
}

// Usage is an error of the call itself: main ends with 2.
type Usage struct{ error }

func usagef(format string, args ...any) error { return Usage{fmt.Errorf(format, args...)} }

func (s *submission) check(args []string, in io.Reader) error {
	switch {
	case len(args) > 0 && s.file != "":
		return usagef("a prompt and -f exclude each other")
	case len(args) == 0 && s.file == "" && isTerminal(in):
		return usagef("no prompt: lorry submit \"Why is the sky blue?\", or -f FILE (see lorry submit --help)")
	case s.concurrency < 1 || s.concurrency > 4096:
		return usagef("--concurrency %d is not within 1 to 4096", s.concurrency)
	case s.stream && (len(args) == 0 || s.async || s.format == "json"):
		return usagef("--stream prints one prompt's answer as text: it goes with a prompt alone, not with -f, --async or -o json")
	case s.lane != "" && s.lane != "interactive" && s.lane != "flex" && s.lane != "batch":
		return usagef("--lane %q is none of interactive, flex and batch", s.lane)
	}
	if s.file == "" && len(args) == 0 {
		s.file = "-"
	}
	if s.async && !s.waitSet {
		s.wait = false
	}
	return nil
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

func (s *submission) run(ctx context.Context, cl *Client, args []string, in io.Reader, out, errs io.Writer) (err error) {
	if s.out != "" {
		f, err := os.Create(s.out)
		if err != nil {
			return fmt.Errorf("answers: %w", err)
		}
		defer func() {
			if e := f.Close(); err == nil && e != nil {
				err = fmt.Errorf("answers: %w", e)
			}
		}()
		out = f
	}
	if len(args) > 0 {
		return s.one(ctx, cl, strings.Join(args, " "), out, errs)
	}
	if s.file != "-" {
		f, err := os.Open(s.file)
		if err != nil {
			return usagef("prompts: %w", err)
		}
		defer f.Close()
		total, err := s.checkLines(f)
		if err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil { // a pipe: as standard input
			return fmt.Errorf("prompts: %w (for a pipe use -f -)", err)
		}
		return s.many(ctx, cl, f, total, out, errs)
	}
	return s.many(ctx, cl, in, 0, out, errs)
}

// checkLines reads a whole file before anything is sent.
func (s *submission) checkLines(r io.Reader) (n int, err error) {
	for l := range lines(r) {
		if l.err != nil {
			return 0, fmt.Errorf("%s: %w: nothing was sent", s.file, l.err)
		}
		if _, err := s.request(l); err != nil {
			return 0, fmt.Errorf("%s: %w: nothing was sent", s.file, err)
		}
		n++
	}
	if n == 0 {
		return 0, usagef("%s holds no prompt", s.file)
	}
	return n, nil
}

// one sends a prompt from the command line and prints its answer's text.
func (s *submission) one(ctx context.Context, cl *Client, prompt string, out, errs io.Writer) error {
	if err := s.chooseModel(ctx, cl); err != nil {
		return cause(ctx, err)
	}
	r, err := s.request(line{n: 1, text: prompt, plain: true})
	if err != nil {
		return err
	}
	t := newTally(nil, 1, s.quiet)
	if s.stream {
		err = cl.stream(ctx, r, out, t)
	} else {
		err = s.printOne(ctx, cl, r, out, t)
	}
	if err == nil && !s.async {
		t.summary(errs)
	}
	return cause(ctx, err)
}

func (s *submission) printOne(ctx context.Context, cl *Client, r *request, out io.Writer, t *tally) error {
	o := s.send(ctx, cl, r)
	s.finish(ctx, cl, o)
	t.count(o)
	if s.format == "json" {
		if o.raw != nil {
			return PrintJSON(out, o.raw)
		}
		return o.err
	}
	if o.err != nil {
		return o.err
	}
	text := o.Text
	if s.async && !s.wait {
		text = o.Job
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

// chooseModel fills in the model where none was named.
func (s *submission) chooseModel(ctx context.Context, cl *Client) (err error) {
	if s.model == "" {
		s.model, err = cl.model(ctx)
	}
	return err
}

// errBadLine stops the reading of standard input; what was sent before it is finished.
type errBadLine struct{ error }

// many sends lines as they come, concurrency at a time, and writes their answers in the input's order.
func (s *submission) many(ctx context.Context, cl *Client, in io.Reader, total int, out, errs io.Writer) error {
	if err := s.chooseModel(ctx, cl); err != nil {
		return cause(ctx, err)
	}
	t := newTally(errs, total, s.quiet)
	// Answers wait here for those before them: this bounds how far a fast line may be ahead of a slow one. Jobs are all
	// submitted first, and followed in order afterwards.
	ahead := 4 * s.concurrency
	if s.async {
		ahead = jobsAhead
	}
	order := make(chan chan *outcome, ahead)
	bad := make(chan error, 1)
	go func() {
		defer close(order)
		bad <- s.feed(ctx, cl, in, order, t)
	}()
	err := s.write(ctx, cl, out, order, t)
	t.finish()
	err = cmp.Or(err, <-bad)
	if !s.quiet {
		t.summary(errs)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %d of the prompts have their answers%s", t.done, in2(s.out))
	case err != nil:
		return err
	case t.failed > 0:
		return fmt.Errorf("%d of %d failed: their lines hold the errors%s", t.failed, t.done+t.failed, in2(s.out))
	}
	return nil
}

func in2(file string) string {
	if file == "" {
		return ""
	}
	return " in " + file
}

// feed reads lines and starts a request for each, and returns when all have ended.
func (s *submission) feed(ctx context.Context, cl *Client, in io.Reader, order chan<- chan *outcome, t *tally) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, s.concurrency)
	for l := range lines(in) {
		r, err := s.request(l)
		if err != nil {
			return errBadLine{fmt.Errorf("%w: the lines before it were sent, it and those after it were not", err)}
		}
		o := make(chan *outcome, 1)
		select {
		case order <- o:
		case <-ctx.Done():
			return nil
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			o <- nil
			return nil
		}
		wg.Go(func() {
			defer func() { <-slots }()
			o <- s.send(ctx, cl, r)
		})
	}
	return nil
}

// write puts outcomes down in order. After an error it goes on taking them, so that nobody waits for it; jobs that are
// not followed any more are cancelled.
func (s *submission) write(ctx context.Context, cl *Client, out io.Writer, order <-chan chan *outcome, t *tally) (err error) {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	for o := range order {
		x := <-o
		if x == nil {
			continue
		}
		s.finish(ctx, cl, x)
		t.count(x)
		if err != nil || errors.Is(x.err, context.Canceled) {
			continue
		}
		if err = e.Encode(x); err != nil {
			err = fmt.Errorf("write answers: %w", err)
		}
	}
	return err
}

// finish follows a submitted job to its end, where that is asked for.
func (s *submission) finish(ctx context.Context, cl *Client, o *outcome) {
	if o.err != nil || !s.async || !s.wait {
		return
	}
	if err := cl.follow(ctx, o); err != nil {
		o.fail(err)
	}
}

// line is one line of the input that is not empty.
type line struct {
	n     int
	text  string
	plain bool // taken as it stands
	err   error
}

// maxLine is more than a server takes for a body.
const maxLine = 64 << 20

// lines are the lines of r, numbered from 1. A read error is the last one.
func lines(r io.Reader) func(func(line) bool) {
	return func(yield func(line) bool) {
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, maxLine)
		n := 0
		for sc.Scan() {
			n++
			text := strings.TrimPrefix(sc.Text(), "\ufeff")
			if strings.TrimSpace(text) == "" {
				continue
			}
			if !yield(line{n: n, text: text}) {
				return
			}
		}
		if err := sc.Err(); err != nil {
			yield(line{n: n + 1, err: fmt.Errorf("line %d: %w", n+1, err)})
		}
	}
}

// outcome is a line of the output.
type outcome struct {
	Line     int             `json:"line"`
	CustomID string          `json:"custom_id,omitempty"`
	Job      string          `json:"job,omitempty"`
	Status   int             `json:"status_code,omitempty"`
	Text     string          `json:"text,omitempty"`
	Response json.RawMessage `json:"response,omitempty"`
	Error    *lineError      `json:"error,omitempty"`

	raw    json.RawMessage // what the server answered
	err    error
	tokens int
}

type lineError struct {
	Message string `json:"message"`
	Code    string `json:"code,omitempty"`
	Status  int    `json:"status_code,omitempty"`
}

// A job that is waited for is looked at after pollFirst, then ever less often, down to each pollLast.
const pollFirst, pollLast = 10 * time.Millisecond, time.Second

// jobsAhead bounds the jobs that are submitted and not yet followed to their ends.
const jobsAhead = 1 << 16
