package bench

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rivalJobs is how many jobs one round gives a rival: fewer than Lorry's, since it takes them slower.
const rivalJobs = 3000

// BenchmarkRivals: no-op jobs a second beside what people reach for on one box: Celery with its results kept, on the same
// Valkey synced at every write and at every second, and LitServe with a handler that does nothing, over HTTP and without
// a queue. Lorry's are lines of a batch, synced at every write. `make bench-peers` fetches the rivals and runs it.
func BenchmarkRivals(b *testing.B) {
	venv := os.Getenv("LORRY_RIVALS")
	if venv == "" {
		b.Skip("LORRY_RIVALS names no virtual environment: run make bench-peers")
	}
	u := startUp(b, "echo", "LORRY_LOG_LEVEL=warn")
	always, everysec := startCelery(b, venv, "always"), startCelery(b, venv, "everysec")
	lit := startLitServe(b, venv)
	for b.Loop() {
		var ours, a, e, l []float64
		for round := range batchRounds {
			a, e, l = append(a, always()), append(e, everysec()), append(l, lit(b))
			ours = append(ours, batchLines/u.batch(b, batchFile(round)).completed.Seconds())
			b.Logf("round %d, jobs/s: Lorry %.0f, Celery at fsync always %.0f, every second %.0f, LitServe %.0f", round, ours[round], a[round], e[round], l[round])
		}
		b.ReportMetric(median(ours)/median(a), "lorry/celery-always")
		b.ReportMetric(median(ours)/median(e), "lorry/celery-everysec")
		b.ReportMetric(median(ours)/median(l), "lorry/litserve")
		b.ReportMetric(0, "ns/op")
	}
}

// startCelery starts a Valkey and a worker of two processes, and returns what runs a round.
func startCelery(b *testing.B, venv, fsync string) func() float64 {
	b.Helper()
	url := "redis://" + startValkey(b, fsync) + "/0"
	dir, _ := filepath.Abs("rivals")
	start(b, dir, []string{"RIVAL_REDIS=" + url}, filepath.Join(venv, "bin", "celery"), "-A", "noop", "worker", "-c", "2", "--loglevel", "error",
		"--without-gossip", "--without-mingle", "--without-heartbeat")
	return func() float64 {
		c := exec.Command(filepath.Join(venv, "bin", "python"), "noop.py", url, strconv.Itoa(rivalJobs))
		c.Dir = dir
		out, err := c.Output()
		if err != nil {
			b.Fatalf("celery: %v %s", err, out)
		}
		seconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		if err != nil {
			b.Fatalf("celery said %q", out)
		}
		return rivalJobs / seconds
	}
}

func startValkey(b *testing.B, fsync string) (addr string) {
	b.Helper()
	dir, err := os.MkdirTemp("", "lorry-bench-valkey-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe, _ := filepath.Abs("../runtime/bin/valkey-server")
	addr = freeAddr(b)
	_, port, _ := net.SplitHostPort(addr)
	start(b, dir, nil, exe, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", fsync, "--dir", dir)
	awaitPort(b, addr)
	return addr
}

// startLitServe returns what runs a round over as many connections as Lorry's benchmark uses.
func startLitServe(b *testing.B, venv string) func(*testing.B) float64 {
	b.Helper()
	addr := freeAddr(b)
	_, port, _ := net.SplitHostPort(addr)
	start(b, "rivals", nil, filepath.Join(venv, "bin", "python"), "serve.py", port)
	awaitPort(b, addr)
	body := fmt.Appendf(nil, `{"prompt":%q}`, prompt(1, bodyWords))
	return func(b *testing.B) float64 {
		w := newWires("http://"+addr, connections)
		defer w.close()
		begun := time.Now()
		if err := each(rivalJobs, connections, func(int) error { return w.post("/predict", body) }); err != nil {
			b.Fatal(err)
		}
		return rivalJobs / time.Since(begun).Seconds()
	}
}

// start runs a server until the benchmark's end.
func start(b *testing.B, dir string, env []string, exe string, args ...string) {
	b.Helper()
	c := exec.Command(exe, args...)
	c.Dir, c.Env, c.SysProcAttr = dir, append(os.Environ(), env...), &syscall.SysProcAttr{Setpgid: true}
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
		_ = c.Wait()
		if b.Failed() {
			b.Logf("%s: %s", exe, said.String())
		}
	})
}

func awaitPort(b *testing.B, addr string) {
	b.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return
		}
	}
	b.Fatalf("nothing listens on %s", addr)
}
