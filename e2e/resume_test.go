package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestResume streams long answers while the worker that makes them is killed, and while one drains. Each goes on in the
// next worker where it was: no byte of it is repeated or missing, and what was computed once is not computed again.
func TestResume(t *testing.T) {
	b := &box{data: filepath.Join(shortDir(t), "data")}
	b.process = start(t, "lorry up", built(t, "lorry"), []string{"up", "--data", b.data, "--listen", "127.0.0.1:0", "--workers", "0"}, nil)
	eventually(t, time.Minute, "lorry up listens", b.listening)
	const grace = 2 * time.Second
	first := b.worker(t, 0)
	eventually(t, time.Minute, "a worker is there", b.ready)

	killed := b.tell(t, "one by one", 1)
	killed.seen(t, 150)
	eventually(t, 2*time.Minute, "most of that is written down", func(ctx context.Context) error { return b.saved(ctx, t, killed.job, 110) })
	first.kill() // its lease runs out after half a minute

	second := b.worker(t, grace)
	eventually(t, time.Minute, "the second worker is at work", second.working)
	drained := []*long{b.tell(t, "again", 2), b.tell(t, "and again", 3), b.free(t)}
	for _, a := range drained {
		a.seen(t, 60)
	}
	began := time.Now()
	shown := counts(drained)
	second.stop()
	if took := time.Since(began); took > grace+20*time.Second { // the machine may be busy
		t.Errorf("the second worker drained for %v", took)
	}
	third := b.worker(t, 0) // not before: it may load for as long as the answers take
	for i, a := range drained {
		a.check(t, b, shown[i], 0)
	}
	killed.check(t, b, 0, 110)
	third.stop()
	b.stop()
}

// listening reads where lorry up is, worker or not.
func (b *box) listening(ctx context.Context) error {
	raw, err := os.ReadFile(filepath.Join(b.data, "run", "lorry.json"))
	if err == nil {
		err = json.Unmarshal(raw, &b.run)
	}
	if err == nil && b.run.HTTP == "" {
		err = fmt.Errorf("it does not listen yet")
	}
	if err != nil {
		return err
	}
	return asked(ctx, b.run.HTTP+"/healthz") // the file may be of one that was killed
}

// worker joins one to the box. A grace of 0 is the program's own.
func (b *box) worker(t *testing.T, grace time.Duration) *process {
	args := []string{"worker", "--data", b.data, "--log-format", "json"}
	if grace > 0 {
		args = append(args, "--grace", grace.String())
	}
	return start(t, "lorry worker", built(t, "lorry"), args, nil)
}

// saved says how much of an answer another worker would find, if that is less than so many tokens.
func (b *box) saved(ctx context.Context, t *testing.T, job string, least int) error {
	var kept struct {
		Resume struct{ Choices []struct{ Tokens []int32 } }
	}
	raw, err := b.redis(t).Get(ctx, "{default}:resume:"+job).Bytes()
	if err == nil {
		err = json.Unmarshal(raw, &kept)
	}
	if err != nil {
		return err
	}
	if c := kept.Resume.Choices; len(c) == 0 || len(c[0].Tokens) < least {
		return fmt.Errorf("saved is %.100s", raw)
	}
	return nil
}

// working says that a worker pulls.
func (p *process) working(context.Context) error {
	if p.ended() || !strings.Contains(p.said.String(), "worker takes work") {
		return fmt.Errorf("it does not say so: %v", p.err)
	}
	return nil
}

// long is a streamed answer under way.
type long struct {
	want string // "" where the model is free
	job  string
	done chan error

	mu     sync.Mutex
	text   strings.Builder
	pieces int
}

// tell asks for an answer of some 500 tokens of which a grammar holds each byte, so that rounding does not matter.
func (b *box) tell(t *testing.T, how string, from int) *long {
	var list []string
	for i := range 120 {
		list = append(list, fmt.Sprint(from+i))
	}
	want := strings.Join(list, ", ") + "."
	return b.ask(t, want, map[string]any{"prompt": "Count, " + how + ": ", "grammar": `root ::= "` + want + `"`, "max_tokens": 2000})
}

// free asks for an answer that only the model's own.
func (b *box) free(t *testing.T) *long {
	return b.ask(t, "", map[string]any{"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": true})
}

func (b *box) ask(t *testing.T, want string, body map[string]any) *long {
	t.Helper()
	body["model"], body["temperature"], body["stream"] = "smollm2", 0, true
	payload, _ := json.Marshal(body) // strings and numbers
	req, err := http.NewRequestWithContext(t.Context(), "POST", b.run.HTTP+"/v1/completions", bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Lorry-Cache", "bypass")
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	a := &long{want: want, job: r.Header.Get("X-Lorry-Job"), done: make(chan error, 1)}
	go func() {
		defer r.Body.Close()
		a.done <- a.read(bufio.NewScanner(r.Body))
	}()
	return a
}

// read takes events until the end mark.
func (a *long) read(s *bufio.Scanner) error {
	for s.Scan() {
		data, ok := strings.CutPrefix(s.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return nil
		}
		var chunk struct {
			Error   json.RawMessage
			Choices []struct{ Text string }
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil || chunk.Error != nil {
			return fmt.Errorf("event %s: %w", data, err)
		}
		a.mu.Lock()
		for _, c := range chunk.Choices {
			a.text.WriteString(c.Text)
		}
		a.pieces++
		a.mu.Unlock()
	}
	return fmt.Errorf("the stream broke off: %w", s.Err())
}

func (a *long) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pieces
}

func counts(as []*long) (n []int) {
	for _, a := range as {
		n = append(n, a.count())
	}
	return n
}

// seen waits until so many pieces have come.
func (a *long) seen(t *testing.T, n int) {
	t.Helper()
	eventually(t, 2*time.Minute, fmt.Sprint(n, " pieces"), func(context.Context) error {
		select {
		case err := <-a.done:
			a.done <- err
			t.Fatalf("it ended after %d pieces: %v", a.count(), err)
		default:
		}
		if got := a.count(); got < n {
			return fmt.Errorf("%d have come", got)
		}
		return nil
	})
}

// check waits for the answer's end. The last worker must have gone on after at least resumed tokens.
func (a *long) check(t *testing.T, b *box, shown, least int) {
	t.Helper()
	select {
	case err := <-a.done:
		if err != nil {
			t.Fatalf("%s: %v", a.job, err)
		}
	case <-time.After(8 * time.Minute): // some 2,000 tokens on one slow core
		t.Fatalf("%s does not end", a.job)
	}
	var v struct {
		Completion struct {
			Choices []struct{ Text string }
			Usage   struct {
				CompletionTokens int `json:"completion_tokens"`
				ResumedTokens    int `json:"resumed_tokens"`
			}
		}
	}
	raw, err := b.redis(t).HGet(t.Context(), "{default}:job:"+a.job, "verdict").Bytes()
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	if err != nil || len(v.Completion.Choices) != 1 {
		t.Fatalf("%s: verdict %s: %v", a.job, raw, err)
	}
	got := a.text.String()
	if got != v.Completion.Choices[0].Text || a.want != "" && got != a.want {
		t.Errorf("%s: streamed %q\nverdict %q\nwant %q", a.job, got, v.Completion.Choices[0].Text, a.want)
	}
	u := v.Completion.Usage
	t.Logf("%s: %d tokens, %d of them by earlier workers", a.job, u.CompletionTokens, u.ResumedTokens)
	if u.ResumedTokens < max(shown, least) {
		t.Errorf("%s: the last worker went on after %d of %d tokens, where %d pieces had been shown", a.job, u.ResumedTokens, u.CompletionTokens, max(shown, least))
	}
}
