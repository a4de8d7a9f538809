package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// redisPlace is a parsed Redis URL: a server, a Unix socket, sentinels, or a cluster.
type redisPlace struct {
	kind       string // "tcp", "unix", "sentinel", "cluster"
	addrs      []string
	user, pass string
	// sentinelPass is for the sentinels themselves.
	sentinelPass, master string
	db                   int
	tls                  *tls.Config
}

// parseRedis reads what the help of --redis lists. net/url refuses lists of hosts, so they are taken out first.
func parseRedis(s string) (*redisPlace, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return nil, fmt.Errorf("redis: %q is no URL, as redis://127.0.0.1:6379", redactURLs(s))
	}
	end := len(rest)
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		end = i
	}
	at := strings.LastIndex(rest[:end], "@") + 1
	hosts := rest[at:end]
	u, err := url.Parse("x://" + rest[:at] + "hosts" + rest[end:])
	if err != nil {
		return nil, errors.New("redis: the URL can't be read: escape special characters of the password with %XX")
	}
	p := &redisPlace{user: u.User.Username()}
	p.pass, _ = u.User.Password()
	return p, p.shape(scheme, hosts, u)
}

// shape fills in what depends on the scheme.
func (p *redisPlace) shape(scheme, hosts string, u *url.URL) (err error) {
	q := u.Query()
	switch scheme {
	case "unix", "redis-socket":
		p.kind, p.addrs = "unix", []string{u.Path}
		if hosts != "" || len(u.Path) < 2 {
			return errors.New("redis: write a socket as unix:///path/to/socket")
		}
		p.db, err = dbOf(q.Get("db"))
		return err
	case "redis", "rediss":
		p.kind = "tcp"
	case "redis-sentinel", "rediss-sentinel":
		p.kind, p.master, p.sentinelPass = "sentinel", q.Get("master"), q.Get("sentinel_password")
		if p.master == "" {
			return errors.New("redis: name the sentinels' master, as redis-sentinel://h1,h2/0?master=mymaster")
		}
	case "redis-cluster", "rediss-cluster":
		p.kind = "cluster"
	default:
		return fmt.Errorf("redis: %s:// is none of redis, rediss, unix, redis-sentinel and redis-cluster", scheme)
	}
	port := "6379"
	if p.kind == "sentinel" {
		port = "26379"
	}
	if p.addrs, err = hostList(hosts, port); err != nil {
		return err
	}
	if len(p.addrs) > 1 && p.kind == "tcp" {
		p.kind = "cluster"
	}
	if strings.HasPrefix(scheme, "rediss") {
		p.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	p.db, err = dbOf(strings.Trim(u.Path, "/"))
	if err == nil && p.db != 0 && p.kind == "cluster" {
		return errors.New("redis: a cluster has database 0 alone")
	}
	return err
}

func dbOf(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("redis: database %q is no number", s)
	}
	return n, nil
}

func hostList(s, port string) (out []string, err error) {
	for h := range strings.SplitSeq(s, ",") {
		if h == "" {
			return nil, errors.New("redis: the URL names no host, as redis://127.0.0.1:6379")
		}
		if _, _, err := net.SplitHostPort(h); err != nil {
			h = net.JoinHostPort(strings.Trim(h, "[]"), port)
		}
		out = append(out, h)
	}
	return out, nil
}

// secure adds the files of c to the place's TLS, if it has TLS.
func (p *redisPlace) secure(c *Config) error {
	if p.tls == nil {
		if c.RedisCA != "" || c.RedisCert != "" {
			return errors.New("redis: certificates are set, but the URL is no rediss://")
		}
		return nil
	}
	if c.RedisCA != "" {
		pem, err := os.ReadFile(c.RedisCA)
		if err != nil {
			return fmt.Errorf("redis_ca: %w", err)
		}
		p.tls.RootCAs = x509.NewCertPool()
		if !p.tls.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("redis_ca: no certificate in %s", c.RedisCA)
		}
	}
	if c.RedisCert == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.RedisCert, c.RedisKey)
	if err != nil {
		return fmt.Errorf("redis_cert: %w", err)
	}
	p.tls.Certificates = []tls.Certificate{pair}
	return nil
}

// client makes a client; nothing is dialled yet. Maintenance notifications are noise on Valkey and Redis before 8.
func (p *redisPlace) client() redis.UniversalClient {
	off := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	switch p.kind {
	case "sentinel":
		return redis.NewFailoverClient(&redis.FailoverOptions{MasterName: p.master, SentinelAddrs: p.addrs, SentinelPassword: p.sentinelPass,
			Username: p.user, Password: p.pass, DB: p.db, TLSConfig: p.tls})
	case "cluster":
		return redis.NewClusterClient(&redis.ClusterOptions{Addrs: p.addrs, Username: p.user, Password: p.pass, TLSConfig: p.tls, MaintNotificationsConfig: off})
	}
	return redis.NewClient(&redis.Options{Network: p.kind, Addr: p.addrs[0], Username: p.user, Password: p.pass, DB: p.db, TLSConfig: p.tls, MaintNotificationsConfig: off})
}

// asynq is the same place in asynq's words.
func (p *redisPlace) asynq() asynq.RedisConnOpt {
	switch p.kind {
	case "sentinel":
		return asynq.RedisFailoverClientOpt{MasterName: p.master, SentinelAddrs: p.addrs, SentinelPassword: p.sentinelPass,
			Username: p.user, Password: p.pass, DB: p.db, TLSConfig: p.tls}
	case "cluster":
		return asynq.RedisClusterClientOpt{Addrs: p.addrs, Username: p.user, Password: p.pass, TLSConfig: p.tls}
	}
	return asynq.RedisClientOpt{Network: p.kind, Addr: p.addrs[0], Username: p.user, Password: p.pass, DB: p.db, TLSConfig: p.tls}
}

var redisVersion = regexp.MustCompile(`(?m)^(?:valkey_version|redis_version):(\d+)\.`)

// checkRedis refuses a server that is too old. One that hides its version counts as new.
func checkRedis(ctx context.Context, r redis.UniversalClient) error {
	info, err := r.Info(ctx, "server").Result()
	m := redisVersion.FindStringSubmatch(info)
	if err != nil || m == nil {
		return nil
	}
	if n, _ := strconv.Atoi(m[1]); n < valkeyFloor {
		return fmt.Errorf("the server is of version %d: Redis or Valkey %d or newer is needed", n, valkeyFloor)
	}
	return nil
}

// connectWait is how long a start waits for servers that are just starting too.
const connectWait = 15 * time.Second

// openRedis connects and checks that writes are refused, not evicted, when memory ends.
func openRedis(ctx context.Context, c *Config, at string, log logger) (*redisPlace, redis.UniversalClient, error) {
	p, err := parseRedis(at)
	if err != nil {
		return nil, nil, err
	}
	if err := p.secure(c); err != nil {
		return nil, nil, err
	}
	r := p.client()
	err = retry(ctx, connectWait, func(ctx context.Context) error { return refusedByRedis(r.Ping(ctx).Err()) })
	if err != nil {
		_ = r.Close()
		return nil, nil, fmt.Errorf("redis: connect %s: %w (is it running there?)", redactURLs(at), err)
	}
	if err := checkRedis(ctx, r); err != nil {
		_ = r.Close()
		return nil, nil, fmt.Errorf("redis: %s: %w", redactURLs(at), err)
	}
	if v, err := r.ConfigGet(ctx, "maxmemory-policy").Result(); err == nil && v["maxmemory-policy"] != "noeviction" && v["maxmemory-policy"] != "" {
		log.Warn().Str("maxmemory_policy", v["maxmemory-policy"]).Msg("redis may evict jobs: set maxmemory-policy noeviction")
	}
	return p, r, nil
}

// retry calls f every quarter of a second until it succeeds, fails for good (see final), the wait is over, or ctx ends.
func retry(ctx context.Context, wait time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if e, ok := errors.AsType[final](err); ok {
			return e.error
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
	}
}

// final is an error that waiting does not cure.
type final struct{ error }

// refusedByRedis marks what a server has answered, as a wrong password: only one that loads its data is worth a wait.
func refusedByRedis(err error) error {
	if e, ok := errors.AsType[redis.Error](err); ok && !strings.HasPrefix(e.Error(), "LOADING") && !errors.Is(err, redis.Nil) {
		return final{err}
	}
	return err
}

// refusedByNATS marks all but a server that is not there yet.
func refusedByNATS(err error) error {
	_, network := errors.AsType[net.Error](err)
	if err == nil || network || errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) {
		return err
	}
	return final{err}
}
