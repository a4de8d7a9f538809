package scheduler

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"lorry/batch"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/result"
	"lorry/result/resulttest"
)

// officer is a scheduler with connections of its own, which can be killed.
type officer struct {
	name  string
	gate  *gate
	nats  *nats.Conn
	redis *redis.Client
	stop  func()
}

// shortLease lets others take over before a test is over.
const shortLease = 3 * time.Second

// officer starts one beside others.
func (p *plant) officer(name string) *officer {
	o := &officer{name: name, gate: &gate{Store: p.gate.Store}, nats: queuetest.Connect(p.t, p.nats), redis: resulttest.Client(p.t, p.socket)}
	q := queuetest.New(p.t, queue.Config{Conn: o.nats})
	s := resulttest.New(p.t, result.Config{Queue: q, Redis: o.redis})
	files := batch.NewFiles(batch.FilesConfig{JS: q.JS(), Blobs: o.gate, Log: zerolog.Nop()})
	batches := batch.NewBatches(batch.BatchesConfig{Queue: q, Results: s, Files: files, Log: zerolog.Nop()})
	sc, err := New(Config{Queue: q, Results: s, Files: files, Batches: batches, Lines: testLines{}, Instance: name, Log: zerolog.Nop()})
	ok(p.t, err)
	sc.leaseTTL = shortLease
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = sc.Run(ctx) }()
	o.stop = func() { cancel(); <-done }
	p.t.Cleanup(o.stop)
	return o
}

// kill cuts its connections before it can say goodbye: its leases stand.
func (o *officer) kill() {
	o.nats.Close()
	_ = o.redis.Close()
	o.stop()
}

// holder is who holds a lease now.
func (p *plant) holder(name string) (who string) {
	p.t.Helper()
	eventually(p.t, "somebody holds "+name, func() bool {
		kv, err := p.q.JS().KeyValue(p.t.Context(), leaseBucket)
		if err != nil {
			return false
		}
		e, err := kv.Get(p.t.Context(), name)
		if err == nil {
			who = string(e.Value())
		}
		return err == nil
	})
	return who
}

// TestSchedulersDie: of three, one is killed amid feeding and one amid finalizing. Every line runs once, and each batch has
// its files once.
func TestSchedulersDie(t *testing.T) {
	p := newPlant(t)
	release := p.brake()
	p.work()
	alive := map[string]*officer{}
	for i := range 3 {
		o := p.officer(fmt.Sprint("officer", i))
		alive[o.name] = o
	}
	const n = 1500
	a, b := p.create(inputOf(n)), p.create(inputOf(n-1)+inputLine(n, "bad", ""))
	p.await(a.ID, batch.InProgress)
	p.await(b.ID, batch.InProgress)
	p.running(1)
	feeder := p.holder("dispatch." + testBase)
	alive[feeder].kill()
	delete(alive, feeder)
	if c := p.get(a.ID).Counts.Completed + p.get(b.ID).Counts.Completed; c > 0 {
		t.Errorf("%d lines had ended", c)
	}
	var opens []func()
	for _, o := range alive {
		opens = append(opens, o.gate.close())
	}
	release()
	var finisher *officer
	eventually(t, "a batch's files are being written", func() bool {
		for _, o := range alive {
			if o.gate.waits() {
				finisher = o
			}
		}
		return finisher != nil
	})
	finisher.kill()
	delete(alive, finisher.name)
	for _, open := range opens {
		open()
	}
	for want, x := range map[batch.Counts]batch.Batch{{Total: n, Completed: n}: a, {Total: n, Completed: n - 1, Failed: 1}: b} {
		x = p.await(x.ID, batch.Completed)
		if x.Counts != want || len(p.read(x.OutputFile)) != want.Completed || len(p.read(x.ErrorFile)) != want.Failed {
			t.Errorf("counts %+v, %d and %d lines in files", x.Counts, len(p.read(x.OutputFile)), len(p.read(x.ErrorFile)))
		}
	}
	p.closed(a)
	p.closed(b)
	p.ranOnce(2*n - 1)
	files, _, err := p.files.List(t.Context(), "acme", batch.FileFilter{Limit: 10, Purpose: batch.PurposeOutput})
	ok(t, err)
	if len(files) != 3 {
		t.Errorf("%d files of results", len(files))
	}
}
