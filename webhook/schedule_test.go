package webhook

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestNext(t *testing.T) {
	for name, c := range map[string]struct {
		failed     int
		age, after time.Duration
		want       time.Duration
		ok         bool
	}{
		"first":                       {1, 0, 0, 5 * time.Second, true},
		"second":                      {2, 6 * time.Second, 0, 30 * time.Second, true},
		"third":                       {3, time.Minute, 0, 2 * time.Minute, true},
		"eighth":                      {8, 8 * time.Hour, 0, 4 * time.Hour, true},
		"the last step repeats":       {40, 60 * time.Hour, 0, 4 * time.Hour, true},
		"never counted":               {0, 0, 0, 5 * time.Second, true},
		"asked for more":              {1, 0, time.Hour, time.Hour, true},
		"asked for less":              {4, 0, time.Second, 10 * time.Minute, true},
		"asked for too much":          {1, 0, 100 * time.Hour, 12 * time.Hour, true},
		"the last one at the end":     {20, 71 * time.Hour, 0, time.Hour, true},
		"given up":                    {20, 72 * time.Hour, 0, 0, false},
		"given up, whatever is asked": {20, 73 * time.Hour, time.Hour, 0, false},
	} {
		if got, ok := Next(c.failed, c.age, c.after, 0.5); got != c.want || ok != c.ok {
			t.Errorf("%s: %s, %t; want %s, %t", name, got, ok, c.want, c.ok)
		}
	}
}

// Whatever the receiver asks for, an event has its last attempt at 72 hours, within a bounded number of attempts.
func TestScheduleEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var age time.Duration
		n := 1
		for ; n < 1000; n++ {
			after := time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "after"))
			wait, ok := Next(n, age, after, rapid.Float64Range(0, 0.999).Draw(t, "u"))
			if !ok {
				break
			}
			if wait <= 0 {
				t.Fatalf("wait %s", wait)
			}
			age += wait
		}
		if age != GiveUp || n > 40 {
			t.Fatalf("ended at %s behind %d attempts", age, n)
		}
	})
}
