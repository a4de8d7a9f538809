package llama

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	for name, c := range map[string]struct {
		target  time.Duration
		row     time.Duration // what a row costs
		fixed   time.Duration // what a call costs beside
		drawing int
		most    int
		want    [2]int // the limit that it settles at
	}{
		"nobody draws":            {100 * time.Millisecond, 5 * time.Millisecond, 0, 0, 63, [2]int{63, 63}},
		"no target":               {-1, 5 * time.Millisecond, 0, 4, 63, [2]int{63, 63}},
		"slow rows":               {100 * time.Millisecond, 5 * time.Millisecond, 0, 4, 63, [2]int{19, 21}},
		"rows too slow to please": {100 * time.Millisecond, time.Second, 0, 4, 63, [2]int{12, 12}},
		"fast rows":               {100 * time.Millisecond, 20 * time.Microsecond, 10 * time.Millisecond, 64, 512, [2]int{512, 512}},
		"costly calls":            {100 * time.Millisecond, time.Millisecond, 40 * time.Millisecond, 4, 512, [2]int{50, 70}},
	} {
		t.Run(name, func(t *testing.T) {
			p := pace{target: c.target}
			rows := 0
			for range 100 {
				rows = p.limit(c.drawing, c.most)
				p.note(rows, c.drawing, c.fixed+time.Duration(rows)*c.row)
				p.note(c.drawing, c.drawing, c.fixed+time.Duration(c.drawing)*c.row) // a step without a prompt
			}
			if rows < c.want[0] || rows > c.want[1] {
				t.Errorf("settles at %d rows, want %v", rows, c.want)
			}
		})
	}
}

// TestPaceForgets wants one slow call not to slow prompts for long.
func TestPaceForgets(t *testing.T) {
	p := pace{target: 100 * time.Millisecond}
	p.note(60, 4, 60*time.Millisecond)
	p.note(60, 4, 20*time.Second)
	steps := 0
	for ; p.limit(4, 63) < 50; steps++ {
		rows := p.limit(4, 63)
		p.note(rows, 4, time.Duration(rows)*time.Millisecond)
	}
	if steps > 30 {
		t.Errorf("it took %d steps", steps)
	}
}
