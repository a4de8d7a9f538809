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
		"nobody draws":                      {shared(100 * ms), 5 * ms, 0, demand{prompt: 900}, 63, [2]int{63, 63}, false},
		"nobody draws, and rows crawl":      {shared(100 * ms), 50 * ms, 0, demand{prompt: 900}, 512, [2]int{64, 64}, false},
		"nobody draws, for a second":        {shared(100 * ms), 5 * ms, 0, demand{prompt: 900}, 512, [2]int{190, 200}, false},
		"no target":                         {apart(-1), 5 * ms, 0, demand{drawing: 4, prompt: 900}, 63, [2]int{63, 63}, false},
		"slow rows":                         {shared(100 * ms), 5 * ms, 0, demand{drawing: 4, prompt: 900}, 63, [2]int{18, 21}, false},
		"rows too slow to please":           {shared(100 * ms), time.Second, 0, demand{drawing: 4, prompt: 900}, 63, [2]int{12, 12}, false},
		"fast rows":                         {shared(100 * ms), 20 * time.Microsecond, 10 * ms, demand{drawing: 64, prompt: 900}, 512, [2]int{512, 512}, false},
		"costly calls":                      {shared(100 * ms), ms, 40 * ms, demand{drawing: 4, prompt: 900}, 512, [2]int{55, 64}, false},
		"watched":                           {shared(100 * ms), ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{16, 16}, false},
		"watched, and rows are cheap":       {shared(100 * ms), ms / 10, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{128, 128}, false},
		"watched, and twice is too long":    {shared(100 * ms), ms / 3, 10 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{16, 16}, false},
		"watched, and the prompt as well":   {shared(100 * ms), ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true, hurried: true}, 512, [2]int{32, 32}, false},
		"watched by a crowd":                {shared(100 * ms), ms / 10, 20 * ms, demand{drawing: 64, prompt: 900, watched: true}, 512, [2]int{256, 256}, false},
		"watched, by the target":            {shared(30 * ms), ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{8, 8}, false},
		"watched, rows too slow":            {shared(100 * ms), time.Second, 0, demand{drawing: 4, prompt: 900, watched: true}, 63, [2]int{8, 8}, false},
		"watched, and it does not matter":   {pace{target: 100 * ms}, ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 512, [2]int{75, 85}, false},
		"apart":                             {apart(time.Second), 2 * ms, 0, demand{drawing: 4, prompt: 900, waited: 900 * ms}, 128, [2]int{128, 128}, true},
		"apart, and rows crawl":             {apart(time.Second), 50 * ms, 0, demand{drawing: 4, prompt: 900}, 128, [2]int{64, 64}, true},
		"apart, and who draws has waited":   {apart(time.Second), 2 * ms, 0, demand{drawing: 4, prompt: 900, waited: time.Second}, 128, [2]int{4, 4}, false},
		"apart, but there is not much":      {apart(time.Second), 2 * ms, 0, demand{drawing: 4, prompt: 63}, 128, [2]int{63, 63}, false},
		"apart, but somebody watches":       {apart(time.Second), ms, 20 * ms, demand{drawing: 4, prompt: 63, watched: true}, 128, [2]int{20, 24}, false},
		"apart, and a call can't be hidden": {apart(60 * ms), ms, 20 * ms, demand{drawing: 4, prompt: 900, watched: true}, 128, [2]int{20, 24}, false},
		"apart, and nobody draws":           {apart(time.Second), 2 * ms, 0, demand{prompt: 900}, 128, [2]int{128, 128}, false},
		"apart, watched, and rows are few":  {apart(time.Second), 50 * time.Microsecond, 20 * ms, demand{drawing: 4, prompt: 63, watched: true}, 512, [2]int{63, 63}, false},
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
					p.note(limit, drawing, 0, c.fixed+time.Duration(limit)*c.row)
				}
				p.note(c.d.drawing, c.d.drawing, 0, c.fixed+time.Duration(c.d.drawing)*c.row) // a step without a prompt
			}
			if limit < c.want[0] || limit > c.want[1] || alone != c.alone {
				t.Errorf("settles at %d rows, want %v; alone is %t", limit, c.want, alone)
			}
		})
	}
}

// TestCallsAreHidden computes a prompt beside four answers that are watched, on a machine where a step takes 20 ms, and a
// call of the prompt the longer the more is before it. Those who watch see no pause of more than twice a step, no token
// much later than a call takes, and soon again all that there is.
func TestCallsAreHidden(t *testing.T) {
	const calm, prompt = 20 * time.Millisecond, 3000
	each := func(before float64) float64 { return 0.0015 + 0.002*before/1000 }
	p := apart(time.Second)
	now := time.Unix(0, 0)
	shown, done, calls, pause, late := now, 0, 0, time.Duration(0), time.Duration(0)
	step := func(d demand) {
		rows, alone := p.share(d, 128)
		took, drawing, before := calm, d.drawing, 0.0
		if alone {
			before = d.depth
			took, drawing = time.Duration(float64(rows)*each(before)*1e9), 0
			done += rows
			calls++
		} else if rows = min(rows, d.drawing+d.prompt); rows > d.drawing {
			t.Fatalf("%d rows beside answers, behind %v", rows, d.depth)
		}
		p.note(rows, drawing, before, took)
		if now = now.Add(took); !alone {
			due := p.due(shown, now)
			pause, late, shown = max(pause, due.Sub(shown)), max(late, due.Sub(now)), due
		}
	}
	p.note(16, 0, 8, 16*time.Millisecond*3/2)
	for range 10 {
		step(demand{drawing: 4, watched: true})
	}
	begun := now
	for steps := 0; done < prompt && steps < 10000; steps++ {
		step(demand{drawing: 4, watched: true, prompt: prompt - done, depth: float64(done) + fullCall/2})
	}
	took := now.Sub(begun)
	if calls != prompt/fullCall || pause > 2*calm || late > p.target || took > 37*time.Second {
		t.Errorf("%d calls, a pause of %v, a token %v late, the prompt in %v", calls, pause, late, took)
	}
	for range 60 {
		step(demand{drawing: 4, watched: true})
	}
	if shown.After(now) {
		t.Errorf("the newest token is still shown %v late", shown.Sub(now))
	}
}

// TestDepth learns what tokens take by how many are before them, beside hiccups, and again when the machine has changed.
func TestDepth(t *testing.T) {
	var d depth
	check := func(first, deeper float64) {
		t.Helper()
		for _, before := range []float64{0, 500, 3000} {
			if got, want := d.row(before), first+deeper*before/1000; got < 0.9*want || got > 1.1*want {
				t.Errorf("a token behind %v takes %v, want %v", before, got, want)
			}
		}
	}
	learn := func(first, deeper float64) {
		for i := range 400 {
			before := float64(i * 64 % 3000)
			took := first + deeper*before/1000
			if d.learn(before, took); i == 100 {
				d.learn(before, 1000*took)
			}
		}
	}
	learn(1, 2)
	check(1, 2)
	learn(5, 0)
	check(5, 0)
	learn(0.1, 0.2)
	check(0.1, 0.2)
	d.atMost(1000, 1)
	check(0.1, 0.2)
	for range 100 {
		d.atMost(1000, 0.05)
	}
	if got := d.row(1000); got > 0.055 {
		t.Errorf("where a token took 0.05 beside answers it takes %v", got)
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
	p.note(60, 4, 0, 60*time.Millisecond)
	p.note(60, 4, 0, 20*time.Second)
	steps := 0
	for ; ; steps++ {
		rows, _ := p.share(demand{drawing: 4, prompt: 900}, 63)
		if rows >= 50 {
			break
		}
		p.note(rows, 4, 0, time.Duration(rows)*time.Millisecond)
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
