package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// box is a `lorry up` on a folder of its own, as its run file describes it.
type box struct {
	*process
	data string
	run  struct{ NATS, Token, Redis, HTTP string }
}

// up starts one and waits until work is accepted and a worker is there.
func up(t *testing.T, env map[string]string, args ...string) *box {
	t.Helper()
	b := &box{data: filepath.Join(shortDir(t), "data")}
	args = append([]string{"up", "--data", b.data, "--listen", "127.0.0.1:0", "--log-format", "json"}, args...)
	b.process = start(t, "lorry up", built(t, "lorry"), args, env)
	eventually(t, time.Minute, "lorry up is ready", b.ready)
	return b
}

func (b *box) ready(ctx context.Context) error {
	if b.ended() {
		return fmt.Errorf("it ended: %v", b.err)
	}
	raw, err := os.ReadFile(filepath.Join(b.data, "run", "lorry.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &b.run); err != nil || b.run.HTTP == "" {
		return fmt.Errorf("run file %s: %w", raw, err)
	}
	return ready(ctx, b.run.HTTP)
}

// ready asks /readyz.
func ready(ctx context.Context, at string) error { return asked(ctx, at+"/readyz") }

// asked says nothing when a GET is answered with 200.
func asked(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d", url, r.StatusCode)
	}
	return nil
}

func (b *box) client() *client { return &client{urls: func() string { return b.run.HTTP }} }

// redis is a client of the box's.
func (b *box) redis(t *testing.T) *redis.Client {
	t.Helper()
	u, err := url.Parse(b.run.Redis)
	if err != nil {
		t.Fatal(err)
	}
	r := redis.NewClient(&redis.Options{Network: "unix", Addr: u.Path,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// TestFaults sends 200 jobs of mixed kinds through the real program on a real model, and half-way kills an engine, kills
// a worker and empties Redis. Every job must be finished, once.
func TestFaults(t *testing.T) {
	b := up(t, map[string]string{"LORRY_WEBHOOK_ALLOW": "127.0.0.0/8"})
	second := start(t, "lorry worker", built(t, "lorry"), []string{"worker", "--data", b.data, "--log-format", "json"}, nil)
	c := newCrowd(b.client(), "smollm2", newHooks(t))
	faults := make(chan struct{})
	go func() { defer close(faults); c.faults(t, b, second) }()

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	js := connect(t, b.run.NATS, b.run.Token)
	if err := c.run(ctx, 200, 16); err != nil {
		look(t, js)
		t.Fatal(err)
	}
	<-faults
	c.books(t, js)
	t.Logf("asked again: %s", &c.again)
	b.stop()
}

// faults strikes when a part of the jobs is through.
func (c *crowd) faults(t *testing.T, b *box, second *process) {
	c.at(t, 50)
	for _, pid := range b.children("lorry-engine") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("kill engine %d: %v", pid, err)
		}
	}
	c.at(t, 80)
	second.kill()
	c.at(t, 110)
	if err := b.redis(t).FlushAll(t.Context()).Err(); err != nil { // as a failover to an empty replica does
		t.Errorf("FLUSHALL: %v", err)
	}
}

// at waits until n jobs are finished.
func (c *crowd) at(t *testing.T, n int64) {
	for c.finished.Load() < n && t.Context().Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
}
