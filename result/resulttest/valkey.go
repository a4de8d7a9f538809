// Package resulttest starts a real Valkey or Redis server inside a test.
package resulttest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/rs/zerolog"

	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/result"
)

// Binary is the server that `make runtime` brought: $LORRY_RUNTIME/bin/valkey-server, or that of the nearest runtime
// folder above.
func Binary(t testing.TB) string {
	t.Helper()
	at := []string{os.Getenv("LORRY_RUNTIME")}
	for dir := must(os.Getwd()); ; dir = filepath.Dir(dir) {
		at = append(at, filepath.Join(dir, "runtime"))
		if dir == filepath.Dir(dir) {
			break
		}
	}
	for _, dir := range at {
		if p := filepath.Join(dir, "bin", "valkey-server"); dir != "" && exists(p) {
			return p
		}
	}
	t.Fatal("resulttest: no valkey-server here; run: make runtime")
	return ""
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

// Server starts one on a Unix socket in a folder of its own, and returns the socket. It ends with the test.
func Server(t testing.TB) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lorry") // t.TempDir may be longer than a Unix socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	c := exec.Command(Binary(t), "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", "no")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait(); _ = os.RemoveAll(dir) })
	return socket
}

// Client is connected to a server, once it answers.
func Client(t testing.TB, socket string) *redis.Client {
	t.Helper()
	r := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
	t.Cleanup(func() { _ = r.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for r.Ping(ctx).Err() != nil {
		if ctx.Err() != nil {
			t.Fatal("resulttest: the server did not start")
		}
	}
	return r
}

// New is a store over real servers, its epoch set. A zero c gets servers of its own.
func New(t testing.TB, c result.Config) *result.Store {
	t.Helper()
	if c.Queue == nil {
		c.Queue = queuetest.New(t, queue.Config{})
	}
	if c.Redis == nil {
		c.Redis = Client(t, Server(t))
	}
	c.Log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	s := result.New(c)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}
