package bench

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// BenchmarkCachedAnswer: the median of a cached answer over HTTP against the median of a GET of the same size from the
// same Redis, one at a time, in turn.
func BenchmarkCachedAnswer(b *testing.B) {
	u := startUp(b, "echo", "LORRY_LOG_LEVEL=warn")
	rdb := u.redis(b)
	body := fmt.Appendf(nil, `{"model":"echo","prompt":%q,"max_tokens":64,"temperature":0}`, prompt(1, bodyWords))
	w, err := dialWire(u.url)
	if err != nil {
		b.Fatal(err)
	}
	defer w.conn.Close()
	first, err := w.post("/v1/completions", body)
	if err != nil {
		b.Fatal(err)
	}
	if err := rdb.Set(b.Context(), "bench", first, time.Minute).Err(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var answers, gets []time.Duration
		for range 3000 {
			t := time.Now()
			if _, err := w.post("/v1/completions", body); err != nil {
				b.Fatal(err)
			}
			answers = append(answers, time.Since(t))
			t = time.Now()
			if err := rdb.Get(b.Context(), "bench").Err(); err != nil {
				b.Fatal(err)
			}
			gets = append(gets, time.Since(t))
		}
		a, g := quantile(answers, 0.5), quantile(gets, 0.5)
		b.Logf("cached answer p50 %s p99 %s, Redis GET p50 %s p99 %s", a, quantile(answers, 0.99), g, quantile(gets, 0.99))
		b.ReportMetric(float64(a)/float64(g), "answer/GET")
		b.ReportMetric(float64(a.Microseconds()), "answer-µs")
		b.ReportMetric(float64(g.Microseconds()), "GET-µs")
		b.ReportMetric(0, "ns/op")
	}
}

// redis is a client of the same Redis.
func (u *up) redis(b *testing.B) *redis.Client {
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: filepath.Join(u.dir, "run", "redis.sock"),
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
	b.Cleanup(func() { _ = rdb.Close() })
	return rdb
}
