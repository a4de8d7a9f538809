package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func freeAddr(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// queueJobs is how many jobs one round carries.
const queueJobs = 20_000

// connections submit at the same moment, on both sides.
const connections = 256

// bodyWords make a request of about 600 bytes.
const bodyWords = 100

// BenchmarkQueue: jobs a second of asynchronous echo jobs, from the HTTP request to the last verdict, against raw
// JetStream publish, pull and acknowledge, one message a job, fsynced alike.
func BenchmarkQueue(b *testing.B) {
	b.Logf("fsync median %s", fsyncMedian(b))
	raw := newRaw(b)
	u := startUp(b, "echo", "LORRY_LOG_LEVEL=warn")
	for b.Loop() {
		var ratios, ours, theirs []float64
		for round := range rounds {
			r := raw.round(b)
			l := u.round(b, round)
			b.Logf("round %d: raw JetStream %.0f jobs/s, Lorry %.0f jobs/s, ratio %.2f", round, r, l, l/r)
			ratios, ours, theirs = append(ratios, l/r), append(ours, l), append(theirs, r)
		}
		b.ReportMetric(median(ratios), "lorry/raw")
		b.ReportMetric(median(ours), "lorry-jobs/s")
		b.ReportMetric(median(theirs), "raw-jobs/s")
		b.ReportMetric(0, "ns/op")
	}
}

// round sends jobs from all connections and waits until all have ended.
func (u *up) round(b *testing.B, round int) float64 {
	b.Helper()
	bodies := make([][]byte, queueJobs)
	for i := range bodies {
		bodies[i] = fmt.Appendf(nil, `{"model":"echo","prompt":%q,"max_tokens":4}`, prompt(round*queueJobs+i, bodyWords))
	}
	w := newWires(u.url, connections)
	defer w.close()
	before := u.ended(b)
	start := time.Now()
	err := each(queueJobs, connections, func(i int) error {
		return w.post("/v1/completions", bodies[i], "Prefer", "respond-async")
	})
	if err != nil {
		b.Fatal(err)
	}
	accepted := time.Since(start)
	for u.ended(b)-before < queueJobs {
		time.Sleep(5 * time.Millisecond)
	}
	took := time.Since(start)
	b.Logf("accepted after %s, all ended after %s", accepted.Round(time.Millisecond), took.Round(time.Millisecond))
	return queueJobs / took.Seconds()
}

// ended counts the jobs that the worker has ended, by its metric.
func (u *up) ended(b *testing.B) (n int) {
	r, err := u.client.Get(u.url + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "lorry_worker_jobs_total") {
			x, _ := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			n += int(x)
		}
	}
	return n
}

// raw is JetStream alone: a work queue on disk, synced at every write.
type raw struct {
	js jetstream.JetStream
	c  jetstream.Consumer
}

func newRaw(b *testing.B) *raw {
	dir, err := os.MkdirTemp("", "lorry-bench-raw-")
	if err != nil {
		b.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true})
	if err != nil {
		b.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		b.Fatal("nats-server did not start")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nc.Close(); s.Shutdown(); s.WaitForShutdown(); _ = os.RemoveAll(dir) })
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "RAW", Subjects: []string{"raw"}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.FileStorage}); err != nil {
		b.Fatal(err)
	}
	c, err := js.CreateConsumer(b.Context(), "RAW", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 8192})
	if err != nil {
		b.Fatal(err)
	}
	return &raw{js, c}
}

// round publishes from as many goroutines, each waiting for its acknowledgement as a producer must, while a consumer pulls
// and acknowledges.
func (r *raw) round(b *testing.B) float64 {
	b.Helper()
	body := fmt.Appendf(nil, `{"model":"echo","prompt":%q,"max_tokens":4}`, prompt(1, bodyWords))
	start := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { r.consume(b, queueJobs) })
	if err := each(queueJobs, connections, func(int) error { _, err := r.js.Publish(context.Background(), "raw", body); return err }); err != nil {
		b.Fatal(err)
	}
	wg.Wait()
	return queueJobs / time.Since(start).Seconds()
}

func (r *raw) consume(b *testing.B, n int) {
	var last jetstream.Msg
	for got := 0; got < n; {
		ms, err := r.c.FetchNoWait(64)
		if err != nil {
			b.Error(err)
			return
		}
		before := got
		for m := range ms.Messages() {
			got++
			last = m
			if got < n {
				_ = m.Ack()
			}
		}
		if got == before {
			time.Sleep(time.Millisecond)
		}
	}
	_ = last.DoubleAck(context.Background()) // behind all other acknowledgements
}
