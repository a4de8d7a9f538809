package batch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"lorry/queue"
	"lorry/result"
)

// Finish writes what came of a batch's lines into its files and makes it terminal: completed, cancelled or expired. It
// reads RESULTS once, in bounded memory. Lines without a verdict go to the error file as not executed. Doing it again after
// a crash begins anew: nobody has seen the files of before.
func (bs *Batches) Finish(ctx context.Context, b Batch, to Status) (Batch, error) {
	f := &finishing{bs: bs, b: b, to: to, done: NewSet(b.Counts.Total),
		output: bs.newSheet(b, "output"), errors: bs.newSheet(b, "error")}
	counts, usage, err := f.write(ctx)
	if err != nil {
		f.undo(ctx)
		return b, fmt.Errorf("batch: finish %s: %w", b.ID, err)
	}
	done, err := bs.update(ctx, b.Tenant, b.ID, func(b *Batch) error {
		b.OutputFile, b.ErrorFile, b.Counts, b.Usage = f.output.file.ID, f.errors.file.ID, counts, usage
		return b.move(to, "finish", bs.cfg.Now())
	})
	if _, moved := errors.AsType[*StatusError](err); moved {
		f.undo(ctx) // others finished it, or its owner cancelled it just before its deadline
	}
	return done, err
}

// finishing is one pass over a batch's results.
type finishing struct {
	bs             *Batches
	b              Batch
	to             Status
	done           *Set
	output, errors *sheet
}

func (f *finishing) write(ctx context.Context) (c Counts, u Usage, err error) {
	for _, s := range []*sheet{f.output, f.errors} {
		if err := f.bs.cfg.Files.Delete(ctx, f.b.Tenant, s.id); err != nil && !errors.Is(err, ErrNotFound) {
			return c, u, err
		}
	}
	c.Total = f.b.Counts.Total
	if f.b.Lines != "" {
		err = f.results(ctx, &c, &u)
		if err == nil {
			err = f.rest(ctx)
		}
	}
	for _, s := range []*sheet{f.output, f.errors} {
		err = errors.Join(err, s.close(err))
	}
	return c, u, err
}

// results writes the lines that have verdicts.
func (f *finishing) results(ctx context.Context, c *Counts, u *Usage) error {
	for vs, err := range f.pages(ctx) {
		if err != nil {
			return err
		}
		for _, v := range vs {
			if err := f.verdict(ctx, v, c, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// pages are the lines' verdicts in order, in three stages: the queue looks for a page, while the one before is decoded and
// the one before that is written.
func (f *finishing) pages(ctx context.Context) iter.Seq2[[]*result.Verdict, error] {
	return func(yield func([]*result.Verdict, error) bool) {
		reading, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		read, decoded := make(chan page, 1), make(chan page, 1)
		wg.Go(func() { defer close(read); f.readPages(reading, read) })
		wg.Go(func() { defer close(decoded); decodePages(reading, read, decoded) })
		for p := range decoded {
			if !yield(p.vs, p.err) {
				return
			}
		}
		if err := context.Cause(ctx); err != nil { // pages may be missing
			yield(nil, err)
		}
	}
}

// page is some messages, and once decoded its verdicts.
type page struct {
	ms  []queue.Stored
	vs  []*result.Verdict
	err error
}

func decodePages(ctx context.Context, from <-chan page, to chan<- page) {
	for p := range from {
		if p.err == nil {
			p.vs, p.err = result.DecodeAll(p.ms)
		}
		select {
		case to <- p:
		case <-ctx.Done():
			return
		}
	}
}

func (f *finishing) readPages(ctx context.Context, to chan<- page) {
	for ms, err := range f.bs.cfg.Queue.Scan(ctx, queue.StreamResults, queue.LinesSubject(f.b.Tenant, f.b.ID)) {
		select {
		case to <- page{ms: ms, err: err}:
		case <-ctx.Done():
			return
		}
	}
}

func (f *finishing) verdict(ctx context.Context, v *result.Verdict, c *Counts, u *Usage) error {
	if !f.done.Add(v.Line) {
		return nil // another batch's, or twice: neither can be
	}
	switch v.State {
	case queue.Succeeded:
		c.Completed++
	case queue.Failed:
		c.Failed++
	}
	if v.Completion != nil {
		x := v.Completion.Usage
		u.InputTokens, u.CachedTokens, u.OutputTokens = u.InputTokens+x.PromptTokens, u.CachedTokens+x.CachedTokens, u.OutputTokens+x.CompletionTokens
	}
	to := f.output
	if v.State != queue.Succeeded {
		to = f.errors
	}
	return to.line(ctx, outputLine(f.b.ID, v))
}

// rest writes the lines that have none.
func (f *finishing) rest(ctx context.Context) error {
	if f.done.Full() {
		return nil
	}
	lines, err := f.bs.OpenLines(ctx, f.b)
	if err != nil {
		return err
	}
	defer lines.Close()
	why := unexecuted(map[Status]queue.State{Cancelled: queue.Cancelled, Expired: queue.Expired}[f.to])
	for n := range f.done.Missing() {
		text, err := lines.Line(n)
		if err != nil {
			return err
		}
		l, _ := ParseLine(text, f.b.Endpoint)
		if err := f.errors.line(ctx, notExecuted(f.b.ID, n, l.CustomID, why)); err != nil {
			return err
		}
	}
	return nil
}

func (f *finishing) undo(ctx context.Context) {
	ctx, cancel := step(ctx)
	defer cancel()
	for _, s := range []*sheet{f.output, f.errors} {
		_ = s.close(errUndone)
		if s.file.ID != "" {
			_ = f.bs.cfg.Files.Delete(ctx, f.b.Tenant, s.file.ID)
		}
	}
}

var errUndone = errors.New("batch: not finished")

// lineFailure is why a line was not executed, in an error file.
type lineFailure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func unexecuted(s queue.State) lineFailure {
	switch s {
	case queue.Expired:
		return lineFailure{"batch_expired", "This request could not be executed before the completion window expired."}
	case queue.Cancelled:
		return lineFailure{"batch_cancelled", "This request was not executed: the batch was cancelled."}
	}
	return lineFailure{"result_lost", "The result of this request was lost. Retry the batch: only such lines run again."}
}

// outputLine is a verdict as a line of the output or error file: OpenAI's, and how many attempts it took (none for what
// the cache answered) where its SDKs do not look.
func outputLine(batch string, v *result.Verdict) []byte {
	if v.State == queue.Expired || v.State == queue.Cancelled {
		return notExecuted(batch, v.Line, v.CustomID, unexecuted(v.State))
	}
	status, body := result.Response(v)
	b := startLine(len(body), batch, v.Line, v.CustomID)
	b = append(b, `{"status_code":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, `,"request_id":"req_`...)
	b = append(b, lineName(batch, v.Line)...)
	b = append(b, `","body":`...)
	b = append(b, body...)
	b = append(b, `},"error":null,"lorry":{"attempts":`...)
	b = strconv.AppendInt(b, int64(v.Attempt), 10)
	return append(b, "}}\n"...)
}

func notExecuted(batch string, n int, customID string, why lineFailure) []byte {
	b := append(startLine(0, batch, n, customID), `null,"error":`...)
	return append(append(b, encode(why)...), "}\n"...)
}

// frame is about what an output line has around its body.
const frame = 256

func startLine(body int, batch string, n int, customID string) []byte {
	b := append(make([]byte, 0, body+frame), `{"id":"batch_req_`...)
	b = append(b, lineName(batch, n)...)
	b = append(b, `","custom_id":`...)
	return append(append(b, encode(customID)...), `,"response":`...)
}

func lineName(batch string, n int) string {
	return strings.TrimPrefix(batch, batchPrefix) + "-" + strconv.Itoa(n)
}

// sheet is one of a batch's files while it is written. A sheet without lines becomes no file.
type sheet struct {
	bs   *Batches
	b    Batch
	kind string
	id   string
	w    *io.PipeWriter
	buf  bytes.Buffer
	done chan struct{}
	file File
	err  error
}

func (bs *Batches) newSheet(b Batch, kind string) *sheet {
	return &sheet{bs: bs, b: b, kind: kind, id: b.fileID(kind)}
}

// sheetAtOnce is how much is handed on at a time.
const sheetAtOnce = 64 << 10

func (s *sheet) line(ctx context.Context, b []byte) error {
	if s.w == nil {
		s.open(ctx)
	}
	s.buf.Write(b)
	if s.buf.Len() < sheetAtOnce {
		return nil
	}
	return s.flush()
}

func (s *sheet) flush() error {
	_, err := s.buf.WriteTo(s.w)
	return err
}

func (s *sheet) open(ctx context.Context) {
	r, w := io.Pipe()
	s.w, s.done = w, make(chan struct{})
	go func() {
		defer close(s.done)
		s.file, s.err = s.bs.cfg.Files.Create(ctx, s.b.Tenant, r, 0, s.describe)
		_ = r.CloseWithError(errors.Join(errUndone, s.err)) // a writer that goes on is told
	}()
}

func (s *sheet) describe() (CreateFile, error) {
	return CreateFile{ID: s.id, Filename: s.b.ID + "_" + s.kind + ".jsonl", Purpose: PurposeOutput, ExpiresAfter: s.b.OutputExpiresAfter.Duration()}, nil
}

// close waits until the file stands, or with an error until there is none.
func (s *sheet) close(err error) error {
	if s.w == nil {
		return nil
	}
	if err == nil {
		err = s.flush()
	}
	_ = s.w.CloseWithError(err) // nil is the end
	<-s.done
	return s.err
}

// fileID is the same whoever writes the file, and in the order of time.
func (b *Batch) fileID(kind string) string {
	var id ulid.ULID
	at := max(b.FinalizingAt, b.CancellingAt)
	if at == 0 {
		at = b.ExpiresAt
	}
	_ = id.SetTime(ulid.Timestamp(time.Unix(at, 0)))
	sum := sha256.Sum256([]byte(b.ID + " " + kind))
	_ = id.SetEntropy(sum[:10])
	return filePrefix + strings.ToLower(id.String())
}
