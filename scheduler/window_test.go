package scheduler

import "testing"

// TestWindowGrows: W follows what ends in windowTime, a doubling at a time, and shrinks by being empty only.
func TestWindowGrows(t *testing.T) {
	for name, c := range map[string]struct {
		want int
		rate float64
		then int
	}{
		"fast: doubles":                      {want: 128, rate: 5000, then: 256},
		"no more than ends in half a second": {want: 128, rate: 400, then: 200},
		"slow: a newcomer waits no longer":   {want: 128, rate: 10, then: 128},
		"never above the bound":              {want: maxWindow, rate: 1e6, then: maxWindow},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWindow()
			w.want = c.want
			w.grow(c.rate)
			if w.want != c.then {
				t.Errorf("W is %d, want %d", w.want, c.then)
			}
		})
	}
}
