package scheduler

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"lorry/batch"
	"lorry/blob"
	"lorry/engine"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/result"
	"lorry/result/resulttest"
)

// plant is all that batches run on, over real servers, but a worker that the test plays.
type plant struct {
	t       *testing.T
	q       *queue.Queue
	s       *result.Store
	files   *batch.Files
	batches *batch.Batches
	// runs counts runs of each job; hold, unless nil, is waited on before each answer.
	mu   sync.Mutex
	runs map[string]int
	hold chan struct{}
	n    atomic.Int64
}

func newPlant(t *testing.T) *plant {
	q := queuetest.New(t, queue.Config{})
	p := &plant{t: t, q: q, s: resulttest.New(t, result.Config{Queue: q}), runs: map[string]int{}}
	ok(t, q.SetupBase(t.Context(), testBase))
	blobs, err := blob.OpenDir(blob.DirConfig{Dir: t.TempDir(), MinFree: 1})
	ok(t, err)
	t.Cleanup(func() { _ = blobs.Close() })
	p.files = batch.NewFiles(batch.FilesConfig{JS: q.JS(), Blobs: blobs, Log: zerolog.Nop()})
	p.batches = batch.NewBatches(batch.BatchesConfig{Queue: q, Results: p.s, Files: p.files, Log: zerolog.Nop()})
	ok(t, p.files.Setup(t.Context()))
	ok(t, p.batches.Setup(t.Context()))
	return p
}

// testLines read {"model": "m", "prompt": …, "cache": …}; the prompt "bad" is refused.
type testLines struct{}

func (testLines) Resolve(_ context.Context, model string) (engine.Model, error) {
	if model != "m" {
		return engine.Model{}, engine.Errorf(engine.NotFound, engine.CodeModelNotFound, "model", "no model %s", model)
	}
	return engine.Model{Name: model, Base: testBase}, nil
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
	s, err := New(Config{Queue: p.q, Results: p.s, Files: p.files, Batches: p.batches, Lines: testLines{}, Log: zerolog.New(zerolog.NewTestWriter(p.t)).Level(zerolog.WarnLevel)})
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
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
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
		if l, there := out[id]; there && (l.Response == nil || l.Response.StatusCode != 200 || l.Error != nil || !bytes.Contains(l.Response.Body, []byte("re: "))) {
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
