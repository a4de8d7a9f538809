package scheduler

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"lorry/access"
	"lorry/batch"
	"lorry/engine"
	"lorry/queue"
)

func TestPace(t *testing.T) {
	var p pace
	for i := range 3 * paceWindow {
		p.tick(t0.Add(time.Duration(i) * time.Second))
		if l, _ := p.rate(); i == 0 && l != 0 {
			t.Errorf("a rate of %g from one mark", l)
		}
		n := 4
		if i < paceWindow { // that was another time
			n = 100
		}
		for range n {
			p.add(10)
		}
	}
	if l, tok := p.rate(); l != 4 || tok != 40 {
		t.Errorf("%g lines and %g tokens a second", l, tok)
	}
}

// alive tells the fleet of a worker with slots, until the test ends.
func (p *plant) alive() {
	b, err := json.Marshal(queue.Heartbeat{V: queue.V, Worker: "w", At: time.Now(), Bases: []string{testBase}, Slots: 8})
	ok(p.t, err)
	ok(p.t, p.q.Conn().Publish(queue.FleetSubject("w"), b))
}

// heldBy waits until a batch is held back by something.
func (p *plant) heldBy(id string, want batch.Hold, meanwhile ...func()) {
	p.t.Helper()
	var got batch.Hold
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, f := range meanwhile {
			f()
		}
		pr, err := p.batches.Progress(p.t.Context(), "acme", id)
		ok(p.t, err)
		if got = pr.HeldBackBy; got == want {
			return
		}
	}
	p.t.Errorf("held back by %q, want %q", got, want)
}

func TestHeldBack(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	b := p.create(inputOf(100))
	p.await(b.ID, batch.InProgress)
	p.heldBy(b.ID, batch.NoWorker)
	flex := flexJob("other", "job_flex")
	ok(t, p.q.Submit(t.Context(), flex))
	p.heldBy(b.ID, batch.LaneShare, p.alive)
	var ls []*queue.Lease
	eventually(t, "the other lane's job is delivered", func() bool {
		ls, _ = p.q.Puller(queue.Flex, testBase).Pull(t.Context(), 1, time.Second)
		return len(ls) == 1
	})
	ok(t, ls[0].Ack())
	p.heldBy(b.ID, "", p.alive)
	_, err := p.batches.Pause(t.Context(), "acme", b.ID)
	ok(t, err)
	p.heldBy(b.ID, batch.Paused, p.alive)
}

func TestHeldBackByBackoff(t *testing.T) {
	p := newPlant(t)
	p.schedule()
	b := p.create(inputOf(1))
	var ls []*queue.Lease
	eventually(t, "the line is fed", func() (come bool) {
		ls, _ = p.q.Puller(queue.Batch, testBase).Pull(t.Context(), 1, 100*time.Millisecond)
		return len(ls) == 1
	})
	ok(t, p.q.RetryAt(t.Context(), &ls[0].Jobs[0], time.Now().Add(time.Hour)))
	ok(t, ls[0].Ack())
	p.heldBy(b.ID, batch.Backoff, p.alive)
}

// TestHeldBackByOthers: what a batch waits for while nothing that was fed ends.
func TestHeldBackByOthers(t *testing.T) {
	with := func(adapter string) string { return strings.ReplaceAll(inputOf(500), `"m"`, `"m+`+adapter+`"`) }
	for name, c := range map[string]struct {
		settings access.Settings
		before   func(p *plant)
		input    string
		want     batch.Hold
	}{
		"its own cap":            {access.Settings{MaxReady: 8}, func(*plant) {}, inputOf(100), batch.TenantCap},
		"another tenant":         {access.Settings{}, func(p *plant) { p.inProgress("rival", inputOf(500)) }, inputOf(500), batch.TenantCap},
		"another adapter's turn": {access.Settings{}, func(p *plant) { p.inProgress("acme", with("a")) }, with("b"), batch.AdapterTurn},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t)
			p.settings(c.settings)
			p.schedule()
			c.before(p)
			b := p.create(c.input)
			p.heldBy(b.ID, c.want, p.alive)
		})
	}
}

// inProgress makes a batch of a tenant, and waits until lines of it are fed.
func (p *plant) inProgress(tenant, input string) {
	p.t.Helper()
	f, err := p.files.Create(p.t.Context(), tenant, strings.NewReader(input), 0, func() (batch.CreateFile, error) {
		return batch.CreateFile{Filename: "in.jsonl", Purpose: batch.PurposeBatch}, nil
	})
	ok(p.t, err)
	_, err = p.batches.Create(p.t.Context(), tenant, batch.CreateBatch{InputFile: f.ID, Endpoint: queue.Completions})
	ok(p.t, err)
	eventually(p.t, "lines are fed", func() bool {
		ready, _, err := p.q.Puller(queue.Batch, testBase).Pending(p.t.Context())
		return err == nil && ready > 0
	})
}

// settings are acme's from now on.
func (p *plant) settings(s access.Settings) {
	p.t.Helper()
	if p.access == nil {
		p.access = access.New(access.Config{JS: p.q.JS(), Log: zerolog.Nop()})
		ok(p.t, p.access.Setup(p.t.Context()))
		p.run(p.access.Run)
		<-p.access.Ready()
	}
	ok(p.t, p.access.PutTenant(p.t.Context(), "acme", s))
}

// TestHeldBackByRate: lines wait for their tenant's rate, and none is lost by it.
func TestHeldBackByRate(t *testing.T) {
	p := newPlant(t)
	p.settings(access.Settings{RequestsPerMinute: 40})
	p.schedule()
	p.work()
	began := time.Now()
	b := p.create(inputOf(100))
	p.heldBy(b.ID, batch.RateLimit, p.alive)
	p.running(40)
	n := p.n.Load()
	if most := 40 + int64(40*time.Since(began).Minutes()) + 1; n > most {
		t.Errorf("%d lines ran of 40 a minute, want at most %d", n, most)
	}
	p.settings(access.Settings{TokensPerMinute: 1e6})
	if b = p.await(b.ID, batch.Completed); b.Counts.Completed != 100 {
		t.Errorf("counts %+v", b.Counts)
	}
	p.ranOnce(100)
}

// caps are tenants' settings for a test.
type caps struct {
	settings
	most int
}

func (c caps) MaxReady(string) int { return c.most }

// TestHeldBackInOrder: what the order alone decides.
func TestHeldBackInOrder(t *testing.T) {
	p := newPlant(t)
	fleet, err := queue.WatchFleet(t.Context(), p.q.Conn())
	ok(t, err)
	eventually(t, "the worker is seen", func() bool { p.alive(); return fleet.Slots(testBase) > 0 })
	for name, c := range map[string]struct {
		most int
		add  []*item
		turn string
		want batch.Hold
	}{
		"nothing":           {0, nil, "", ""},
		"its own cap":       {1, nil, "", batch.TenantCap},
		"another tenant":    {0, []*item{candidate("other", "1")}, "", batch.TenantCap},
		"another adapter":   {0, []*item{candidate("acme", "1", adapter("a"))}, "a", batch.AdapterTurn},
		"its adapter's run": {0, []*item{candidate("acme", "1")}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDispatcher(testBase, p.q, p.s, fleet, caps{most: c.most}, newBatchRoad(p.batches, testLines{}), zerolog.Nop())
			b := batch.Batch{ID: "batch_x", Tenant: "acme", Resolved: engine.Model{Base: testBase}}
			s := batchSource(d.batches, p.q, b)
			ln := d.lanes[queue.Batch]
			ln.win.put(1, "acme", 1)
			head := candidate("acme", "line")
			head.src = s
			ln.order.add(head)
			for _, it := range c.add {
				ln.order.add(it)
			}
			ln.order.took(c.turn, 1)
			if got := d.held(b, s, false); got != c.want {
				t.Errorf("held back by %q, want %q", got, c.want)
			}
		})
	}
}
