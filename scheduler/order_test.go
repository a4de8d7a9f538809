package scheduler

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lorry/engine"
	"lorry/queue"
)

var t0 = time.Unix(1_800_000_000, 0)

func candidate(tenant, id string, mods ...func(*queue.Job)) *item {
	j := queue.Job{ID: id, Tenant: tenant, Lane: queue.Flex, Created: t0.UnixMilli(), Request: engine.Request{Kind: engine.Text, Sampling: engine.Sampling{MaxTokens: 100, N: 1}}}
	for _, m := range mods {
		m(&j)
	}
	return &item{job: j, src: newSource(tenant, nil)}
}

func deadline(d time.Duration) func(*queue.Job) {
	return func(j *queue.Job) { j.Deadline = t0.Add(d).UnixMilli() }
}
func adapter(a string) func(*queue.Job) { return func(j *queue.Job) { j.Request.Model.Adapter = a } }
func tokens(n int) func(*queue.Job)     { return func(j *queue.Job) { j.Request.Sampling.MaxTokens = n } }

func equal(string) float64 { return 1 }
func nobody(string) bool   { return false }

func TestPickFirst(t *testing.T) {
	for name, c := range map[string]struct {
		jobs []*item
		want string
	}{
		"order of acceptance": {[]*item{candidate("a", "2", func(j *queue.Job) { j.Created++ }), candidate("a", "1")}, "1"},
		"earliest deadline":   {[]*item{candidate("a", "1"), candidate("a", "2", deadline(time.Hour)), candidate("a", "3", deadline(30*time.Minute))}, "3"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrder()
			for _, it := range c.jobs {
				o.add(it)
			}
			if got := o.pick(t0, 1, equal, nobody)[0].job.ID; got != c.want {
				t.Errorf("picked %s, want %s", got, c.want)
			}
		})
	}
}

func TestTenantsShareByWeight(t *testing.T) {
	for name, c := range map[string]struct {
		weights map[string]float64
		tokens  map[string]int
	}{
		"equal":                    {map[string]float64{"a": 1, "b": 1, "c": 1}, map[string]int{"a": 100, "b": 100, "c": 100}},
		"weighted":                 {map[string]float64{"a": 3, "b": 1, "c": 2}, map[string]int{"a": 100, "b": 100, "c": 100}},
		"tokens count, not jobs":   {map[string]float64{"a": 1, "b": 1, "c": 1}, map[string]int{"a": 1000, "b": 100, "c": 50}},
		"weights and long answers": {map[string]float64{"a": 4, "b": 1, "c": 1}, map[string]int{"a": 700, "b": 70, "c": 500}},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrder()
			for tenant, n := range c.tokens {
				for i := range 4000 {
					o.add(candidate(tenant, fmt.Sprint(i), tokens(n), func(j *queue.Job) { j.Created += int64(i) }))
				}
			}
			served := map[string]float64{}
			total := 0.0
			for total < 200_000 {
				its := o.pick(t0, 1, func(t string) float64 { return c.weights[t] }, nobody)
				if len(its) == 0 {
					t.Fatalf("all are served after %.0f tokens", total)
				}
				for _, it := range its {
					served[it.job.Tenant] += it.cost
					total += it.cost
				}
			}
			sum := c.weights["a"] + c.weights["b"] + c.weights["c"]
			for tenant, w := range c.weights {
				if got, want := served[tenant]/total, w/sum; got < want*0.93 || got > want*1.07 {
					t.Errorf("%s got %.3f of the tokens, want %.3f", tenant, got, want)
				}
			}
		})
	}
}

func TestNewcomerGoesNext(t *testing.T) {
	o := newOrder()
	for i := range 1000 {
		o.add(candidate("old", fmt.Sprint(i)))
	}
	for range 50 {
		o.pick(t0, 4, equal, nobody)
	}
	o.add(candidate("new", "n"))
	for n := 0; ; n++ {
		if o.pick(t0, 4, equal, nobody)[0].job.Tenant == "new" {
			break
		}
		if n > 1 {
			t.Fatal("a newcomer waits for more than one run")
		}
	}
}

func TestIdleTenantSavesNothingUp(t *testing.T) {
	o := newOrder()
	for i := range 1000 {
		o.add(candidate("busy", fmt.Sprint(i)))
	}
	o.add(candidate("idle", "first"))
	for range 100 {
		o.pick(t0, 1, equal, nobody)
	}
	for i := range 100 {
		o.add(candidate("idle", fmt.Sprint(i)))
	}
	got := map[string]int{}
	for range 100 {
		got[o.pick(t0, 1, equal, nobody)[0].job.Tenant]++
	}
	if got["idle"] > 51 {
		t.Errorf("the tenant that was idle got %d of 100 turns", got["idle"])
	}
}

func TestAdapterRuns(t *testing.T) {
	o := newOrder()
	for i := range 400 {
		o.add(candidate("a", fmt.Sprintf("%03d", i), adapter([]string{"x", "y"}[i%2]), func(j *queue.Job) { j.Created += int64(i) }))
	}
	changes, last, run, longest := 0, "", 0, 0
	for its := o.pick(t0, 8, equal, nobody); len(its) > 0; its = o.pick(t0, 8, equal, nobody) {
		a := its[0].job.Request.Model.Adapter
		if a != last {
			changes, run = changes+1, 0
		}
		for _, it := range its {
			if it.job.Request.Model.Adapter != a {
				t.Fatal("one delivery of two adapters")
			}
		}
		run += len(its)
		last, longest = a, max(longest, run)
	}
	if changes > 10 {
		t.Errorf("%d adapter changes for 400 jobs of two adapters", changes)
	}
	if longest > 200 {
		t.Errorf("one adapter held the turn for %d jobs", longest)
	}
}

func TestUrgentDeadlineBreaksARun(t *testing.T) {
	o := newOrder()
	for i := range 100 {
		o.add(candidate("a", fmt.Sprint(i), adapter("x")))
	}
	o.pick(t0, 8, equal, nobody)
	o.add(candidate("a", "urgent", adapter("y"), deadline(20*time.Second)))
	if got := o.pick(t0, 8, equal, nobody)[0].job.ID; got != "urgent" {
		t.Errorf("picked %s", got)
	}
}

func TestPausedTenantsWait(t *testing.T) {
	o := newOrder()
	o.add(candidate("a", "1"))
	o.add(candidate("b", "2"))
	paused := func(t string) bool { return t == "a" }
	if its := o.pick(t0, 8, equal, paused); len(its) != 1 || its[0].job.Tenant != "b" {
		t.Errorf("picked %v", its)
	}
	if its := o.pick(t0, 8, equal, paused); its != nil {
		t.Errorf("picked %v of a paused tenant", its)
	}
}

func TestExpiredComeOut(t *testing.T) {
	o := newOrder()
	o.add(candidate("a", "old", deadline(-time.Second)))
	o.add(candidate("a", "new", deadline(time.Second)))
	its := o.expired(t0)
	if len(its) != 1 || its[0].job.ID != "old" || o.waiting() != 1 {
		t.Errorf("%v, %d left", its, o.waiting())
	}
}

// Whatever is added comes out once.
func TestOrderLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, in, out := newOrder(), map[string]bool{}, map[string]bool{}
		take := func() bool {
			its := o.pick(t0, rapid.IntRange(1, 40).Draw(t, "k"), equal, nobody)
			for _, it := range its {
				if out[it.job.ID] {
					t.Fatalf("%s picked twice", it.job.ID)
				}
				out[it.job.ID] = true
			}
			return len(its) > 0
		}
		for i := range rapid.IntRange(0, 200).Draw(t, "n") {
			id := fmt.Sprint(i)
			in[id] = true
			o.add(candidate(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "tenant"), id, adapter(rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "adapter")),
				tokens(rapid.IntRange(1, 1000).Draw(t, "tokens"))))
			if rapid.Bool().Draw(t, "take") {
				take()
			}
		}
		for take() {
		}
		if len(in) != len(out) {
			t.Fatalf("%d in, %d out", len(in), len(out))
		}
	})
}
