package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// valkeyFloor is the oldest major version with what our scripts and asynq use.
	valkeyFloor = 7
	// longestSocket is what fits into a socket's address (sun_path, with its end).
	longestSocket = 107
	// valkeyStable is after how long a server that ends is restarted at once again.
	valkeyStable = time.Minute
)

// valkey supervises a Valkey (or Redis) server: started on DIR/redis, reached by a Unix socket, or by a loopback port
// and a password where the socket's path would be too long. It is restarted with backoff, and dies with this process.
type valkey struct {
	exe, dir string
	url      string
	args     []string
	log      logger

	mu sync.Mutex
	// tail are its last lines, for the error of one that does not start.
	tail []string
}

// newValkey finds the program and decides how it is reached; nothing runs yet.
func newValkey(c *Config, log logger) (*valkey, error) {
	exe, err := findValkey(c)
	if err != nil {
		return nil, err
	}
	v := &valkey{exe: exe, dir: filepath.Join(c.Data, "redis"), log: log}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	v.args = []string{"--dir", v.dir, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
		"--daemonize", "no", "--loglevel", "notice", "--logfile", "", "--databases", "16"}
	return v, v.address(runDir(c.Data))
}

// address chooses the socket, or a loopback port and a password.
func (v *valkey) address(dir string) error {
	sock, err := filepath.Abs(filepath.Join(dir, "redis.sock"))
	if err != nil {
		return err
	}
	if len(sock) < longestSocket {
		v.url = (&url.URL{Scheme: "unix", Path: sock}).String()
		v.args = append(v.args, "--port", "0", "--unixsocket", sock, "--unixsocketperm", "700")
		return nil
	}
	port, err := freePort()
	if err != nil {
		return fmt.Errorf("redis: find a free port: %w", err)
	}
	pass := rand.Text()
	v.url = "redis://:" + pass + "@" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	conf := filepath.Join(v.dir, "password.conf") // the command line can be read by every user
	if err := os.WriteFile(conf, []byte("requirepass "+pass+"\n"), 0o600); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	v.args = append([]string{conf}, append(v.args, "--bind", "127.0.0.1", "--port", strconv.Itoa(port))...)
	return nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// findValkey is a server on the PATH that is new enough, else the runtime folder's.
func findValkey(c *Config) (string, error) {
	for _, name := range []string{"valkey-server", "redis-server"} {
		if exe, err := exec.LookPath(name); err == nil && valkeyMajor(exe) >= valkeyFloor {
			return exe, nil
		}
	}
	exe := filepath.Join(c.runtimeDir(), "bin", "valkey-server")
	if _, err := os.Stat(exe); err != nil {
		return "", fmt.Errorf("redis: no valkey-server or redis-server %d or newer on the PATH, nor %s: run `make build`, install one, or name a running one with --redis", valkeyFloor, exe)
	}
	return exe, nil
}

var valkeyVersion = regexp.MustCompile(`\bv=(\d+)\.`)

// valkeyMajor reads "Valkey server v=9.1.2 sha=…"; 0 where the program does not answer so.
func valkeyMajor(exe string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, exe, "--version").Output()
	m := valkeyVersion.FindSubmatch(out)
	if err != nil || m == nil {
		return 0
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// Run starts the server and keeps it running until ctx ends, then stops it and waits for its end. ready is called once,
// when it answers for the first time; a server that ends before that is an error.
func (v *valkey) Run(ctx context.Context, ready func()) error {
	v.removeOrphan(ctx)
	backoff := time.Duration(0)
	for {
		began := time.Now()
		err := v.once(ctx, &ready)
		switch {
		case ctx.Err() != nil:
			return nil
		case ready != nil:
			return fmt.Errorf("redis: %s does not start: %w%s", v.exe, err, v.lastWords())
		case time.Since(began) > valkeyStable:
			backoff = 0
		}
		v.log.Error().Err(err).Dur("restart_in", backoff).Msg("redis ended")
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
		backoff = min(max(2*backoff, 100*time.Millisecond), 10*time.Second)
	}
}

// once runs one server from start to end.
func (v *valkey) once(ctx context.Context, ready *func()) error {
	// The child's death signal is sent when the thread that started it ends: keep that thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(v.exe, v.args...)
	cmd.SysProcAttr = childAttr()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	go v.passLog(ctx, out)
	ended := make(chan struct{})
	go v.attend(ctx, cmd.Process, ended, ready)
	err = cmd.Wait()
	close(ended)
	return cmp.Or(err, errors.New("it ended by itself"))
}

// attend waits until the server answers, calls ready, and ends the server with ctx: politely, so that it flushes, then not.
func (v *valkey) attend(ctx context.Context, p *os.Process, ended <-chan struct{}, ready *func()) {
	if v.answers(ctx, ended) && *ready != nil {
		f := *ready
		*ready = nil
		f()
	}
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = p.Kill()
	}
}

// answers polls until a PING is answered; loading a long AOF may take a while.
func (v *valkey) answers(ctx context.Context, ended <-chan struct{}) bool {
	for !v.ping(ctx) {
		select {
		case <-ended:
			return false
		case <-ctx.Done():
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return true
}

// ping asks once, without a client's patience.
func (v *valkey) ping(ctx context.Context) bool {
	p, err := parseRedis(v.url)
	if err != nil {
		return false
	}
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, p.kind, p.addrs[0])
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	r := bufio.NewReader(conn)
	for _, c := range []struct{ say, want string }{{"AUTH " + p.pass, "+OK"}, {"PING", "+PONG"}} {
		if c.say == "AUTH " {
			continue
		}
		if _, err := io.WriteString(conn, c.say+"\r\n"); err != nil {
			return false
		}
		if got, err := r.ReadString('\n'); err != nil || strings.TrimSpace(got) != c.want {
			return false // as "-LOADING …"
		}
	}
	return true
}

// removeOrphan ends a server that outlived its parent (where the kernel sends no death signal): we hold the folder's lock.
func (v *valkey) removeOrphan(ctx context.Context) {
	p, err := parseRedis(v.url)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err != nil || p.kind != "unix" || !v.ping(ctx) {
		return
	}
	v.log.Warn().Msg("ending a redis that outlived its lorry")
	r := p.client()
	defer r.Close()
	_ = r.Shutdown(ctx).Err()
	for ctx.Err() == nil && v.ping(ctx) {
		time.Sleep(20 * time.Millisecond)
	}
}

// passLog passes the server's log on: its warnings ("#") as ours, the rest, and all of the stop that we asked for, as
// debug.
func (v *valkey) passLog(ctx context.Context, r io.Reader) {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" {
			continue
		}
		v.remember(line)
		_, text, warned := strings.Cut(line, " # ")
		if warned && ctx.Err() == nil && !strings.Contains(text, "overcommit") {
			v.log.Warn().Msg(text)
			continue
		}
		v.log.Debug().Msg(line)
	}
	_, _ = io.Copy(io.Discard, r) // a line too long for the scanner must not block the server
}

func (v *valkey) remember(line string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tail = append(v.tail, line)
	v.tail = v.tail[max(0, len(v.tail)-5):]
}

func (v *valkey) lastWords() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.tail) == 0 {
		return ""
	}
	return ": " + strings.Join(v.tail, "; ")
}
