// Package bench measures Lorry against what it is made of, as ratios inside one run: absolute numbers of a shared
// machine mean little. `make bench` runs it, alone on the machine; the README quotes it.
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// rounds of each side, in turn; medians are reported.
const rounds = 5

// up is a running `lorry up`.
type up struct {
	url, dir string
	cmd      *exec.Cmd
	client   *http.Client
	stop     func()
}

// startUp starts one on a folder of its own and waits until it is ready.
func startUp(b *testing.B, engine string, env ...string) *up {
	b.Helper()
	exe, err := filepath.Abs("../lorry")
	if err != nil {
		b.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "lorry-bench-")
	if err != nil {
		b.Fatal(err)
	}
	addr := freeAddr(b)
	u := &up{url: "http://" + addr, dir: dir, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512, MaxConnsPerHost: 512}}}
	u.cmd = exec.Command(exe, "up", "--data", dir, "--listen", addr, "--engine", engine)
	u.cmd.Env = append(os.Environ(), env...)
	var said bytes.Buffer
	u.cmd.Stdout, u.cmd.Stderr = &said, &said
	if err := u.cmd.Start(); err != nil {
		b.Fatalf("%v; run: make build", err)
	}
	u.stop = sync.OnceFunc(func() {
		_ = u.cmd.Process.Signal(syscall.SIGTERM)
		_ = u.cmd.Wait()
		_ = os.RemoveAll(dir)
		if b.Failed() {
			b.Log(said.String())
		}
	})
	b.Cleanup(u.stop)
	waitReady(b, u)
	return u
}

func waitReady(b *testing.B, u *up) {
	b.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r, err := u.client.Get(u.url + "/readyz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			b.Fatal("lorry up is not ready after a minute")
		}
	}
}

// post sends one request and returns the answer's body.
func (u *up) post(path string, body any, header ...string) ([]byte, error) {
	var buf []byte
	switch x := body.(type) {
	case []byte:
		buf = x
	default:
		buf, _ = json.Marshal(x)
	}
	req, err := http.NewRequest("POST", u.url+path, bytes.NewReader(buf))
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	r, err := u.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	out, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode/100 != 2 {
		err = fmt.Errorf("POST %s: %d %s", path, r.StatusCode, out)
	}
	return out, err
}

// each runs f for 0 to n-1 on workers goroutines, and returns the first error.
func each(n, workers int, f func(int) error) error {
	var wg sync.WaitGroup
	next := make(chan int)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	for range workers {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

func median[T ~float64 | ~int64](xs []T) T {
	s := slices.Clone(xs)
	slices.Sort(s)
	return s[len(s)/2]
}

// quantile of durations, 0 to 1.
func quantile(ds []time.Duration, q float64) time.Duration {
	s := slices.Clone(ds)
	slices.Sort(s)
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// fsyncMedian is what one synced write of 700 bytes costs where data lives.
func fsyncMedian(b *testing.B) time.Duration {
	f, err := os.CreateTemp("", "fsync")
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var ds []time.Duration
	for range 200 {
		t := time.Now()
		_, _ = f.Write(make([]byte, 700))
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		ds = append(ds, time.Since(t))
	}
	return quantile(ds, 0.5)
}

// prompt of about n words, different for each i.
func prompt(i, n int) string {
	words := strings.Fields("the quick brown fox jumps over the lazy dog while a small team of engineers measures how long each step of the road takes")
	var sb strings.Builder
	fmt.Fprintf(&sb, "Case %d:", i)
	for k := range n {
		sb.WriteString(" " + words[(i*7+k)%len(words)])
	}
	return sb.String()
}
