package scheduler

import (
	"math/rand/v2"
	"testing"
	"time"

	"lorry/batch"
)

// shop is an engine with slots on a clock of its own, a step at a time: each sequence in it gets a token a step, and steps
// take as long as they do on a CPU, more the more sequences there are. Slots go as a worker gives them: each lane has
// its share, and what it leaves is the more urgent one's first.
type shop struct {
	rnd   *rand.Rand
	now   time.Time
	slots []*seat
	batch []seat // lines that wait
	live  []seat // interactive requests that wait
	next  time.Time
	// waves says how many interactive requests come a second.
	waves func(at time.Duration) float64
}

// seat is one sequence: what it has left, and what it cost.
type seat struct {
	prompt, left, tokens int
	line                 bool
}

func newShop(seed uint64, slots, n int, tokens func(r *rand.Rand) int, waves func(time.Duration) float64) *shop {
	s := &shop{rnd: rand.New(rand.NewPCG(seed, 1)), now: t0, slots: make([]*seat, slots), next: t0, waves: waves}
	for range n {
		s.batch = append(s.batch, s.seat(tokens(s.rnd), true))
	}
	return s
}

func (s *shop) seat(tokens int, line bool) seat {
	prompt := 50 + s.rnd.IntN(350)
	return seat{prompt, tokens, prompt + tokens, line}
}

// arrive lets interactive requests come, at random moments.
func (s *shop) arrive() {
	for !s.next.After(s.now) {
		s.live = append(s.live, s.seat(20+s.rnd.IntN(200), false))
		gap := s.rnd.ExpFloat64() / s.waves(s.next.Sub(t0))
		s.next = s.next.Add(time.Duration(gap * float64(time.Second)))
	}
}

// fill gives free slots away. A quarter of them is the batch lane's own.
func (s *shop) fill() {
	lines := 0
	for _, x := range s.slots {
		if x != nil && x.line {
			lines++
		}
	}
	for i, x := range s.slots {
		if x != nil {
			continue
		}
		from := &s.live
		if len(s.batch) > 0 && (lines < len(s.slots)/4 || len(s.live) == 0) {
			from, lines = &s.batch, lines+1
		}
		if len(*from) > 0 {
			first := (*from)[0]
			s.slots[i], *from = &first, (*from)[1:]
		}
	}
}

// step computes once, and returns the lines that have ended.
func (s *shop) step() (ended []seat) {
	s.arrive()
	s.fill()
	took := 15 * time.Millisecond
	for i, x := range s.slots {
		switch {
		case x == nil:
			continue
		case x.prompt > 0: // 64 a step, a millisecond each
			n := min(x.prompt, 64)
			x.prompt -= n
			took += time.Duration(n) * time.Millisecond
			continue
		}
		took += 3 * time.Millisecond
		if x.left--; x.left == 0 {
			if x.line {
				ended = append(ended, *x)
			}
			s.slots[i] = nil
		}
	}
	s.now = s.now.Add(time.Duration(float64(took) * (0.8 + 0.4*s.rnd.Float64())))
	return ended
}

// run does all lines, and returns what a quarter, the half and three quarters were told of their ends, and the end.
func (s *shop) run() (told map[int]time.Time, at map[int]time.Time, end time.Time) {
	var p pace
	told, at = map[int]time.Time{}, map[int]time.Time{}
	total, done := len(s.batch), 0
	p.tick(s.now)
	for tick := s.now.Add(time.Second); done < total; {
		for _, x := range s.step() {
			p.add(x.tokens)
			done++
		}
		for ; !tick.After(s.now); tick = tick.Add(time.Second) {
			p.tick(tick)
		}
		if part := 100 * done / total / 25 * 25; part > 0 && part < 100 && told[part].IsZero() {
			lines, _ := p.rate()
			told[part], at[part] = batch.ETA(s.now, total-done, lines), s.now
		}
	}
	return told, at, s.now
}

// TestETA: with two lanes busy, what is told at a quarter, the half and three quarters of a batch is right within a
// quarter of the time that is left.
func TestETA(t *testing.T) {
	steady := func(perSecond float64) func(time.Duration) float64 {
		return func(time.Duration) float64 { return perSecond }
	}
	for name, c := range map[string]struct {
		slots, lines int
		tokens       func(r *rand.Rand) int
		waves        func(time.Duration) float64
	}{
		"lines alike, some live":   {8, 1000, func(*rand.Rand) int { return 100 }, steady(0.2)},
		"lines that differ":        {8, 1000, func(r *rand.Rand) int { return 10 + r.IntN(300) }, steady(0.2)},
		"more live than there are": {8, 500, func(r *rand.Rand) int { return 40 + r.IntN(100) }, steady(2)},
		"live in waves of 30 s": {8, 1500, func(r *rand.Rand) int { return 40 + r.IntN(100) }, func(at time.Duration) float64 {
			if at%(30*time.Second) < 15*time.Second {
				return 1
			}
			return 0.05
		}},
		"one slot":       {1, 500, func(r *rand.Rand) int { return 40 + r.IntN(100) }, steady(0.05)},
		"thirty-two":     {32, 2000, func(r *rand.Rand) int { return 40 + r.IntN(100) }, steady(0.5)},
		"few long lines": {4, 300, func(r *rand.Rand) int { return 300 + r.IntN(400) }, steady(0.05)},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				told, at, end := newShop(seed, c.slots, c.lines, c.tokens, c.waves).run()
				for part := 25; part < 100; part += 25 {
					left, off := end.Sub(at[part]), told[part].Sub(end)
					if told[part].IsZero() || off.Abs() > left/4 {
						t.Errorf("seed %d, at %d %%: told %s, it took %s", seed, part, told[part].Sub(at[part]), left)
					}
				}
			}
		})
	}
}
