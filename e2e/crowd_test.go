package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// crowd sends jobs of every kind at once, and afterwards holds the books against what it was told.
type crowd struct {
	*client
	model string
	hooks *hooks
	// finished counts jobs that got their answer.
	finished atomic.Int64

	mu sync.Mutex
	// durable are the jobs that were promised to outlive everything, with their kind.
	durable map[string]string
}

func newCrowd(c *client, model string, h *hooks) *crowd {
	return &crowd{client: c, model: model, hooks: h, durable: map[string]string{}}
}

// kinds are the ways to ask. Each returns when its job is over, with an error if the contract was broken.
var kinds = []struct {
	name string
	ask  func(c *crowd, ctx context.Context, i int) error
}{
	{"waited", (*crowd).waited},
	{"streamed", (*crowd).streamed},
	{"hooked", (*crowd).hooked},
	{"flex", (*crowd).flex},
	{"keyed", (*crowd).keyed},
}

// run sends n jobs, at most width at a time, and returns what went wrong.
func (c *crowd) run(ctx context.Context, n, width int) error {
	var all sync.WaitGroup
	errs := make([]error, n)
	slots := make(chan struct{}, width)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			kind := kinds[i%len(kinds)]
			if err := kind.ask(c, ctx, i); err != nil {
				errs[i] = fmt.Errorf("job %d (%s): %w", i, kind.name, err)
				return
			}
			c.finished.Add(1)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// chat is a request whose answer is worth 6 to 13 tokens of work.
func (c *crowd) chat(i int, more map[string]any) map[string]any {
	body := map[string]any{
		"model": c.model, "max_tokens": 6 + i%8, "seed": i,
		"messages": []map[string]string{{"role": "user", "content": fmt.Sprintf("Say something about the number %d.", i)}},
	}
	maps.Copy(body, more)
	return body
}

func (c *crowd) waited(ctx context.Context, i int) error {
	a, err := c.do(ctx, "POST", "/v1/chat/completions", c.chat(i, nil))
	if err != nil {
		return err
	}
	return completion(a.status, a.body)
}

func (c *crowd) streamed(ctx context.Context, i int) error {
	a, err := c.do(ctx, "POST", "/v1/chat/completions", c.chat(i, map[string]any{"stream": true}))
	if err != nil {
		return err
	}
	if a.status != http.StatusOK || len(a.body) == 0 {
		return fmt.Errorf("stream: %d %q", a.status, a.body)
	}
	return nil
}

// hooked is asynchronous, and announced.
func (c *crowd) hooked(ctx context.Context, i int) error {
	id, err := c.submit(ctx, i, "/v1/chat/completions", c.chat(i, map[string]any{"lorry": map[string]any{"webhook": c.hooks.wish()}}))
	if err != nil {
		return err
	}
	c.promise(id, "hooked")
	return c.outcome(ctx, id)
}

// flex is asynchronous, of the older endpoint, in a lane of its own choice.
func (c *crowd) flex(ctx context.Context, i int) error {
	body := map[string]any{"model": c.model, "prompt": fmt.Sprintf("Number %d is", i), "max_tokens": 6, "lorry": map[string]any{"lane": "flex"}}
	id, err := c.submit(ctx, i, "/v1/completions", body)
	if err != nil {
		return err
	}
	c.promise(id, "flex")
	return c.outcome(ctx, id)
}

// keyed is waited for under an idempotency key: asked again, it is the same job with the same answer.
func (c *crowd) keyed(ctx context.Context, i int) error {
	key := fmt.Sprintf("key-%d", i)
	first, err := c.do(ctx, "POST", "/v1/chat/completions", c.chat(i, nil), "Idempotency-Key", key)
	if err != nil {
		return err
	}
	if err := completion(first.status, first.body); err != nil {
		return err
	}
	c.promise(first.header.Get("x-lorry-job"), "keyed")
	second, err := c.do(ctx, "POST", "/v1/chat/completions", c.chat(i, nil), "Idempotency-Key", key)
	if err != nil {
		return err
	}
	if got, want := second.header.Get("x-lorry-job"), first.header.Get("x-lorry-job"); got != want {
		return fmt.Errorf("the same key named %s, then %s", want, got)
	}
	return same(first.body, second.body)
}

// submit gets a job accepted. The key makes a repeat after a lost 202 the same job.
func (c *crowd) submit(ctx context.Context, i int, path string, body map[string]any) (string, error) {
	a, err := c.do(ctx, "POST", path, body, "Prefer", "respond-async", "Idempotency-Key", fmt.Sprintf("async-%d", i))
	if err != nil {
		return "", err
	}
	var j job
	if a.status != http.StatusAccepted {
		return "", fmt.Errorf("%s: %d %s", path, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &j); err != nil {
		return "", err
	}
	if at := a.header.Get("Location"); at != "/v1/jobs/"+j.ID {
		return "", fmt.Errorf("job %s has the location %q", j.ID, at)
	}
	return j.ID, nil
}

// outcome waits for a job's end; an answer once shown must not change.
func (c *crowd) outcome(ctx context.Context, id string) error {
	first, err := c.finish(ctx, id)
	if err != nil {
		return err
	}
	if first.Status != "succeeded" || first.Response == nil {
		return fmt.Errorf("%s %s: %s", id, first.Status, first.Error)
	}
	if err := completion(first.Response.StatusCode, first.Response.Body); err != nil {
		return err
	}
	second, err := c.job(ctx, id)
	if err != nil {
		return err
	}
	if second.Response == nil {
		return fmt.Errorf("%s lost its response: it is %s", id, second.Status)
	}
	return same(first.Response.Body, second.Response.Body)
}

func (c *crowd) promise(id, kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.durable[id] = kind
}

// promised are the durable jobs of a kind, or of any.
func (c *crowd) promised(kind string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id, k := range c.durable {
		if kind == "" || kind == k {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// completion checks that a body is a finished answer, of a chat or of a completion.
func completion(status int, body []byte) error {
	var a struct {
		Choices []struct {
			Text         string
			Message      struct{ Content string }
			FinishReason string `json:"finish_reason"`
		}
		Usage struct {
			CompletionTokens int `json:"completion_tokens"`
		}
	}
	if status != http.StatusOK {
		return fmt.Errorf("answered %d: %s", status, body)
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return fmt.Errorf("answer %q: %w", body, err)
	}
	if len(a.Choices) != 1 || a.Choices[0].FinishReason == "" || a.Usage.CompletionTokens == 0 {
		return fmt.Errorf("answer is incomplete: %s", body)
	}
	if c := a.Choices[0]; c.Text+c.Message.Content == "" && c.FinishReason != "stop" { // a model may end at once
		return fmt.Errorf("answer is empty: %s", body)
	}
	return nil
}

// same compares two bodies as JSON values.
func same(a, b []byte) error {
	var x, y bytes.Buffer
	if json.Compact(&x, a) != nil || json.Compact(&y, b) != nil || !bytes.Equal(x.Bytes(), y.Bytes()) {
		return fmt.Errorf("two answers for one job:\n%s\n%s", a, b)
	}
	return nil
}

// books holds what the program keeps against what it promised: every durable job listed once and succeeded, with one
// record in RESULTS and one webhook event, and nothing left in any queue.
func (c *crowd) books(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	listed, err := c.jobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, j := range listed {
		if before, twice := seen[j.ID]; twice {
			t.Errorf("%s is listed twice: %s, %s", j.ID, before, j.Status)
		}
		if seen[j.ID] = j.Status; !j.over() {
			t.Errorf("%s is still %s when all is over", j.ID, j.Status)
		}
	}
	records := subjects(t, js, "RESULTS", "results.single.>")
	for _, id := range c.promised("") {
		if seen[id] != "succeeded" {
			t.Errorf("%s was promised and is listed as %q", id, seen[id])
		}
		if n := records[id]; n != 1 {
			t.Errorf("%s has %d records in RESULTS", id, n)
		}
	}
	c.hooks.check(t, c.promised("hooked"))
	for _, stream := range []string{"BACKLOG", "JOBS", "OUTBOX", "LATER", "DEAD"} {
		eventually(t, 30*time.Second, stream+" is empty", func(ctx context.Context) error { return empty(ctx, js, stream) })
	}
}

// look tells where things stand, for a test that failed: what is in the queues, and what waits for its acknowledgement.
func look(t *testing.T, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for s := range js.ListStreams(ctx).Info() {
		t.Logf("%s: %d messages", s.Config.Name, s.State.Msgs)
		stream, err := js.Stream(ctx, s.Config.Name)
		if err != nil {
			continue
		}
		for c := range stream.ListConsumers(ctx).Info() {
			t.Logf("  %s: %d pending, %d unacknowledged, %d redelivered, %d pulls wait", c.Name, c.NumPending, c.NumAckPending, c.NumRedelivered, c.NumWaiting)
		}
	}
}

// subjects counts a stream's messages by the last token of their subject.
func subjects(t *testing.T, js jetstream.JetStream, stream, filter string) map[string]uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(filter))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for subject, n := range info.State.Subjects {
		counts[subject[strings.LastIndexByte(subject, '.')+1:]] += n
	}
	return counts
}

func empty(ctx context.Context, js jetstream.JetStream, stream string) error {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	if n := s.CachedInfo().State.Msgs; n > 0 {
		return fmt.Errorf("%d messages in it", n)
	}
	return nil
}

// connect is JetStream at a URL, until the test ends.
func connect(t *testing.T, url, token string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, nats.Token(token))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// tally counts by name.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (t *tally) add(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int{}
	}
	t.n[name]++
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprint(t.n)
}
