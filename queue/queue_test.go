package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"lorry/engine"
	"lorry/queue"
	"lorry/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const base = "0123456789ab"

func job(id string) *queue.Job {
	return &queue.Job{V: queue.V, ID: id, Tenant: "acme", Lane: queue.Flex, Created: 1, Request: engine.Request{Model: engine.Model{Base: base}}}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSubmitManyAtOnce(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			if err := q.Submit(t.Context(), job(fmt.Sprint("job_", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ms, more, err := q.Read(t.Context(), queue.StreamBacklog, ">", 1, 1000)
	if err != nil || more {
		t.Fatalf("%d messages, more %v, %v", len(ms), more, err)
	}
	found := map[string]bool{}
	for _, m := range ms {
		for data := range queue.Bundled(m.Data) {
			j, err := queue.DecodeJob(data)
			ok(t, err)
			found[j.ID] = true
		}
	}
	d, err := q.Depths(t.Context())
	ok(t, err)
	want := []queue.BacklogDepth{{Lane: queue.Flex, Base: base, Tenant: "acme", Jobs: 500}}
	if diff := cmp.Diff(want, d.Backlog); diff != "" || len(found) != 500 {
		t.Errorf("%d jobs found, depths: %s", len(found), diff)
	}
}

// TestSubmitToManyPlaces: what is submitted at once for several tenants and lanes stays apart.
func TestSubmitToManyPlaces(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			j := job(fmt.Sprint("job_", i))
			j.Tenant, j.Lane = fmt.Sprint("t", i%20), queue.Lanes[1+i%2]
			if err := q.Submit(t.Context(), j); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ms, _, err := q.Read(t.Context(), queue.StreamBacklog, ">", 1, 1000)
	ok(t, err)
	n := 0
	for _, m := range ms {
		p, jobs, known := queue.ParsePlace(m.Subject)
		for data := range queue.Bundled(m.Data) {
			j, err := queue.DecodeJob(data)
			ok(t, err)
			if !known || j.Tenant != p.Tenant || j.Lane != p.Lane {
				t.Errorf("%s holds a job of %s in %s", m.Subject, j.Tenant, j.Lane)
			}
			n, jobs = n+1, jobs-1
		}
		if jobs != 0 {
			t.Errorf("%s holds %d jobs less than it says", m.Subject, jobs)
		}
	}
	if n != 300 {
		t.Errorf("%d jobs", n)
	}
}

func TestSubmitTwiceIsOnce(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	for range 2 {
		ok(t, q.Submit(t.Context(), job("job_same")))
	}
	ms, _, err := q.Read(t.Context(), queue.StreamBacklog, ">", 1, 10)
	if err != nil || len(ms) != 1 {
		t.Errorf("%d messages, %v", len(ms), err)
	}
}

func TestFullBacklogSaysSo(t *testing.T) {
	q := queuetest.New(t, queue.Config{BacklogBytes: 2000})
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = q.Submit(t.Context(), job(fmt.Sprint("job_", i)))
	}
	if !errors.Is(err, queue.ErrFull) {
		t.Errorf("a full stream: %v", err)
	}
}

func TestServerAway(t *testing.T) {
	s := queuetest.Server(t)
	q := queuetest.New(t, queue.Config{Conn: queuetest.Connect(t, s), Timeout: 300 * time.Millisecond})
	s.Shutdown()
	s.WaitForShutdown()
	if err := q.Submit(t.Context(), job("job_1")); !errors.Is(err, queue.ErrAway) {
		t.Errorf("submit: %v", err)
	}
	if _, _, err := q.Last(t.Context(), queue.StreamResults, "results.x"); !errors.Is(err, queue.ErrAway) {
		t.Errorf("get: %v", err)
	}
}

func results(n int, mods ...func(i int, m *nats.Msg)) []*nats.Msg {
	ms := make([]*nats.Msg, n)
	for i := range ms {
		ms[i] = nats.NewMsg(fmt.Sprint("results.single.acme.job_", i))
		ms[i].Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
		for _, f := range mods {
			f(i, ms[i])
		}
	}
	return ms
}

// TestPublishAll: small and large groups, conflicts inside, every message with its own answer, in order.
func TestPublishAll(t *testing.T) {
	for _, n := range []int{1, 5, 11, 12, 300, 2500} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			q := queuetest.New(t, queue.Config{})
			taken := n / 2
			_, errs := q.PublishAll(t.Context(), results(n)[taken:taken+1])
			ok(t, errs[0])
			seqs, errs := q.PublishAll(t.Context(), results(n))
			last := uint64(0)
			for i := range n {
				if i == taken {
					if !errors.Is(errs[i], queue.ErrExists) {
						t.Fatalf("%d: the first one stands, got %v", i, errs[i])
					}
					continue
				}
				if errs[i] != nil || seqs[i] <= last {
					t.Fatalf("%d: sequence %d after %d, %v", i, seqs[i], last, errs[i])
				}
				last = seqs[i]
			}
		})
	}
}

func TestRetryIsMovedByTheServer(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	j := job("job_later")
	ok(t, q.RetryAt(t.Context(), j, time.Now().Add(time.Hour)))
	ok(t, q.RetryAt(t.Context(), j, time.Now().Add(200*time.Millisecond))) // replaces the first
	subject := queue.DueSubject(queue.Flex, base, "acme")
	var ms []queue.Stored
	for end := time.Now().Add(10 * time.Second); len(ms) == 0 && time.Now().Before(end); {
		ms, _, _ = q.Read(t.Context(), queue.StreamLater, subject, 1, 10)
	}
	if len(ms) != 1 {
		t.Fatalf("%d retries are due", len(ms))
	}
	got, err := queue.DecodeJob(ms[0].Data)
	if err != nil || got.ID != j.ID {
		t.Errorf("%+v %v", got, err)
	}
	d, err := q.Depths(t.Context())
	ok(t, err)
	if d.Later != 0 || len(d.Backlog) != 1 || d.Backlog[0].Jobs != 1 {
		t.Errorf("depths %+v", d)
	}
}

func TestLeases(t *testing.T) {
	q := queuetest.New(t, queue.Config{AckWait: 3 * time.Second}) // for which no machine stalls
	ok(t, q.SetupBase(t.Context(), base))
	_, errs := q.Feed(t.Context(), queue.Flex, base, queue.Pack([][]byte{job("job_1").Encode()}, 0))
	ok(t, errs[0])
	p := q.Puller(queue.Flex, base)
	first := pull(t, p)
	ok(t, first.Return())
	second := pull(t, p)
	if second.Seq != first.Seq || second.Deliveries != 2 {
		t.Errorf("handed back: sequence %d and %d, delivery %d", first.Seq, second.Seq, second.Deliveries)
	}
	third := pull(t, p) // after the lease ran out
	if third.Deliveries != 3 {
		t.Errorf("delivery %d", third.Deliveries)
	}
	ok(t, third.Ack())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for ready, held := 1, 1; ready+held > 0; {
		var err error
		ready, held, err = p.Pending(ctx)
		ok(t, err)
	}
}

func pull(t *testing.T, p *queue.Puller) *queue.Lease {
	t.Helper()
	for range 5 {
		ls, err := p.Pull(t.Context(), 1, 2*time.Second)
		ok(t, err)
		if len(ls) == 1 {
			return ls[0]
		}
	}
	t.Fatal("nothing came")
	return nil
}

func TestBases(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	ok(t, q.SetupBase(t.Context(), base))
	ok(t, q.SetupBase(t.Context(), base)) // twice is once
	bs, err := q.Bases(t.Context())
	if err != nil || len(bs) != 1 || bs[0] != base {
		t.Errorf("%v %v", bs, err)
	}
	ok(t, q.DropBase(t.Context(), base))
	ok(t, q.DropBase(t.Context(), base))
	if bs, err := q.Bases(t.Context()); err != nil || len(bs) != 0 {
		t.Errorf("dropped: %v %v", bs, err)
	}
}

// TestWeights finds a model and an adapter wherever an accepted job may be, until the job has ended.
func TestWeights(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	ok(t, q.SetupBase(t.Context(), base))
	with := func(adapter string) *queue.Job {
		j := job("job_" + adapter)
		j.Request.Model.Adapter = adapter
		return j
	}
	ok(t, q.Submit(t.Context(), with("waits")))
	ok(t, q.Submit(t.Context(), job("job_plain")))
	ok(t, q.RetryAt(t.Context(), with("later"), time.Now().Add(time.Hour)))
	_, errs := q.Feed(t.Context(), queue.Flex, base, queue.Pack([][]byte{with("runs").Encode(), with("runs-too").Encode()}, 0))
	ok(t, errs[0])
	running := pull(t, q.Puller(queue.Flex, base))
	got, err := q.Weights(t.Context())
	if diff := cmp.Diff(map[string]bool{base: true, "waits": true, "later": true, "runs": true, "runs-too": true}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	ok(t, running.Ack())
	for end := time.Now().Add(2 * time.Minute); got["runs"]; got, err = q.Weights(t.Context()) {
		ok(t, err)
		if time.Now().After(end) {
			t.Fatal("jobs that have ended hold their adapter")
		}
	}
}

func TestWeightsOfAJobThatCannotBeRead(t *testing.T) {
	q := queuetest.New(t, queue.Config{})
	j := job("job_newer")
	j.V = queue.V + 1
	ok(t, q.Submit(t.Context(), j))
	if got, err := q.Weights(t.Context()); err == nil {
		t.Errorf("got %v: it may need any", got)
	}
}
