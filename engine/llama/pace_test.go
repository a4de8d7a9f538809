package llama

import (
	"testing"
	"time"
)

// apart and shared are the paces of a CPU and of an accelerator.
func apart(target time.Duration) pace  { return pace{target: target, stretch: 2, apart: true} }
func shared(target time.Duration) pace { return pace{target: target, stretch: 2} }

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		pace  pace
		row   time.Duration // what a row costs
		fixed time.Duration // what a call costs beside
		d     demand
		most  int
		want  [2]int // the limit that it settles at
		alone bool
	}{
		"nobody draws":                     {shared(100 * ms), 5 * ms, 0, demand{prompt: 900}, 63, [2]int{63, 63}, false},
		"nobody draws, and rows crawl":     {shared(100 * ms), 50 * ms, 0, demand{prompt: 900}, 512, [2]int{64, 64}, false},
		"nobody draws, for a second":       {shared(100 * ms), 5 * ms, 0, demand{prompt: 900}, 512, [2]int{190, 200}, false},
		"no target":                        {apart(-1), 5 * ms, 0, demand{drawing: 4, prompt: 900}, 63, [2]int{63, 63}, false},
		"slow rows":                        {shared(100 * ms), 5 * ms, 0, demand{drawing: 4, prompt: 900}, 63, [2]int{18, 21}, false},
		"rows too slow to please":          {shared(100 * ms), time.Second, 0, demand{drawing: 4, prompt: 900}, 63, [2]int{12, 12}, false},
		"fast rows":                        {shared(100 * ms), 20 * time.Microsecond, 10 * ms, demand{drawing: 64, prompt: 900}, 512, [2]int{512, 512}, false},
		"costly calls":                     {shared(100 * ms), ms, 40 * ms, demand{drawing: 4, prompt: 900}, 512, [2]int{55, 64}, false},
		"watched":                          {shared(100 * ms), ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{16, 16}, false},
		"watched, and rows are cheap":      {shared(100 * ms), ms / 10, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{128, 128}, false},
		"watched, and twice is too long":   {shared(100 * ms), ms / 3, 10 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{16, 16}, false},
		"watched, and the prompt as well":  {shared(100 * ms), ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true, hurried: true}, 512, [2]int{32, 32}, false},
		"watched by a crowd":               {shared(100 * ms), ms / 10, 20 * ms, demand{drawing: 64, prompt: 900, watched: true}, 512, [2]int{256, 256}, false},
		"watched, by the target":           {shared(30 * ms), ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{8, 8}, false},
		"watched, rows too slow":           {shared(100 * ms), time.Second, 0, demand{drawing: 4, prompt: 900, watched: true}, 63, [2]int{8, 8}, false},
		"watched, and it does not matter":  {pace{target: 100 * ms}, ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{75, 85}, false},
		"apart":                            {apart(time.Second), 2 * ms, 0, demand{drawing: 4, prompt: 900, waited: 900 * ms}, 128, [2]int{128, 128}, true},
		"apart, and rows crawl":            {apart(time.Second), 50 * ms, 0, demand{drawing: 4, prompt: 900}, 128, [2]int{64, 64}, true},
		"apart, and who draws has waited":  {apart(time.Second), 2 * ms, 0, demand{drawing: 4, prompt: 900, waited: time.Second}, 128, [2]int{4, 4}, false},
		"apart, but there is not much":     {apart(time.Second), 2 * ms, 0, demand{drawing: 4, prompt: 63}, 128, [2]int{63, 63}, false},
		"apart, but somebody watches":      {apart(time.Second), ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 128, [2]int{20, 24}, false},
		"apart, and nobody draws":          {apart(time.Second), 2 * ms, 0, demand{prompt: 900}, 128, [2]int{128, 128}, false},
		"apart, watched, and rows are few": {apart(time.Second), 50 * time.Microsecond, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{63, 63}, false},
	} {
		t.Run(name, func(t *testing.T) {
			limit, alone, p := 0, false, c.pace
			for range 100 {
				for range settled + 1 {
					limit, alone = p.share(c.d, c.most)
					drawing := c.d.drawing
					if alone {
						drawing = 0
					}
					p.note(limit, drawing, c.fixed+time.Duration(limit)*c.row)
				}
				p.note(c.d.drawing, c.d.drawing, c.fixed+time.Duration(c.d.drawing)*c.row) // a step without a prompt
			}
			if limit < c.want[0] || limit > c.want[1] || alone != c.alone {
				t.Errorf("settles at %d rows, want %v; alone is %t", limit, c.want, alone)
			}
		})
	}
}

// TestBlocks wants a piece of at least half a block, and no row left over.
func TestBlocks(t *testing.T) {
	for in, want := range map[[2]int]int{{4, 4}: 8, {4, 7}: 8, {4, 8}: 12, {5, 4}: 8, {6, 4}: 8, {7, 4}: 12, {1, 4}: 4, {3, 4}: 8} {
		if got := blocks(in[0], in[1]); got != want {
			t.Errorf("%d who draw and a piece of %d: %d rows, want %d", in[0], in[1], got, want)
		}
	}
}

// TestPaceForgets wants one slow call not to slow prompts for long.
func TestPaceForgets(t *testing.T) {
	p := shared(100 * time.Millisecond)
	p.note(60, 4, 60*time.Millisecond)
	p.note(60, 4, 20*time.Second)
	steps := 0
	for ; ; steps++ {
		rows, _ := p.share(demand{drawing: 4, prompt: 900}, 63)
		if rows >= 50 {
			break
		}
		p.note(rows, 4, time.Duration(rows)*time.Millisecond)
	}
	if steps > 30 {
		t.Errorf("it took %d steps", steps)
	}
}

// TestPaceOfOtherCrowds wants what is known of some who draw to be used for others.
func TestPaceOfOtherCrowds(t *testing.T) {
	p := pace{calm: map[int]float64{1: 0.01, 4: 0.02, 6: 0.03}}
	for drawing, want := range map[int]float64{1: 0.01, 2: 0.01, 3: 0.02, 5: 0.02, 9: 0.03} {
		if got := p.without(drawing); got != want {
			t.Errorf("%d take %v, want %v", drawing, got, want)
		}
	}
}
