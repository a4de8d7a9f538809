package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestFlight: 50 equal requests that may share an answer, half of them waiting and half asynchronous, over two producers
// and two workers, run the engine once. Equal samples are never collapsed.
func TestFlight(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "runs")
	env := map[string]string{"LORRY_ENGINE": "echo", "LORRY_ECHO_DELAY": "100ms", "LORRY_ECHO_JOURNAL": journal}
	b := up(t, env)
	worker := start(t, "lorry worker", built(t, "lorry"), []string{"worker", "--data", b.data}, env)
	second := start(t, "lorry producer", built(t, "lorry"), []string{"producer", "--nats", withToken(b.run.NATS, b.run.Token), "--redis", b.run.Redis,
		"--listen", "127.0.0.1:0", "--log-format", "json"}, nil)
	eventually(t, time.Minute, "the second producer is ready", func(ctx context.Context) error { return ready(ctx, second.at()) })
	urls := []string{b.run.HTTP, second.at()}
	var turn atomic.Int64
	c := &client{urls: func() string { return urls[int(turn.Add(1))%2] }}

	greedy := map[string]any{"model": "echo", "prompt": "one two three four five", "max_tokens": 5, "temperature": 0}
	c.all(t, 50, greedy)
	if n := runs(t, journal); n != 1 {
		t.Errorf("50 equal cacheable requests ran the engine %d times", n)
	}
	sample := map[string]any{"model": "echo", "prompt": "six seven", "max_tokens": 2, "temperature": 1}
	c.all(t, 20, sample)
	if n := runs(t, journal); n != 21 {
		t.Errorf("20 equal samples ran the engine %d times", n-1)
	}
	second.stop()
	worker.stop()
	b.stop()
}

// withToken puts a token into a NATS URL.
func withToken(url, token string) string {
	return strings.Replace(url, "nats://", "nats://"+token+"@", 1)
}

// all sends n equal requests at the same moment, every second one asynchronously, and waits for their answers.
func (c *client) all(t *testing.T, n int, body map[string]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := c.answer(ctx, body, i%2 == 1); err != nil {
				t.Errorf("request %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// answer gets one good answer, by waiting or by way of a job.
func (c *client) answer(ctx context.Context, body map[string]any, async bool) error {
	var header []string
	if async {
		header = []string{"Prefer", "respond-async"}
	}
	a, err := c.do(ctx, "POST", "/v1/completions", body, header...)
	switch {
	case err != nil:
		return err
	case !async && a.status == 200 && strings.Contains(string(a.body), body["prompt"].(string)):
		return nil
	case !async || a.status != 202:
		return fmt.Errorf("%d %s", a.status, a.body)
	}
	j, err := c.finish(ctx, a.header.Get("x-lorry-job"))
	if err == nil && (j.Status != "succeeded" || !strings.Contains(string(j.Response.Body), body["prompt"].(string))) {
		err = fmt.Errorf("job %s: %s", j.ID, j.Status)
	}
	return err
}

// runs counts the lines of the echo engine's journal.
func runs(t *testing.T, journal string) int {
	t.Helper()
	b, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "\n")
}
