package scheduler

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"lorry/access"
	"lorry/batch"
	"lorry/blob"
	"lorry/engine"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/resent"
	"lorry/result"
	"lorry/result/resulttest"
)

// plant is all that batches run on, over real servers, but a worker that the test plays.
type plant struct {
	t       *testing.T
	nats    *server.Server
	socket  string // Redis'
	q       *queue.Queue
	s       *result.Store
	files   *batch.Files
	batches *batch.Batches
	gate    *gate
	access  *access.Store // nil: all tenants are equal
	// refuseLate is the scheduler's setting.
	refuseLate bool
	// runs counts runs of each job; hold, unless nil, is waited on before each answer.
	mu   sync.Mutex
	runs map[string]int
	ran  []string // their batches, in order
	hold chan struct{}
	n    atomic.Int64
}

func newPlant(t *testing.T) *plant {
	nats, socket := queuetest.Server(t), resulttest.Server(t)
	q := queuetest.New(t, queue.Config{Conn: queuetest.Connect(t, nats)})
	p := &plant{t: t, nats: nats, socket: socket, q: q, runs: map[string]int{}}
	p.s = resulttest.New(t, result.Config{Queue: q, Redis: resulttest.Client(t, socket)})
	ok(t, q.SetupBase(t.Context(), testBase))
	dir, err := blob.OpenDir(blob.DirConfig{Dir: t.TempDir(), MinFree: 1})
	ok(t, err)
	t.Cleanup(func() { _ = dir.Close() })
	blobs := &gate{Store: dir}
	p.gate = blobs
	p.files = batch.NewFiles(batch.FilesConfig{JS: q.JS(), Blobs: blobs, Log: zerolog.Nop()})
	p.batches = batch.NewBatches(batch.BatchesConfig{Queue: q, Results: p.s, Files: p.files, Log: zerolog.Nop()})
	ok(t, p.files.Setup(t.Context()))
	ok(t, p.batches.Setup(t.Context()))
	return p
}

// testLines read {"model": "m", "prompt": …, "cache": …}; the prompt "bad" is refused. The model "m+x" is m with adapter x.
type testLines struct{}

func (testLines) Resolve(_ context.Context, model string) (engine.Model, error) {
	base, adapter, _ := strings.Cut(model, "+")
	if base != "m" {
		return engine.Model{}, engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "no model %s", model)
	}
	return engine.Model{Name: model, Base: testBase, Adapter: adapter}, nil
}

func (testLines) Read(j *queue.Job, body []byte) *engine.Error {
	var b struct {
		Prompt string
		Cache  bool
	}
	if err := json.Unmarshal(body, &b); err != nil || b.Prompt == "bad" {
		return engine.Errorf(engine.Invalid, engine.CodeInvalidValue, "prompt", "a bad prompt")
	}
	j.Request = engine.Request{ID: j.ID, Kind: engine.Text, Model: j.Request.Model, Scope: j.Tenant, Prompt: b.Prompt, Sampling: engine.Sampling{N: 1, MaxTokens: 5}}
	if b.Cache {
		j.CacheKey = "key of " + b.Prompt
	}
	return nil
}

// schedule runs a scheduler until stop.
func (p *plant) schedule() (stop func()) {
	s, err := New(Config{Queue: p.q, Results: p.s, Files: p.files, Batches: p.batches, Lines: testLines{}, Access: p.access, RefuseLate: p.refuseLate, Log: zerolog.New(zerolog.NewTestWriter(p.t)).Level(zerolog.WarnLevel)})
	ok(p.t, err)
	return p.run(s.Run)
}

func (p *plant) run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); ok(p.t, <-done) }) }
	p.t.Cleanup(stop)
	return stop
}

// work answers what comes in the batch lane.
func (p *plant) work() (stop func()) {
	return p.run(func(ctx context.Context) error {
		puller := p.q.Puller(queue.Batch, testBase)
		for ctx.Err() == nil {
			ls, err := puller.Pull(ctx, 32, 200*time.Millisecond)
			if err == nil && len(ls) > 0 {
				err = p.answer(ctx, ls)
			}
			if err != nil && ctx.Err() == nil {
				pause(ctx, 20*time.Millisecond)
			}
		}
		return nil
	})
}

func (p *plant) answer(ctx context.Context, ls []*queue.Lease) error {
	cs, err := p.s.Claim(ctx, "w", time.Minute, ls)
	if err != nil {
		return err
	}
	var vs []*result.Verdict
	for _, c := range cs {
		for _, h := range c.Run {
			vs = append(vs, p.verdict(ctx, h))
		}
	}
	for ctx.Err() == nil { // as a worker does: until it stands
		if _, err := p.s.Settle(ctx, vs...); err == nil {
			break
		}
		pause(ctx, 20*time.Millisecond)
	}
	for _, l := range ls {
		_ = l.Ack()
	}
	return nil
}

func (p *plant) verdict(ctx context.Context, h *result.Held) *result.Verdict {
	p.mu.Lock()
	p.runs[h.Job.ID]++
	p.ran = append(p.ran, h.Job.Batch)
	p.mu.Unlock()
	p.n.Add(1)
	if p.hold != nil {
		select {
		case <-p.hold:
		case <-ctx.Done():
		}
	}
	v := result.For(h.Job, queue.Succeeded, time.Now().UnixMilli())
	v.Attempt = h.Attempt
	v.Completion = &engine.Completion{Choices: []engine.Choice{{Text: "re: " + h.Job.Request.Prompt, Finish: engine.FinishStop}},
		Usage: engine.Usage{PromptTokens: 2, CompletionTokens: 3}}
	return v
}

func inputLine(i int, prompt string, more string) string {
	b, _ := json.Marshal(prompt)
	return fmt.Sprintf(`{"custom_id":"c%d","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":%s%s}}`, i, b, more)
}

func inputOf(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(inputLine(i+1, fmt.Sprintf("p%d", i+1), "") + "\n")
	}
	return b.String()
}

func (p *plant) upload(text string) batch.File {
	p.t.Helper()
	f, err := p.files.Create(p.t.Context(), "acme", strings.NewReader(text), 0, func() (batch.CreateFile, error) {
		return batch.CreateFile{Filename: "in.jsonl", Purpose: batch.PurposeBatch}, nil
	})
	ok(p.t, err)
	return f
}

func (p *plant) create(text string, mods ...func(*batch.CreateBatch)) batch.Batch {
	p.t.Helper()
	w := batch.CreateBatch{InputFile: p.upload(text).ID, Endpoint: queue.Completions}
	for _, m := range mods {
		m(&w)
	}
	b, err := p.batches.Create(p.t.Context(), "acme", w)
	ok(p.t, err)
	if b.Status != batch.Validating {
		p.t.Errorf("made with status %s", b.Status)
	}
	return b
}

func (p *plant) get(id string) batch.Batch {
	p.t.Helper()
	b, err := p.batches.Get(p.t.Context(), "acme", id)
	ok(p.t, err)
	return b
}

func (p *plant) await(id string, want batch.Status) batch.Batch {
	p.t.Helper()
	var b batch.Batch
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if b = p.get(id); b.Status == want {
			return b
		}
		if b.Status.Terminal() || time.Now().After(end) {
			p.t.Fatalf("batch is %s, not %s: %+v", b.Status, want, b.Errors)
		}
	}
}

// outLine is a line of an output or error file.
type outLine struct {
	ID       string
	CustomID string `json:"custom_id"`
	Response *struct {
		StatusCode int    `json:"status_code"`
		RequestID  string `json:"request_id"`
		Body       json.RawMessage
	}
	Error *struct{ Code, Message string }
	Lorry struct{ Attempts int }
}

// read is a file's lines by custom ID.
func (p *plant) read(id string) map[string]outLine {
	p.t.Helper()
	out := map[string]outLine{}
	if id == "" {
		return out
	}
	file, err := p.files.Get(p.t.Context(), "acme", id)
	ok(p.t, err)
	if file.Purpose != batch.PurposeOutput || file.ExpiresAt == 0 {
		p.t.Errorf("file %+v", file)
	}
	r, err := p.files.Open(p.t.Context(), file)
	ok(p.t, err)
	defer r.Close()
	for sc := bufio.NewScanner(r); sc.Scan(); {
		var l outLine
		ok(p.t, json.Unmarshal(sc.Bytes(), &l))
		if _, twice := out[l.CustomID]; twice {
			p.t.Errorf("%s stands there twice", l.CustomID)
		}
		out[l.CustomID] = l
	}
	return out
}

func TestBatchLife(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	p.work()
	const n = 5000
	text := inputOf(n-2) + inputLine(n-1, "bad", "") + "\r\n\r\n  \n" + inputLine(n, "last", "")
	b := p.create("\ufeff" + text)
	b = p.await(b.ID, batch.Completed)
	if want := (batch.Counts{Total: n, Completed: n - 1, Failed: 1}); b.Counts != want {
		t.Errorf("counts %+v", b.Counts)
	}
	if want := (batch.Usage{InputTokens: 2 * (n - 1), OutputTokens: 3 * (n - 1)}); b.Usage != want {
		t.Errorf("usage %+v", b.Usage)
	}
	out, bad := p.read(b.OutputFile), p.read(b.ErrorFile)
	if len(out) != n-1 || len(bad) != 1 {
		t.Fatalf("%d and %d lines", len(out), len(bad))
	}
	for i := range n {
		id := fmt.Sprintf("c%d", i+1)
		if l, there := out[id]; there && (l.Response == nil || l.Response.StatusCode != 200 || l.Error != nil || l.Lorry.Attempts != 1 || !bytes.Contains(l.Response.Body, []byte("re: "))) {
			t.Fatalf("%s: %+v", id, l)
		}
	}
	if l := bad[fmt.Sprintf("c%d", n-1)]; l.Response == nil || l.Response.StatusCode != 400 || !bytes.Contains(l.Response.Body, []byte("a bad prompt")) {
		t.Errorf("the bad line: %+v", l)
	}
	p.ranOnce(n - 1)
	p.closed(b)
}

// ranOnce says that n jobs ran, each once.
func (p *plant) ranOnce(n int) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.runs) != n {
		p.t.Errorf("%d jobs ran, want %d", len(p.runs), n)
	}
	for id, k := range p.runs {
		if k != 1 {
			p.t.Errorf("%s ran %d times", id, k)
		}
	}
}

// closed waits until a batch has let go of all that it held, and its end was told of.
func (p *plant) closed(b batch.Batch) {
	p.t.Helper()
	eventually(p.t, "the batch is announced", func() bool { return p.get(b.ID).Announced })
	m, there, err := p.q.Last(p.t.Context(), queue.StreamResults, queue.EndSubject("acme", b.ID))
	ok(p.t, err)
	if !there {
		p.t.Fatal("no end record")
	}
	e, err := result.DecodeEnd(m.Data)
	ok(p.t, err)
	if e.Status != string(p.get(b.ID).Status) || e.Batch != b.ID || e.Tenant != "acme" {
		p.t.Errorf("end record %+v", e)
	}
	keys, err := p.s.Redis().Keys(p.t.Context(), "{acme}:job:*").Result()
	ok(p.t, err)
	if len(keys) > 0 {
		p.t.Errorf("%d keys are left, as %s", len(keys), keys[0])
	}
}

func TestInvalidBatchFails(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	b := p.create(inputLine(1, "x", "") + "\nnot json\n" + inputLine(1, "x", "") + "\n")
	b = p.await(b.ID, batch.Failed)
	var got []string
	for _, e := range b.Errors {
		got = append(got, fmt.Sprintf("%s %d", e.Code, e.Line))
	}
	if s := strings.Join(got, ", "); s != "invalid_json_line 2, duplicate_custom_id 3" {
		t.Errorf("errors: %s", s)
	}
	p.closed(b)
}

// brake makes the worker wait before each answer, until it is let go.
func (p *plant) brake() (release func()) {
	p.hold = make(chan struct{})
	var once sync.Once
	release = func() { once.Do(func() { close(p.hold) }) }
	p.t.Cleanup(release)
	return release
}

// running waits until n runs have begun.
func (p *plant) running(n int64) {
	p.t.Helper()
	eventually(p.t, fmt.Sprint(n, " runs"), func() bool { return p.n.Load() >= n })
}

// drained waits until all that was fed is acknowledged: as the stream has it, for its consumer hears of it a moment later.
func (p *plant) drained() {
	p.t.Helper()
	eventually(p.t, "what was fed is over", func() bool {
		left, err := p.q.Subjects(p.t.Context(), queue.StreamJobs, queue.JobsSubject(queue.Batch, testBase))
		return err == nil && len(left) == 0
	})
}

// codes counts an error file's lines by code; "" are those that were executed.
func codes(ls map[string]outLine) map[string]int {
	out := map[string]int{}
	for _, l := range ls {
		if l.Error == nil {
			out[""]++
		} else {
			out[l.Error.Code]++
		}
	}
	return out
}

func TestCancelWhileItRuns(t *testing.T) {
	p := newPlant(t)
	release := p.brake()
	p.schedule()
	p.work()
	const n = 300
	b := p.create(inputOf(n))
	p.await(b.ID, batch.InProgress)
	p.running(1)
	b, err := p.batches.Cancel(t.Context(), "acme", b.ID)
	ok(t, err)
	if b.Status != batch.Cancelling || b.CancellingAt == 0 {
		t.Errorf("after the call: %+v", b)
	}
	release()
	b = p.await(b.ID, batch.Cancelled)
	out, bad := p.read(b.OutputFile), p.read(b.ErrorFile)
	if len(out) == 0 || len(out)+len(bad) != n || codes(bad)["batch_cancelled"] != len(bad) {
		t.Errorf("%d done, the rest: %v", len(out), codes(bad))
	}
	if want := (batch.Counts{Total: n, Completed: len(out)}); b.Counts != want {
		t.Errorf("counts %+v, want %+v", b.Counts, want)
	}
	p.closed(b)
	for range 2 { // cancelling again is fine
		b, err = p.batches.Cancel(t.Context(), "acme", b.ID)
		if err != nil || b.Status != batch.Cancelled {
			t.Errorf("again: %s %v", b.Status, err)
		}
	}
}

func TestCancelBeforeItIsRead(t *testing.T) {
	p := newPlant(t)
	b := p.create(inputOf(3))
	b, err := p.batches.Cancel(t.Context(), "acme", b.ID)
	ok(t, err)
	p.schedule()
	b = p.await(b.ID, batch.Cancelled)
	if b.OutputFile+b.ErrorFile != "" || b.Counts != (batch.Counts{}) {
		t.Errorf("%+v", b)
	}
	p.closed(b)
}

func TestOverIsOver(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	p.work()
	b := p.await(p.create(inputOf(3)).ID, batch.Completed)
	for name, f := range map[string]func(context.Context, string, string) (batch.Batch, error){
		"cancel": p.batches.Cancel, "pause": p.batches.Pause, "resume": p.batches.Resume,
		"change": func(ctx context.Context, tenant, id string) (batch.Batch, error) {
			prio := 3
			return p.batches.Change(ctx, tenant, id, batch.Change{Priority: &prio})
		},
	} {
		_, err := f(t.Context(), "acme", b.ID)
		if e, is := errors.AsType[*batch.StatusError](err); !is || e.Do != name || e.Status != batch.Completed {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := f(t.Context(), "other", b.ID); !errors.Is(err, batch.ErrNoBatch) {
			t.Errorf("%s by another tenant: %v", name, err)
		}
	}
	if _, err := p.batches.Retry(t.Context(), "acme", b.ID, resent.Repeat{}); !errors.Is(err, batch.ErrNothing) {
		t.Errorf("retry: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	p := newPlant(t)
	p.schedule() // and no worker
	b := p.create(inputOf(100), func(w *batch.CreateBatch) { w.Window = time.Second })
	b = p.await(b.ID, batch.Expired)
	bad := p.read(b.ErrorFile)
	if b.OutputFile != "" || codes(bad)["batch_expired"] != 100 || b.Counts != (batch.Counts{Total: 100}) {
		t.Errorf("%+v, the rest: %v", b, codes(bad))
	}
	if l := bad["c1"]; l.Error == nil || l.Error.Message != "This request could not be executed before the completion window expired." || l.Response != nil {
		t.Errorf("line %+v", l)
	}
	p.closed(b)
	p.work() // finds deliveries of a batch that is over
	p.drained()
	p.ranOnce(0)
}

func TestPauseAndResume(t *testing.T) {
	p := newPlant(t)
	release := p.brake()
	p.schedule()
	p.work()
	const n = 250
	b := p.create(inputOf(n))
	p.running(1)
	_, err := p.batches.Pause(t.Context(), "acme", b.ID)
	ok(t, err)
	p.heldBy(b.ID, batch.Paused) // the dispatcher has heard
	release()
	p.drained()
	if done := p.get(b.ID).Counts.Completed; done == 0 || done == n {
		t.Errorf("%d of %d lines ran", done, n)
	}
	b, err = p.batches.Resume(t.Context(), "acme", b.ID)
	ok(t, err)
	b = p.await(b.ID, batch.Completed)
	if b.Counts.Completed != n || b.Paused {
		t.Errorf("%+v", b)
	}
	p.ranOnce(n)
}

func TestSchedulerRestartsAmidFeeding(t *testing.T) {
	p := newPlant(t)
	release := p.brake()
	stop := p.schedule()
	p.work()
	const n = 1000
	b := p.create(inputOf(n))
	p.running(1)
	stop() // a window is fed, the rest is not
	release()
	p.schedule()
	if b = p.await(b.ID, batch.Completed); b.Counts.Completed != n || len(p.read(b.OutputFile)) != n {
		t.Errorf("counts %+v", b.Counts)
	}
	p.ranOnce(n)
}

func TestRedisIsLostAmidABatch(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	p.work()
	const n = 1000
	b := p.create(inputOf(n))
	p.running(200)
	ok(t, p.s.Redis().FlushAll(t.Context()).Err())
	b = p.await(b.ID, batch.Completed)
	if want := (batch.Counts{Total: n, Completed: n}); b.Counts != want || len(p.read(b.OutputFile)) != n {
		t.Errorf("counts %+v", b.Counts)
	}
}

// TestCountsFromResults: what Redis counts can be derived from RESULTS again.
func TestCountsFromResults(t *testing.T) {
	p := newPlant(t)
	stop := p.schedule()
	p.work()
	const n = 400
	b := p.create(inputOf(n-1) + inputLine(n, "bad", ""))
	p.running(50)
	stop()
	p.drained()
	before := p.get(b.ID)
	ok(t, p.s.Redis().FlushAll(t.Context()).Err())
	_, err := p.s.Replay(t.Context())
	ok(t, err)
	after := p.get(b.ID)
	if before.Counts != after.Counts || before.Usage != after.Usage || before.Counts.Completed == 0 {
		t.Errorf("before %+v %+v, after %+v %+v", before.Counts, before.Usage, after.Counts, after.Usage)
	}
}

func TestIdenticalLinesRunOnce(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	p.work()
	var in strings.Builder
	for i := range 60 {
		in.WriteString(inputLine(i, "same", `,"cache":true`) + "\n")
	}
	for i := range 40 {
		in.WriteString(inputLine(60+i, "hot", "") + "\n") // not cacheable: a sample
	}
	b := p.create(in.String())
	if b = p.await(b.ID, batch.Completed); b.Counts.Completed != 100 || len(p.read(b.OutputFile)) != 100 {
		t.Errorf("counts %+v", b.Counts)
	}
	p.ranOnce(41)
	again := p.await(p.create(inputLine(1, "same", `,"cache":true`)).ID, batch.Completed)
	if l := p.read(again.OutputFile)["c1"]; l.Response == nil || !bytes.Contains(l.Response.Body, []byte("re: same")) {
		t.Errorf("from the cache: %+v", l)
	}
	p.ranOnce(41)
}

func TestFileIsDeletedMeanwhile(t *testing.T) {
	p := newPlant(t)
	b := p.create(inputOf(200))
	ok(t, p.files.Delete(t.Context(), "acme", b.InputFile))
	p.schedule()
	p.work()
	if b = p.await(b.ID, batch.Completed); b.Counts.Completed != 200 {
		t.Errorf("counts %+v", b.Counts)
	}
	p.closed(b)
	if _, err := p.files.Open(t.Context(), b.Input); !errors.Is(err, batch.ErrNotFound) {
		t.Errorf("the bytes are still there: %v", err)
	}
	if _, err := p.batches.Retry(t.Context(), "acme", b.ID, resent.Repeat{}); !errors.Is(err, batch.ErrNothing) {
		t.Errorf("retry: %v", err)
	}
}

func TestRetryOfWhatFailed(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	p.work()
	old := p.create(inputOf(5) + inputLine(6, "bad", "") + "\n" + inputLine(7, "bad", ""))
	old = p.await(old.ID, batch.Completed)
	b, err := p.batches.Retry(t.Context(), "acme", old.ID, resent.Repeat{})
	ok(t, err)
	b = p.await(b.ID, batch.Completed)
	if b.RetryOf != old.ID || b.Counts != (batch.Counts{Total: 2, Failed: 2}) || b.OutputFile != "" {
		t.Errorf("%+v", b)
	}
	if bad := p.read(b.ErrorFile); len(bad) != 2 || bad["c6"].Response == nil {
		t.Errorf("%v", bad)
	}
	ok(t, p.files.Delete(t.Context(), "acme", old.InputFile))
	if _, err := p.batches.Retry(t.Context(), "acme", old.ID, resent.Repeat{}); !errors.Is(err, batch.ErrNotFound) {
		t.Errorf("without its input: %v", err)
	}
}

func TestResultsWhileItRuns(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	p.work()
	b := p.await(p.create(inputOf(30)).ID, batch.Completed)
	seen, after := map[int]bool{}, 0
	for more := true; more; {
		lines, left, err := p.batches.Results(t.Context(), "acme", b.ID, after, 7)
		ok(t, err)
		for _, l := range lines {
			if seen[l.Line] || l.Failed || !json.Valid(l.Raw) || l.Cursor <= after {
				t.Errorf("line %+v", l)
			}
			seen[l.Line], after = true, l.Cursor
		}
		more = left
	}
	if len(seen) != 30 {
		t.Errorf("%d lines", len(seen))
	}
}

func TestUrgentBatchOvertakes(t *testing.T) {
	p := newPlant(t)
	release := p.brake()
	p.schedule()
	p.work()
	slow := p.create(inputOf(1000))
	p.running(1)
	fast := p.create(inputOf(50), func(w *batch.CreateBatch) { w.Priority = 5 })
	p.await(fast.ID, batch.InProgress)
	release()
	p.await(fast.ID, batch.Completed)
	p.await(slow.ID, batch.Completed)
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := p.ran[len(p.ran)-1]; last != slow.ID {
		t.Error("the slow one was over first")
	}
}

// TestHugeLineFailsAlone: one that no message can carry holds up nothing.
func TestHugeLineFailsAlone(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	p.work()
	b := p.create(inputLine(1, strings.Repeat("x", 10<<20), "") + "\n" + inputLine(2, "small", ""))
	b = p.await(b.ID, batch.Completed)
	if want := (batch.Counts{Total: 2, Completed: 1, Failed: 1}); b.Counts != want {
		t.Errorf("counts %+v", b.Counts)
	}
	if l := p.read(b.ErrorFile)["c1"]; l.Response == nil || l.Response.StatusCode != 400 || !bytes.Contains(l.Response.Body, []byte("request_too_large")) {
		t.Errorf("line %.300v", l)
	}
}

// TestOldNewsOfABatch: a record read before a change does not undo it in the view.
func TestOldNewsOfABatch(t *testing.T) {
	p := newPlant(t)
	old := p.create(inputOf(1))
	paused, err := p.batches.Pause(t.Context(), "acme", old.ID)
	ok(t, err)
	r := newBatchRoad(p.batches, testLines{})
	r.see(paused)
	r.see(old)
	if all := r.all(); len(all) != 1 || !all[0].Paused {
		t.Errorf("%+v", all)
	}
}
