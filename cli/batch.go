package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Batch is OpenAI's batch object with Lorry's own part, as far as people read it.
type Batch struct {
	ID               string            `json:"id"`
	Status           string            `json:"status"`
	Endpoint         string            `json:"endpoint"`
	Model            string            `json:"model"`
	InputFileID      string            `json:"input_file_id"`
	OutputFileID     string            `json:"output_file_id"`
	ErrorFileID      string            `json:"error_file_id"`
	CompletionWindow string            `json:"completion_window"`
	CreatedAt        int64             `json:"created_at"`
	ExpiresAt        int64             `json:"expires_at"`
	CompletedAt      int64             `json:"completed_at"`
	FailedAt         int64             `json:"failed_at"`
	ExpiredAt        int64             `json:"expired_at"`
	CancelledAt      int64             `json:"cancelled_at"`
	Metadata         map[string]string `json:"metadata"`
	Counts           struct {
		Total     int `json:"total"`
		Completed int `json:"completed"`
		Failed    int `json:"failed"`
	} `json:"request_counts"`
	Usage struct {
		InputTokens  int `json:"input_tokens"`
		OutputTokens int `json:"output_tokens"`
	} `json:"usage"`
	Errors *struct {
		Data []BatchError `json:"data"`
	} `json:"errors"`
	Lorry struct {
		Priority        int     `json:"priority"`
		Paused          bool    `json:"paused"`
		RetryOf         string  `json:"retry_of"`
		Position        int     `json:"position"`
		TokensPerSecond float64 `json:"tokens_per_second"`
		ETA             int64   `json:"eta"`
		Forecast        int64   `json:"forecast"`
		HeldBackBy      string  `json:"held_back_by"`
	} `json:"lorry"`
}

// BatchError is why a batch was refused.
type BatchError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Line    int    `json:"line"`
}

func (b *Batch) over() bool { return b.ended() > 0 }

func (b *Batch) ended() int64 {
	return max(b.CompletedAt, b.FailedAt, b.ExpiredAt, b.CancelledAt)
}

func newBatch(bind Bind) *cobra.Command {
	c := &cobra.Command{Use: "batch", Short: "Run files of requests, and steer them while they run",
		Long: `Run a file of up to 50,000 requests, and steer it while it runs.

A batch outlives this command, its connection and restarts of Lorry. Its lines run beside other work at their lane's and
tenant's fair share, and its results are two files: those of the lines that succeeded, and those of the others.`,
		Example: `  lorry batch create night.jsonl --watch
  lorry batch list
  lorry batch watch batch_01kb2c…
  lorry batch results batch_01kb2c… -O answers.jsonl`}
	c.AddCommand(newBatchCreate(bind), newBatchList(bind), newBatchGet(bind), newBatchWatch(bind), newBatchResults(bind), newBatchChange(bind),
		newBatchStep(bind, "cancel", "Cancel batches: lines that have ended keep their results", "/v1/batches/", "/cancel"),
		newBatchStep(bind, "pause", "Pause batches: lines that run go on, and the deadline stands", "/lorry/v1/batches/", "/pause"),
		newBatchStep(bind, "resume", "Let paused batches go on", "/lorry/v1/batches/", "/resume"),
		newBatchStep(bind, "retry", "Run the failed and cancelled lines again, as new batches", "/lorry/v1/batches/", "/retry"))
	return c
}

// creation is what the flags of batch create say.
type creation struct {
	endpoint, window, format string
	metadata                 map[string]string
	priority                 int
	watch, quiet             bool
}

func newBatchCreate(bind Bind) *cobra.Command {
	var w creation
	c := &cobra.Command{Use: "create FILE|FILE-ID", Short: "Make a batch of a file, and print its ID", Args: cobra.ExactArgs(1),
		Long: `Make a batch of a file on this machine, which is uploaded first, or of one that is there already (file-…).

Each line of it is a request:

  {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
   "body": {"model": "smollm2", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}}

All lines have one url and one model, and custom_ids differ. What is wrong with the file as a whole fails the batch and
names the lines; what is wrong inside a body fails that line alone.`,
		Example: `  lorry batch create night.jsonl
  lorry batch create night.jsonl --window 2h --metadata team=search --watch
  lorry batch create file-01kb2c… --endpoint /v1/completions --priority 10`}
	target := bind(c)
	f := c.Flags()
	f.StringVar(&w.endpoint, "endpoint", "", "url of the lines; empty: that of the file's first line, or /v1/chat/completions")
	f.StringVar(&w.window, "window", "24h", "time it may take, as 90m, 24h or 7d; lines that are late expire")
	f.StringToStringVar(&w.metadata, "metadata", nil, "key=value pairs to keep with it")
	f.IntVar(&w.priority, "priority", 0, "-100 to 100 beside the tenant's other batches")
	f.BoolVarP(&w.watch, "watch", "w", false, "follow it to its end")
	f.BoolVarP(&w.quiet, "quiet", "q", false, "no progress")
	OutputFlag(c, &w.format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withClient(c, target, func(ctx context.Context, cl *Client) error { return w.run(ctx, cl, c, args[0]) })
	}
	return c
}

func (w *creation) run(ctx context.Context, cl *Client, c *cobra.Command, arg string) error {
	file, err := w.input(ctx, cl, arg, c.ErrOrStderr())
	if err != nil {
		return err
	}
	body := map[string]any{"input_file_id": file, "endpoint": cmp.Or(w.endpoint, chatPath), "completion_window": w.window}
	if len(w.metadata) > 0 {
		body["metadata"] = w.metadata
	}
	if w.priority != 0 {
		body["lorry"] = map[string]int{"priority": w.priority}
	}
	var raw json.RawMessage
	if err := cl.do(ctx, http.MethodPost, "/v1/batches", http.Header{"Idempotency-Key": {newKey()}}, body, &raw); err != nil {
		return err
	}
	if err := printID(c.OutOrStdout(), w.format, raw); err != nil || !w.watch {
		return err
	}
	var b Batch
	if err := json.Unmarshal(raw, &b); err != nil {
		return fmt.Errorf("read the batch: %w", err)
	}
	return watch(ctx, cl, b.ID, w.quiet, io.Discard, c.ErrOrStderr())
}

// input is the ID of the file that the argument names. One on this machine is uploaded.
func (w *creation) input(ctx context.Context, cl *Client, arg string, errs io.Writer) (string, error) {
	if _, err := os.Stat(arg); err != nil {
		if strings.HasPrefix(arg, "file-") {
			return arg, nil
		}
		return "", usagef("input: %w (a file's ID begins with file-)", err)
	}
	if w.endpoint == "" {
		w.endpoint = firstURL(arg)
	}
	u := uploading{purpose: "batch", quiet: w.quiet}
	raw, err := u.file(ctx, cl, arg, nil, errs)
	if err != nil {
		return "", err
	}
	var f File
	if err := json.Unmarshal(raw, &f); err != nil {
		return "", fmt.Errorf("read the file: %w", err)
	}
	return f.ID, nil
}

// firstURL is the url of a file's first line, if it has one.
func firstURL(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for l := range lines(f) {
		var line struct{ URL string }
		_ = json.Unmarshal([]byte(l.text), &line)
		return line.URL
	}
	return ""
}

func batchPath(id string) string { return "/v1/batches/" + url.PathEscape(id) }

func newBatchList(bind Bind) *cobra.Command {
	var format, after string
	var limit int
	c := &cobra.Command{Use: "list", Short: "List batches, newest first", Args: cobra.NoArgs,
		Example: `  lorry batch list --limit 100
  lorry batch list -o json | jq -r '.data[] | select(.status == "failed") | .id'`}
	target := bind(c)
	c.Flags().IntVar(&limit, "limit", 20, "how many, 1 to 100")
	c.Flags().StringVar(&after, "after", "", "the next ones after this batch's ID")
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		q := url.Values{"limit": {strconv.Itoa(limit)}}
		if after != "" {
			q.Set("after", after)
		}
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			return showPage(ctx, cl, "/v1/batches?"+q.Encode(), c.OutOrStdout(), format, "lorry batch list",
				"ID\tSTATUS\tDONE\tFAILED\tOF\tMODEL\tCREATED\tENDED", batchCells)
		})
	}
	return c
}

func batchCells(b Batch) []any {
	return []any{b.ID, b.state(), b.Counts.Completed, b.Counts.Failed, b.Counts.Total, b.Model, Stamp(b.CreatedAt), Stamp(b.ended())}
}

// state is the status, and whether it is paused.
func (b *Batch) state() string {
	if b.Lorry.Paused && !b.over() {
		return b.Status + " (paused)"
	}
	return b.Status
}

func newBatchGet(bind Bind) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "get ID", Short: "Show a batch, how far it is, and what holds it back", Args: cobra.ExactArgs(1),
		Example: `  lorry batch get batch_01kb2c…
  lorry batch get batch_01kb2c… -o json | jq .lorry`}
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return eachID(c, target, args, http.MethodGet, batchPath, func(w io.Writer, raw json.RawMessage) error { return show(w, format, raw, printBatch) })
	}
	return c
}

func printBatch(w io.Writer, b Batch) error {
	rows := [][2]string{{"id", b.ID}, {"status", b.state()}, {"lines", b.lines()}, {"speed", b.speed()}, {"eta", Stamp(b.Lorry.ETA)}, {"forecast at its start", Stamp(b.Lorry.Forecast)}, {"held back by", b.Lorry.HeldBackBy},
		{"endpoint", b.Endpoint}, {"model", b.Model}, {"tokens", b.tokens()}, {"created", Stamp(b.CreatedAt)}, {"ended", Stamp(b.ended())},
		{"input", b.InputFileID}, {"output", b.OutputFileID}, {"errors", b.ErrorFileID}, {"retry of", b.Lorry.RetryOf}}
	if !b.over() {
		rows = append(rows, [2]string{"expires", Stamp(b.ExpiresAt)})
	}
	if err := printRows(w, rows); err != nil {
		return err
	}
	return b.printErrors(w)
}

func (b *Batch) lines() string {
	return fmt.Sprintf("%d of %d done, %d failed", b.Counts.Completed, b.Counts.Total, b.Counts.Failed)
}

func (b *Batch) speed() string {
	if b.Lorry.TokensPerSecond == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f tokens/s", b.Lorry.TokensPerSecond)
}

func (b *Batch) tokens() string {
	if b.Usage.InputTokens+b.Usage.OutputTokens == 0 {
		return ""
	}
	return fmt.Sprintf("%d in, %d out", b.Usage.InputTokens, b.Usage.OutputTokens)
}

// printErrors says why a batch was refused, line by line.
func (b *Batch) printErrors(w io.Writer) error {
	if b.Errors == nil {
		return nil
	}
	for _, e := range b.Errors.Data {
		at := "file"
		if e.Line > 0 {
			at = "line " + strconv.Itoa(e.Line)
		}
		if _, err := fmt.Fprintf(w, "%s: %s (%s)\n", at, e.Message, e.Code); err != nil {
			return err
		}
	}
	return nil
}

// newBatchStep is a command that does one thing to each of its batches.
func newBatchStep(bind Bind, name, short, before, behind string) *cobra.Command {
	var format string
	c := &cobra.Command{Use: name + " ID...", Short: short, Args: cobra.MinimumNArgs(1), Example: "  lorry batch " + name + " batch_01kb2c…"}
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return eachID(c, target, args, http.MethodPost, func(id string) string { return before + url.PathEscape(id) + behind },
			func(w io.Writer, raw json.RawMessage) error { return show(w, format, raw, printState) })
	}
	return c
}

// printState prints a batch's ID and where it stands.
func printState(w io.Writer, b Batch) error {
	_, err := fmt.Fprintf(w, "%s %s\n", b.ID, b.state())
	return err
}

func newBatchChange(bind Bind) *cobra.Command {
	var format, deadline string
	var priority int
	c := &cobra.Command{Use: "change ID", Short: "Change the deadline or the priority of a batch while it runs", Args: cobra.ExactArgs(1),
		Example: `  lorry batch change batch_01kb2c… --deadline 6h
  lorry batch change batch_01kb2c… --priority -10`}
	target := bind(c)
	c.Flags().StringVar(&deadline, "deadline", "", "from now, as 6h, or a time, as 2026-01-31T12:00:00Z")
	c.Flags().IntVar(&priority, "priority", 0, "-100 to 100 beside the tenant's other batches")
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		body := map[string]any{}
		if deadline != "" {
			body["deadline"] = deadline
		}
		if c.Flags().Changed("priority") {
			body["priority"] = priority
		}
		if len(body) == 0 {
			return usagef("nothing to change: give --deadline, --priority or both")
		}
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			var raw json.RawMessage
			if err := cl.do(ctx, http.MethodPatch, "/lorry/v1/batches/"+url.PathEscape(args[0]), nil, body, &raw); err != nil {
				return err
			}
			return show(c.OutOrStdout(), format, raw, printState)
		})
	}
	return c
}

func newBatchResults(bind Bind) *cobra.Command {
	var out string
	var follow, quiet bool
	c := &cobra.Command{Use: "results ID", Short: "Write a batch's results, also of one that still runs", Args: cobra.ExactArgs(1),
		Long: `Write a batch's results as JSON lines: while it runs those of the lines that have ended, in the order of their ends,
afterwards those in its output and error files. --follow stays until the batch is over.`,
		Example: `  lorry batch results batch_01kb2c… -O answers.jsonl
  lorry batch results batch_01kb2c… --follow | jq -r .response.body.choices[0].message.content`}
	target := bind(c)
	c.Flags().StringVarP(&out, "out", "O", "", "file for the results instead of standard output")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "stay until the batch is over")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	c.RunE = func(c *cobra.Command, args []string) error {
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			return wholeFile(out, c.OutOrStdout(), func(w io.Writer) error {
				return results(ctx, cl, args[0], follow, w, c.ErrOrStderr(), quiet || out == "")
			})
		})
	}
	return c
}

// results writes what there is of a batch, or all of it.
func results(ctx context.Context, cl *Client, id string, follow bool, w, errs io.Writer, quiet bool) error {
	b, err := cl.batch(ctx, id)
	if err != nil {
		return err
	}
	if b.over() {
		return cl.batchFiles(ctx, b, w, errs, quiet)
	}
	wait := pollFirst
	for after := 0; ; {
		last, n, err := cl.finished(ctx, id, after, w)
		switch {
		case err != nil:
			return err
		case n > 0: // there may be more
			after, wait = last, pollFirst
			continue
		case !follow || b.over():
			return nil
		}
		if err := cl.pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, pollLast)
		if b, err = cl.batch(ctx, id); err != nil { // before the last look: what has ended by its end is seen
			return err
		}
	}
}

func (c *Client) batch(ctx context.Context, id string) (*Batch, error) {
	var b Batch
	return &b, c.do(ctx, http.MethodGet, batchPath(id), nil, nil, &b)
}

// batchFiles writes the results of a batch that is over.
func (c *Client) batchFiles(ctx context.Context, b *Batch, w, errs io.Writer, quiet bool) error {
	for _, id := range []string{b.OutputFileID, b.ErrorFileID} {
		if id == "" {
			continue
		}
		if err := c.download(ctx, id, w, errs, quiet); err != nil {
			return err
		}
	}
	return nil
}

// finished writes a page of lines that have ended behind a cursor, and says where the next one begins.
func (c *Client) finished(ctx context.Context, id string, after int, w io.Writer) (last, n int, err error) {
	var page struct {
		Data []json.RawMessage `json:"data"`
		Last int               `json:"last"`
	}
	path := "/lorry/v1/batches/" + url.PathEscape(id) + "/results?after=" + strconv.Itoa(after)
	if err := c.do(ctx, http.MethodGet, path, nil, nil, &page); err != nil {
		return after, 0, err
	}
	b := bufio.NewWriter(w)
	for _, line := range page.Data {
		_, _ = b.Write(append(bytes.TrimSpace(line), '\n'))
	}
	return page.Last, len(page.Data), b.Flush()
}

func newBatchWatch(bind Bind) *cobra.Command {
	var format string
	var quiet bool
	c := &cobra.Command{Use: "watch ID", Short: "Follow a batch to its end", Args: cobra.ExactArgs(1),
		Long: `Follow a batch to its end: how many lines are done, how fast, when the last one is expected, and what holds it back.

Ctrl-C ends the watching, never the batch. The command ends with 0 if the batch completed.`,
		Example: `  lorry batch watch batch_01kb2c…
  lorry batch watch batch_01kb2c… -q -o json | jq .request_counts`}
	target := bind(c)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			var out bytes.Buffer
			err := watch(ctx, cl, args[0], quiet, &out, c.ErrOrStderr())
			if format == "json" && out.Len() > 0 {
				if e := PrintJSON(c.OutOrStdout(), json.RawMessage(out.Bytes())); e != nil {
					return e
				}
			}
			return err
		})
	}
	return c
}

// watch looks at a batch until it is over, and writes it down then.
func watch(ctx context.Context, cl *Client, id string, quiet bool, out, errs io.Writer) error {
	v := newBatchView(errs, quiet)
	defer v.finish()
	for wait := 10 * pollFirst; ; wait = min(2*wait, pollLast) {
		var raw json.RawMessage
		err := cl.do(ctx, http.MethodGet, batchPath(id), nil, nil, &raw)
		var b Batch
		if err == nil {
			err = json.Unmarshal(raw, &b)
		}
		if err == nil {
			v.show(&b)
			if b.over() {
				_, err = out.Write(raw)
				v.finish()
				return cmp.Or(err, b.outcome(errs, quiet))
			}
			err = cl.pause(ctx, wait)
		}
		if ctx.Err() != nil {
			return goesOn{id}
		}
		if err != nil {
			return err
		}
	}
}

// goesOn is the end of a watching that its user ended.
type goesOn struct{ id string }

func (g goesOn) Error() string {
	return fmt.Sprintf("stopped watching; the batch goes on (lorry batch watch %s goes on watching, lorry batch cancel %s ends it)", g.id, g.id)
}

// outcome says where the results are, or why there are none.
func (b *Batch) outcome(errs io.Writer, quiet bool) error {
	if !quiet {
		_ = b.printErrors(errs)
		fmt.Fprintf(errs, "%s: %s, in %s\n", b.Status, b.lines(), time.Duration(b.ended()-b.CreatedAt)*time.Second)
		if b.OutputFileID+b.ErrorFileID != "" {
			fmt.Fprintf(errs, "results: lorry batch results %s\n", b.ID)
		}
	}
	if b.Status == "completed" {
		return nil
	}
	return fmt.Errorf("batch %s %s", b.ID, b.Status)
}
