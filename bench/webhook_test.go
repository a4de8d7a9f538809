package bench

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// BenchmarkWebhook: from the end of a job to the arrival of its webhook, the receiver up, at twenty jobs a second. The
// job's end is the worker's clock in milliseconds, so each figure may be a millisecond too long.
func BenchmarkWebhook(b *testing.B) {
	const jobs = 400
	arrived := make(chan struct {
		id string
		at time.Time
	}, jobs)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := time.Now()
		var e struct{ Data struct{ ID string } }
		text, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(text, &e)
		arrived <- struct {
			id string
			at time.Time
		}{e.Data.ID, at}
	}))
	defer receiver.Close()
	u := startUp(b, "echo", "LORRY_LOG_LEVEL=warn", "LORRY_WEBHOOK_ALLOW=127.0.0.0/8")
	rdb := u.redis(b)
	for b.Loop() {
		var delays []time.Duration
		var wg sync.WaitGroup
		wg.Go(func() {
			for range jobs {
				select {
				case a := <-arrived:
					delays = append(delays, a.at.Sub(u.endedAt(b, rdb, a.id)))
				case <-time.After(30 * time.Second):
					b.Error("a webhook did not come")
					return
				}
			}
		})
		for i := range jobs {
			if _, err := u.post("/v1/completions", map[string]any{"model": "echo", "prompt": prompt(i, 10), "max_tokens": 4,
				"lorry": map[string]any{"webhook": map[string]any{"url": receiver.URL}}}, "Prefer", "respond-async"); err != nil {
				b.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		wg.Wait()
		if len(delays) > 0 {
			b.ReportMetric(float64(quantile(delays, 0.5).Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(quantile(delays, 0.99).Microseconds())/1000, "p99-ms")
			b.ReportMetric(0, "ns/op")
		}
	}
}

// endedAt is when the job ended, by its verdict in Redis: the API tells seconds.
func (u *up) endedAt(b *testing.B, rdb *redis.Client, id string) time.Time {
	text, err := rdb.HGet(b.Context(), "{default}:job:"+id, "verdict").Bytes()
	if err != nil {
		b.Errorf("job %s: %v", id, err)
		return time.Time{}
	}
	var v struct{ Ended int64 }
	if err := json.Unmarshal(text, &v); err != nil || v.Ended == 0 {
		b.Errorf("job %s: no end: %v", id, err)
	}
	return time.UnixMilli(v.Ended)
}
