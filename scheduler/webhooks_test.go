package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"lorry/engine"
	"lorry/queue"
	"lorry/queue/queuetest"
	"lorry/result"
	"lorry/result/resulttest"
	"lorry/webhook"
)

// rig is a scheduler's surroundings: real servers, and a receiver on loopback.
type rig struct {
	t       testing.TB
	q       *queue.Queue
	results *result.Store
	rdb     *redis.Client
	cfg     Config

	mu     sync.Mutex
	got    map[string]int // by event
	last   http.Header
	body   []byte
	answer func(event string, n int) int
	url    string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigAt(t, queuetest.New(t, queue.Config{}))
}

func newRigAt(t testing.TB, q *queue.Queue) *rig {
	t.Helper()
	socket := resulttest.Server(t)
	rdb := resulttest.Client(t, socket)
	r := &rig{t: t, q: q, rdb: rdb, got: map[string]int{}, answer: func(string, int) int { return 200 }}
	r.results = resulttest.New(t, result.Config{Queue: q, Redis: rdb})
	r.cfg = Config{Queue: q, Results: r.results, Redis: asynq.RedisClientOpt{Network: "unix", Addr: socket}, SweepEvery: time.Second,
		WebhookAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)}
	srv := httptest.NewServer(http.HandlerFunc(r.receive))
	t.Cleanup(srv.Close)
	r.url = srv.URL + "/hook"
	return r
}

func (r *rig) receive(w http.ResponseWriter, req *http.Request) {
	b, _ := io.ReadAll(req.Body)
	id := req.Header.Get(webhook.HeaderID)
	r.mu.Lock()
	r.got[id]++
	n := r.got[id]
	r.last, r.body = req.Header.Clone(), b
	answer := r.answer
	r.mu.Unlock()
	w.WriteHeader(answer(id, n))
}

func (r *rig) hits(event string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got[event]
}

// start runs the webhooks' side of a scheduler until the test, or stop, ends it.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	s, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.webhooks(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// verdict is a job that succeeded and wants its end to be told.
func (r *rig) verdict(mods ...func(*result.Verdict)) *result.Verdict {
	now := time.Now().UnixMilli()
	v := &result.Verdict{V: result.V, Job: queue.NewID("job_"), Tenant: "acme", Lane: queue.Flex, State: queue.Succeeded, Endpoint: queue.Chat,
		Model: engine.Model{Name: "echo", Base: strings.Repeat("ab", 32)}, Created: now, Started: now, Ended: now, Attempt: 1,
		Completion: &engine.Completion{Choices: []engine.Choice{{Text: "<hello> & bye", Finish: engine.FinishStop}}, Usage: engine.Usage{PromptTokens: 3, CompletionTokens: 2}},
		Webhook:    &queue.Webhook{URL: r.url}}
	for _, m := range mods {
		m(v)
	}
	return v
}

func (r *rig) settle(vs ...*result.Verdict) {
	r.t.Helper()
	if _, err := r.results.Settle(r.t.Context(), vs...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) outbox() map[string]uint64 {
	r.t.Helper()
	m, err := r.q.Subjects(r.t.Context(), queue.StreamOutbox, "hook.>")
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func TestEndOfAJobIsTold(t *testing.T) {
	r := newRig(t)
	r.start()
	v := r.verdict()
	r.settle(v)
	evt := webhook.EventID(v.Job)
	eventually(t, "the event arrives", func() bool { return r.hits(evt) == 1 })
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
	r.signedBy(r.instanceSecret())
	var e struct {
		ID, Object, Type string
		Data             struct {
			ID, Status string
			Response   struct {
				StatusCode int `json:"status_code"`
				Body       struct {
					Choices []struct{ Message struct{ Content string } }
				}
			}
		}
	}
	if err := json.Unmarshal(r.body, &e); err != nil {
		t.Fatal(err)
	}
	if e.ID != evt || e.Object != "event" || e.Type != "lorry.job.succeeded" || e.Data.ID != v.Job || e.Data.Status != "succeeded" ||
		e.Data.Response.StatusCode != 200 || e.Data.Response.Body.Choices[0].Message.Content != "<hello> & bye" {
		t.Errorf("%s", r.body)
	}
	a := r.attempts("acme")
	if len(a) != 1 || a[0].Result != "delivered" || a[0].Event != evt || a[0].Status != 200 || strings.Contains(a[0].Target, "/hook") {
		t.Errorf("attempts: %+v", a)
	}
}

func (r *rig) instanceSecret() string {
	r.t.Helper()
	s, err := webhook.NewSecrets(webhook.SecretsConfig{JS: r.q.JS(), Sealer: r.cfg.Sealer}).InstanceSecret(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) signedBy(secret string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := webhook.Verify(secret, r.last.Get(webhook.HeaderID), r.last.Get(webhook.HeaderTimestamp), r.last.Get(webhook.HeaderSignature), r.body, time.Now()); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) attempts(tenant string) []webhook.Attempt {
	r.t.Helper()
	out, err := webhook.NewLog(r.rdb).Attempts(r.t.Context(), tenant, "")
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func TestOwnSecretSigns(t *testing.T) {
	r := newRig(t)
	sealer, err := webhook.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	r.cfg.Sealer = sealer
	r.start()
	secret := webhook.NewSecret()
	v := r.verdict(func(v *result.Verdict) { v.Webhook.Secret = sealer.Seal(webhook.TenantContext("acme"), secret) })
	r.settle(v)
	eventually(t, "the event arrives", func() bool { return r.hits(webhook.EventID(v.Job)) == 1 })
	r.signedBy(secret)
}

func TestOnlyWhoAskedIsTold(t *testing.T) {
	r := newRig(t)
	r.start()
	var vs []*result.Verdict
	for i := range 50 {
		vs = append(vs, r.verdict(func(v *result.Verdict) {
			if i%5 != 0 {
				v.Webhook = nil
				v.Metadata = map[string]string{"note": `"webhook":`, "webhook": "no"}
			}
		}))
	}
	r.settle(vs...)
	all, err := r.q.JS().Stream(t.Context(), queue.StreamResults)
	ok(t, err)
	eventually(t, "all verdicts are read", func() bool { // a consumer counts what is pending a moment late, so not by that
		c, err := r.q.JS().Consumer(t.Context(), queue.StreamResults, queue.DurableAnnounce)
		return err == nil && c.CachedInfo().AckFloor.Stream == all.CachedInfo().State.LastSeq
	})
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
	for i, v := range vs {
		want := 0
		if i%5 == 0 {
			want = 1
		}
		if got := r.hits(webhook.EventID(v.Job)); got != want {
			t.Errorf("verdict %d: told %d times, want %d", i, got, want)
		}
	}
}

func TestTwoSchedulersTellOnce(t *testing.T) {
	r := newRig(t)
	r.start()
	r.start()
	var vs []*result.Verdict
	for range 300 {
		vs = append(vs, r.verdict())
	}
	r.settle(vs...)
	eventually(t, "all are told", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.got) == len(vs) })
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
	for _, v := range vs {
		if n := r.hits(webhook.EventID(v.Job)); n != 1 {
			t.Errorf("%s was told %d times", v.Job, n)
		}
	}
}

func TestFailureIsTriedAgainByAsynq(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.answer = func(_ string, n int) int {
		if n == 1 {
			return 503
		}
		return 204
	}
	r.start()
	v := r.verdict()
	r.settle(v)
	evt := webhook.EventID(v.Job)
	eventually(t, "the second attempt arrives, 5 seconds behind the first", func() bool { return r.hits(evt) == 2 })
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
	a := r.attempts("acme")
	if len(a) != 2 || a[1].Result != "failed" || a[1].NextIn < 4 || a[0].Result != "delivered" || a[0].Attempt != 2 {
		t.Errorf("attempts: %+v", a)
	}
}

// announceOnly puts verdicts' events into OUTBOX, and asynq's tasks into Redis, and delivers none.
func (r *rig) announceOnly(t *testing.T, vs ...*result.Verdict) {
	r.t.Helper()
	h := (&Scheduler{cfg: r.cfg}).newHooks(newLater(r.rdb, r.cfg.Log))
	defer h.sender.Close()
	a := &announcer{q: r.q, later: newLater(r.rdb, r.cfg.Log), book: webhook.NewBook(h.endpoints), log: r.cfg.Log}
	if err := errors.Join(a.setup(r.t.Context()), h.secrets.Setup(r.t.Context())); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.run(ctx) }()
	r.settle(vs...)
	eventually(t, "the events are in the outbox", func() bool { return len(r.outbox()) == len(vs) })
	for _, v := range vs {
		eventually(t, "asynq knows the event", func() bool {
			return r.rdb.Exists(r.t.Context(), taskKey(hooksQueue, webhook.EventID(v.Job))).Val() == 1
		})
	}
	cancel()
	<-done
}

func TestFlushedRedisLosesNoEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	vs := []*result.Verdict{r.verdict(), r.verdict(), r.verdict()}
	r.announceOnly(t, vs...)
	if err := r.rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
	for _, v := range vs {
		if n := r.hits(webhook.EventID(v.Job)); n != 1 {
			t.Errorf("%s was told %d times", v.Job, n)
		}
	}
}

func TestFlushUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.answer = func(_ string, n int) int {
		if n == 1 {
			return 500
		}
		return 200
	}
	r.start()
	v := r.verdict()
	r.settle(v)
	evt := webhook.EventID(v.Job)
	eventually(t, "the first attempt failed", func() bool { return len(r.attempts("acme")) == 1 })
	if err := r.rdb.FlushAll(t.Context()).Err(); err != nil { // with the retry in it
		t.Fatal(err)
	}
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
	if n := r.hits(evt); n != 2 {
		t.Errorf("told %d times, want 2", n)
	}
	queues, err := r.rdb.SMembers(t.Context(), "asynq:queues").Result()
	if slices.Sort(queues); err != nil || !slices.Equal(queues, []string{sweepQueue, hooksQueue}) {
		t.Errorf("asynq's dashboard shows the queues %v, %v", queues, err)
	}
}

// An active task without a lease is what asynq never looks at again (hibiken/asynq#1144).
func TestStuckTaskIsFreed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.verdict()
	r.announceOnly(t, v)
	evt := webhook.EventID(v.Job)
	ctx := t.Context()
	_, err := r.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.LRem(ctx, queueKey(hooksQueue, "pending"), 0, evt)
		p.LPush(ctx, queueKey(hooksQueue, "active"), evt)
		p.HSet(ctx, taskKey(hooksQueue, evt), "state", "active")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "the event arrives", func() bool { return r.hits(evt) == 1 })
	eventually(t, "no task is left", func() bool { return r.rdb.LLen(ctx, queueKey(hooksQueue, "active")).Val() == 0 })
}

// box is the handler alone, with an event in OUTBOX.
func (r *rig) box(mods ...func(*webhook.Outgoing)) (h *hooks, o webhook.Outgoing, payload []byte) {
	r.t.Helper()
	s := &Scheduler{cfg: r.cfg}
	h = s.newHooks(newLater(r.rdb, r.cfg.Log))
	r.t.Cleanup(h.sender.Close)
	if err := h.secrets.Setup(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	out, err := fact{job: r.verdict()}.outgoing(nil, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	o = out[0]
	for _, m := range mods {
		m(&o)
	}
	if _, err := r.q.JS().PublishMsg(r.t.Context(), outboxMsg(&o)); err != nil {
		r.t.Fatal(err)
	}
	payload, _ = json.Marshal(hookTask{1, o.Tenant, o.ID})
	return h, o, payload
}

func TestWhatAnAttemptMeans(t *testing.T) {
	long := func(o *webhook.Outgoing) { o.Created = time.Now().Add(-webhook.GiveUp - time.Minute).UnixMilli() }
	for name, c := range map[string]struct {
		status, failed int
		mod            func(*webhook.Outgoing)
		result         string
		over           bool
		min, max       time.Duration // of the wait
	}{
		"delivered":       {status: 200, result: "delivered", over: true},
		"gone":            {status: 410, result: "gone", over: true},
		"first failure":   {status: 500, result: "failed", min: 4 * time.Second, max: 6 * time.Second},
		"fourth failure":  {status: 302, failed: 3, result: "failed", min: 9 * time.Minute, max: 11 * time.Minute},
		"given up":        {status: 500, failed: 30, mod: long, result: "given up", over: true},
		"delivered late":  {status: 200, failed: 30, mod: long, result: "delivered", over: true},
		"refused":         {mod: func(o *webhook.Outgoing) { o.URL = "http://169.254.169.254/" }, result: "refused", min: 4 * time.Second, max: 6 * time.Second},
		"unopened secret": {mod: func(o *webhook.Outgoing) { o.Secret = "sealed:v1:AAAA" }, result: "broken", min: 4 * time.Second, max: 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.answer = func(string, int) int { return c.status }
			mods := []func(*webhook.Outgoing){}
			if c.mod != nil {
				mods = append(mods, c.mod)
			}
			h, _, payload := r.box(mods...)
			err := h.deliver(t.Context(), payload, c.failed)
			a, waits := errors.AsType[*again](err)
			if waits == c.over || waits && (a.quiet || a.after < c.min || a.after > c.max) || err != nil && !waits {
				t.Errorf("got %#v", err)
			}
			if left := len(r.outbox()); (left == 0) != c.over {
				t.Errorf("%d events in the outbox", left)
			}
			if got := r.attempts("acme"); len(got) != 1 || got[0].Result != c.result || (got[0].NextIn > 0) == c.over {
				t.Errorf("attempts: %+v", got)
			}
			if c.over && h.deliver(t.Context(), payload, 0) != nil {
				t.Error("a second run found something to do")
			}
		})
	}
}

func TestDeliveredButNotRemovedIsNotSentAgain(t *testing.T) {
	r := newRig(t)
	h, o, payload := r.box()
	h.sent.Store(o.ID, nil) // as when NATS went away just behind the attempt
	if err := h.deliver(t.Context(), payload, 0); err != nil {
		t.Fatal(err)
	}
	if n := r.hits(o.ID); n != 0 || len(r.outbox()) != 0 {
		t.Errorf("sent %d times, %d in the outbox", n, len(r.outbox()))
	}
}

func TestDeleteIsWithoutEffectTheSecondTime(t *testing.T) {
	r := newRig(t)
	h, o, _ := r.box()
	m, ok, err := r.q.Last(t.Context(), queue.StreamOutbox, queue.HookSubject(o.Tenant, o.ID))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	for range 2 {
		if err := h.delete(t.Context(), m); err != nil {
			t.Error(err)
		}
	}
}

func TestAnnouncingTwiceStandsOnce(t *testing.T) {
	r := newRig(t)
	_, o, _ := r.box()
	behind := outboxMsg(&o)
	behind.Header.Set(jetstream.MsgIDHeader, "behind the duplicate window")
	_, errs := r.q.PublishAll(t.Context(), []*nats.Msg{outboxMsg(&o), behind})
	for _, err := range errs {
		if !errors.Is(err, queue.ErrExists) {
			t.Errorf("got %v", err)
		}
	}
	if got := r.outbox()[queue.HookSubject(o.Tenant, o.ID)]; got != 1 {
		t.Errorf("%d messages", got)
	}
}

// Exactly one of many replicas does what is to be done each period.
func TestPeriodicTasksRunOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var mu sync.Mutex
	begun := time.Now().Truncate(time.Second)
	runs, ctx := 0, t.Context()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range 3 {
		l := newLater(r.rdb, r.cfg.Log)
		l.tasks["tick"] = func(context.Context, []byte, int) error { mu.Lock(); defer mu.Unlock(); runs++; return nil }
		wg.Go(func() { l.every(ctx, time.Second, "tick") })
		wg.Go(func() { _ = l.run(ctx) })
	}
	eventually(t, "three runs", func() bool { mu.Lock(); defer mu.Unlock(); return runs >= 3 })
	cancel()
	wg.Wait()
	if slots := int(time.Since(begun)/time.Second) + 2; runs > slots {
		t.Errorf("%d runs in %d periods", runs, slots)
	}
}

func TestDrainFinishesWhatIsUnderWay(t *testing.T) {
	r := newRig(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	r.answer = func(string, int) int { close(arrived); <-release; return 200 }
	stop := r.start()
	v := r.verdict()
	r.settle(v)
	<-arrived
	ended := make(chan struct{})
	go func() { defer close(ended); stop() }()
	select {
	case <-ended:
		t.Fatal("the scheduler left an attempt behind")
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	<-ended
	if len(r.outbox()) != 0 || r.hits(webhook.EventID(v.Job)) != 1 {
		t.Errorf("outbox %v, %d hits", r.outbox(), r.hits(webhook.EventID(v.Job)))
	}
}

func TestHosts(t *testing.T) {
	var hs hosts
	var releases []func(webhook.Outcome)
	take := func(n int) (got int) {
		for range n {
			if release, wait := hs.enter("a"); release != nil {
				releases = append(releases, release)
				got++
			} else if wait <= 0 {
				t.Error("no wait")
			}
		}
		return got
	}
	if got := take(concurrency); got != hostShare {
		t.Errorf("a healthy receiver holds %d places", got)
	}
	if release, _ := hs.enter("b"); release == nil {
		t.Error("another receiver gets none")
	}
	for _, release := range releases {
		release(webhook.Outcome{Kind: webhook.Retry}) // no answer
	}
	releases = nil
	if got := take(10); got != ailingShare {
		t.Errorf("an ailing receiver holds %d places", got)
	}
	releases[0](webhook.Outcome{Kind: webhook.Delivered, Status: 200})
	if got := take(10); got != 9 && got != 10 {
		t.Errorf("a receiver that is well again gets %d places", got)
	}
	for i := range manyHosts + 10 {
		release, _ := hs.enter(fmt.Sprint(i))
		release(webhook.Outcome{})
	}
	if len(hs.m) > manyHosts {
		t.Errorf("%d receivers are remembered", len(hs.m))
	}
}

func TestFateOf(t *testing.T) {
	for name, c := range map[string]struct {
		state string
		lease error
		want  fate
	}{
		"unknown": {"", redis.Nil, lost}, "pending": {"pending", redis.Nil, kept}, "retry": {"retry", redis.Nil, kept}, "scheduled": {"scheduled", redis.Nil, kept},
		"archived by hand": {"archived", redis.Nil, kept}, "done, kept by mistake": {"completed", redis.Nil, lost},
		"running": {"active", nil, kept}, "stuck": {"active", redis.Nil, stuck},
	} {
		if got := fateOf(c.state, c.lease); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// NATS that ends and comes back, with its folder, interrupts and loses nothing.
func TestNATSRestart(t *testing.T) {
	dir := t.TempDir()
	srv := queuetest.ServerAt(t, dir, -1)
	port := srv.Addr().(*net.TCPAddr).Port
	r := newRigAt(t, queuetest.New(t, queue.Config{Conn: queuetest.Connect(t, srv), Timeout: 2 * time.Second}))
	r.start()
	before := r.verdict()
	r.settle(before)
	eventually(t, "the first event arrives", func() bool { return r.hits(webhook.EventID(before.Job)) == 1 })
	srv.Shutdown()
	srv.WaitForShutdown()
	queuetest.ServerAt(t, dir, port)
	behind := r.verdict()
	eventually(t, "the second verdict is committed", func() bool { _, err := r.results.Settle(t.Context(), behind); return err == nil })
	eventually(t, "the second event arrives", func() bool { return r.hits(webhook.EventID(behind.Job)) == 1 })
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
}

// freeze stops Redis until wake: it takes connections, and answers nothing.
func (r *rig) freeze() (wake func()) {
	r.t.Helper()
	info, err := r.rdb.InfoMap(r.t.Context(), "server").Result()
	ok(r.t, err)
	pid, err := strconv.Atoi(info["Server"]["process_id"])
	ok(r.t, err)
	ok(r.t, syscall.Kill(pid, syscall.SIGSTOP))
	wake = sync.OnceFunc(func() { ok(r.t, syscall.Kill(pid, syscall.SIGCONT)) })
	r.t.Cleanup(wake)
	return wake
}

// Redis that does not answer delays events; none is lost, and none waits for ever.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	warm := r.verdict()
	r.settle(warm)
	eventually(t, "the first event is over", func() bool { return r.hits(webhook.EventID(warm.Job)) == 1 && len(r.outbox()) == 0 })
	wake := r.freeze()
	v := r.verdict()
	m := nats.NewMsg(queue.ResultSubject(&queue.Job{ID: v.Job, Tenant: v.Tenant}))
	m.Data = v.Encode()
	if _, errs := r.q.PublishAll(t.Context(), []*nats.Msg{m}); errs[0] != nil {
		t.Fatal(errs[0])
	}
	eventually(t, "the event is in the outbox all the same", func() bool { return len(r.outbox()) == 1 })
	wake()
	eventually(t, "the event arrives", func() bool { return r.hits(webhook.EventID(v.Job)) == 1 })
	eventually(t, "the outbox is empty", func() bool { return len(r.outbox()) == 0 })
}

// The role as a whole, with a verdict of the past to tell of.
func TestRunTellsAndEnds(t *testing.T) {
	r := newRig(t)
	v := r.verdict()
	r.settle(v)
	s, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	eventually(t, "the event arrives", func() bool { return r.hits(webhook.EventID(v.Job)) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
