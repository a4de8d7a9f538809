package result_test

import (
	"testing"
	"time"

	"lorry/result"
	"lorry/result/resulttest"
)

// costs are n jobs of a size.
func costs(n, each int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = each
	}
	return out
}

func TestRate(t *testing.T) {
	s := resulttest.New(t, result.Config{})
	for name, c := range map[string]struct {
		rate        result.Rate
		costs       []int
		taken       int
		held        result.Resource
		least, most time.Duration // of the wait
	}{
		"none":                       {result.Rate{}, costs(1000, 1e6), 1000, result.Nothing, 0, 0},
		"all":                        {result.Rate{Requests: 60, Tokens: 600}, costs(60, 10), 60, result.Nothing, 0, 0},
		"requests run out":           {result.Rate{Requests: 60}, costs(70, 1e6), 60, result.Requests, 500 * time.Millisecond, time.Second},
		"tokens run out":             {result.Rate{Requests: 60, Tokens: 600}, costs(3, 250), 2, result.Tokens, 14 * time.Second, 15 * time.Second},
		"the scarcer one is told of": {result.Rate{Requests: 2, Tokens: 600}, costs(3, 300), 2, result.Requests, 29 * time.Second, 30 * time.Second},
		"more than a minute's":       {result.Rate{Tokens: 600}, []int{5000, 1}, 1, result.Tokens, 50 * time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := s.Take(t.Context(), "tenant-"+name, c.rate, c.costs...)
			ok(t, err)
			if a.Taken != c.taken || a.Held != c.held || a.Wait < c.least || a.Wait > c.most {
				t.Errorf("got %+v", a)
			}
		})
	}
}

// TestRateIsShared: it is the tenant's own, whoever asks, and fills up with time.
func TestRateIsShared(t *testing.T) {
	rdb := resulttest.Client(t, resulttest.Server(t))
	here, there := resulttest.New(t, result.Config{Redis: rdb}), resulttest.New(t, result.Config{Redis: rdb})
	r := result.Rate{Requests: 600, Tokens: 60000} // ten a second
	began := time.Now()
	a, err := here.Take(t.Context(), "acme", r, costs(600, 1)...)
	ok(t, err)
	if a.Taken != 600 || result.Left(r.Requests, a.RequestsFull) > 0 || result.Left(r.Tokens, a.TokensFull) < 59399 || a.RequestsFull < 59*time.Second {
		t.Errorf("first: %+v", a)
	}
	if a, err = there.Take(t.Context(), "other", r, 1); err != nil || a.Taken != 1 {
		t.Errorf("another tenant: %+v %v", a, err)
	}
	for a.Taken = 0; a.Taken == 0 && time.Since(began) < time.Minute; {
		a, err = there.Take(t.Context(), "acme", r, 1)
		ok(t, err)
	}
	if took := time.Since(began); a.Taken != 1 || took < 90*time.Millisecond { // a slow machine may never see a refusal
		t.Errorf("behind %v: %+v", took, a)
	}
	ok(t, rdb.FlushAll(t.Context()).Err())
	if a, err = here.Take(t.Context(), "acme", r, costs(600, 1)...); err != nil || a.Taken != 600 {
		t.Errorf("a lost Redis: %+v %v", a, err)
	}
}
