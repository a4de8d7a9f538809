package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsd is the embedded NATS server: the same server as everywhere, on a loopback port behind a token.
type natsd struct {
	server *server.Server
	url    string // without the token
	token  string
}

// startNATS starts it on DIR/nats. It takes the port and token of the last run again where it can, so that workers in
// other processes find it after a restart.
func startNATS(c *Config, last runFile, log logger) (*natsd, error) {
	every, _ := c.syncEvery()
	opts := &server.Options{
		ServerName: "lorry", Host: "127.0.0.1", Port: portOf(last.NATS), Authorization: cmp.Or(last.Token, rand.Text()),
		JetStream: true, StoreDir: filepath.Join(c.Data, "nats"), SyncAlways: every == 0, SyncInterval: every,
		MaxPayload: 4 << 20, MaxPending: 256 << 20, NoSigs: true,
	}
	if !free(opts.Port) {
		opts.Port = server.RANDOM_PORT
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("nats: start on %s: %w", opts.StoreDir, err)
	}
	s.SetLoggerV2(natsLog{log}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(time.Minute) || !s.JetStreamEnabled() {
		s.Shutdown()
		return nil, fmt.Errorf("nats: JetStream did not start on %s: see the log above; is the folder writable, and the disk not full?", opts.StoreDir)
	}
	return &natsd{server: s, url: s.ClientURL(), token: opts.Authorization}, nil
}

// stop ends the server and waits until its files are closed.
func (n *natsd) stop() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

func portOf(at string) int {
	u, err := url.Parse(at)
	if err != nil {
		return server.RANDOM_PORT
	}
	p, err := strconv.Atoi(u.Port())
	if err != nil {
		return server.RANDOM_PORT
	}
	return p
}

// free says whether a loopback port can be listened on now.
func free(port int) bool {
	if port <= 0 {
		return true
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// natsLog passes the server's log on; its notices are our debug.
type natsLog struct{ log logger }

func (l natsLog) Noticef(f string, v ...any) { l.log.Debug().Msgf(f, v...) }
func (l natsLog) Warnf(f string, v ...any)   { l.log.Warn().Msgf(f, v...) }
func (l natsLog) Errorf(f string, v ...any)  { l.log.Error().Msgf(f, v...) }
func (l natsLog) Fatalf(f string, v ...any)  { l.log.Error().Msgf(f, v...) }
func (l natsLog) Debugf(f string, v ...any)  {}
func (l natsLog) Tracef(f string, v ...any)  {}

// openNATS connects, and goes on reconnecting for ever. Each part of the process has a connection of its own, so that
// one that reads slowly holds up no other.
func openNATS(ctx context.Context, c *Config, at places, part string, log logger) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("lorry " + part), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, 500*time.Millisecond),
		nats.PingInterval(20 * time.Second), nats.Timeout(5 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn().Err(err).Msg("nats connection lost, reconnecting")
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info().Str("url", nc.ConnectedUrlRedacted()).Msg("nats connection is back") }),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) { log.Warn().Err(err).Msg("nats") }),
	}
	if at.Token != "" {
		opts = append(opts, nats.Token(at.Token))
	}
	if at.inside != nil {
		opts = append(opts, nats.InProcessServer(at.inside))
	}
	if c.NATSCred != "" {
		opts = append(opts, nats.UserCredentials(c.NATSCred))
	}
	if c.NATSCA != "" {
		opts = append(opts, nats.RootCAs(c.NATSCA))
	}
	if c.NATSCert != "" {
		opts = append(opts, nats.ClientCert(c.NATSCert, c.NATSKey))
	}
	var nc *nats.Conn
	err := retry(ctx, connectWait, func(context.Context) (err error) {
		nc, err = nats.Connect(at.NATS, opts...)
		return refusedByNATS(err)
	})
	if err != nil {
		return nil, fmt.Errorf("nats: connect %s: %w (is it running there?)", redactURLs(at.NATS), err)
	}
	return nc, nil
}

// natsFloor is the oldest server that keeps what it acknowledged: dead letters were lost on work queues until 2.12.5,
// pending state leaked until 2.14.1, and authorisation could be bypassed until 2.14.3.
const natsFloor = "2.14.3"

// checkNATS refuses a server that is too old or has no JetStream, and warns when it is known to flush rarely.
func checkNATS(ctx context.Context, nc *nats.Conn, c *Config, log logger) error {
	if v := nc.ConnectedServerVersion(); older(v, natsFloor) {
		return fmt.Errorf("nats: the server at %s is %s: %s or newer is needed (older ones lose messages of work queues)", nc.ConnectedUrlRedacted(), v, natsFloor)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	if _, err := js.AccountInfo(ctx); err != nil {
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, nats.ErrNoResponders) {
			return fmt.Errorf("nats: JetStream is off at %s: start it with -js, or enable it for this account", nc.ConnectedUrlRedacted())
		}
		return fmt.Errorf("nats: ask for the account: %w", err)
	}
	if c.Replicas == 1 && c.NATS != "" {
		warnSync(ctx, nc, log)
	}
	return nil
}

// older compares versions as 2.14.3; an unreadable one counts as new.
func older(v, floor string) bool {
	var a, b [3]int
	if _, err := fmt.Sscanf(strings.TrimPrefix(v, "v"), "%d.%d.%d", &a[0], &a[1], &a[2]); err != nil {
		return false
	}
	_, _ = fmt.Sscanf(floor, "%d.%d.%d", &b[0], &b[1], &b[2])
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// warnSync looks whether a single server flushes at every write: else it loses up to two minutes of accepted jobs in a
// power cut. Only the system account may ask; for others the warning says what to look at.
func warnSync(ctx context.Context, nc *nats.Conn, log logger) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	r, err := nc.RequestWithContext(ctx, "$SYS.REQ.SERVER.PING.JSZ", nil)
	switch {
	case err != nil:
		log.Info().Msg("this account can't see whether nats flushes at every write: a single server needs sync_interval: always in its jetstream block")
	case !strings.Contains(string(r.Data), `"sync_always":true`):
		log.Warn().Msg("nats does not flush at every write: a power cut loses accepted jobs; set sync_interval: always in its jetstream block, or run three servers and --replicas 3")
	}
}

// backlogBytes is the bound of the streams' reserve: half of what is free of a disk too small for the default.
func (c *Config) backlogBytes() (backlog, jobs int64) {
	backlog, jobs = cmp.Or(int64(c.Backlog), 8<<30), 1<<30
	var st syscall.Statfs_t
	if c.NATS != "" || syscall.Statfs(c.Data, &st) != nil {
		return backlog, jobs
	}
	left := int64(min(uint64(math.MaxInt64/2), st.Bavail*uint64(st.Bsize)))
	return min(backlog, left/2), min(jobs, left/16)
}
