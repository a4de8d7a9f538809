package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// check is what is measured beside the workloads: a ratio, with its goal.
type check struct {
	key, name string
	goal      float64
	atMost    bool
	measure   func(context.Context, *contest, *extra) error
}

var checks = []check{
	{"pause", "pause between tokens, p99, beside a prompt of 1,500 tokens ÷ without it", 2, true, pause},
	{"ceiling", "tokens/s ÷ llama-batched-bench, 8 prompts of 200 tokens, 32 out", 0.95, false, ceiling},
	{"pipe", "tokens/s of the engine in its own process ÷ in the caller's", 0.98, false, pipe},
}

// extra is a check's outcome, of each round.
type extra struct {
	Key    string             `json:"key"`
	Name   string             `json:"name"`
	Goal   float64            `json:"goal"`
	AtMost bool               `json:"at_most,omitempty"` // the goal is a bound from above
	Ratios []float64          `json:"ratios"`
	Peer   []float64          `json:"llama_server_ratios,omitempty"`
	Detail map[string]float64 `json:"detail"`            // of the last round
	Peers  string             `json:"command,omitempty"` // what is compared with
	Tried  []trial            `json:"tried,omitempty"`   // before
}

func (x *extra) detail(name string, v float64) {
	if x.Detail == nil {
		x.Detail = map[string]float64{}
	}
	x.Detail[name] = v
}

// Answers that run while the prompt comes, and how long they may be: they are ended when the prompt is there.
const (
	pauseRunning = 4
	pausePrompt  = 1500
	pauseTokens  = 1000
	pauseCalm    = 80 // pieces of each answer that are taken before the prompt comes
)

// Settings of llama-server that are tried: without shared cells no slot holds so long a prompt, and fewer tokens in a
// call make shorter pauses.
var pauseSettings = []string{unified, unified + " -b 128 -ub 128", unified + " -b 64 -ub 64"}

func pause(ctx context.Context, c *contest, x *extra) error {
	own, err := startOurs(ctx, c.o, c.file, 0)
	if err != nil {
		return err
	}
	defer own.close()
	peer, err := steadiest(ctx, c, x)
	if err != nil {
		return err
	}
	defer peer.close()
	for i := range c.o.rounds {
		ours, err := pauses(ctx, own, c.words, i)
		if err != nil {
			return err
		}
		theirs, err := pauses(ctx, peer, c.words, i)
		if err != nil {
			return err
		}
		x.Ratios, x.Peer = append(x.Ratios, ours.ratio()), append(x.Peer, theirs.ratio())
		for name, p := range map[string]gaps{"Lorry": ours, "llama-server": theirs} {
			x.detail(name+", ms without", ms(p.calm))
			x.detail(name+", ms beside", ms(p.beside))
			x.detail(name+", s for the prompt", p.prompt.Seconds())
		}
		progress("pause, round %d: ours %v → %v (prompt %v), llama-server %v → %v (prompt %v)", i+1, ours.calm, ours.beside, ours.prompt, theirs.calm, theirs.beside, theirs.prompt)
	}
	return nil
}

// steadiest is llama-server with the settings that make the shortest pauses.
func steadiest(ctx context.Context, c *contest, x *extra) (*theirs, error) {
	start := func(more string) (*theirs, error) { return startTheirs(ctx, c.o, c.file, 0, more) }
	best, _, err := choose(pauseSettings, start, func(i int, s *theirs) (float64, error) {
		g, err := pauses(ctx, s, c.words, trialRounds+i)
		if err == nil {
			x.Tried = append(x.Tried, trial{s.command(), ms(g.beside)})
			progress("pause, trial: llama-server %s: %v (prompt %v)", pauseSettings[i], g.beside, g.prompt)
		}
		return -ms(g.beside), err
	})
	if err == nil {
		x.Peers = best.command()
	}
	return best, err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// gaps are p99 of the time between two tokens of an answer, before and while the prompt is computed, and how long it was.
type gaps struct{ calm, beside, prompt time.Duration }

func (g gaps) ratio() float64 { return float64(g.beside) / float64(g.calm) }

// pauses has some answers made, and computes a long prompt beside them.
func pauses(ctx context.Context, x side, v *vocabulary, round int) (g gaps, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	answers, errs := make([]answer, pauseRunning), make([]error, pauseRunning)
	for i := range answers {
		r := v.request(seed(round, i), shortLength, pauseTokens)
		wg.Go(func() { answers[i], errs[i] = x.run(ctx, r, true) })
	}
	// One more answer says when the others are well under way.
	if _, err := x.run(ctx, v.request(seed(round, pauseRunning), shortLength, pauseCalm), false); err != nil {
		return g, err
	}
	calmEnds := time.Now()
	if _, err := x.run(ctx, v.request(seed(round, pauseRunning+1), pausePrompt, 1), false); err != nil {
		return g, err
	}
	over := time.Now()
	g.prompt = over.Sub(calmEnds)
	cancel()
	wg.Wait()
	var calm, beside []time.Duration
	for i, a := range answers {
		if !errors.Is(errs[i], context.Canceled) {
			return g, fmt.Errorf("an answer of %d tokens ended before the prompt did: %v", a.tokens, errs[i])
		}
		for k := shortLength; k < len(a.at); k++ { // past the others' prompts
			switch gap := a.at[k].Sub(a.at[k-1]); {
			case a.at[k].Before(calmEnds):
				calm = append(calm, gap)
			case a.at[k-1].Before(over):
				beside = append(beside, gap)
			}
		}
		// The pause that the prompt's end cuts short was that long at least.
		if n := len(a.at); n > 0 && a.at[n-1].Before(over) {
			beside = append(beside, over.Sub(a.at[n-1]))
		}
	}
	if len(calm) == 0 || len(beside) == 0 {
		var pieces []int
		for _, a := range answers {
			pieces = append(pieces, len(a.at))
		}
		return g, fmt.Errorf("%s: %d pauses were seen before the prompt and %d beside it, of answers in %d pieces", x.command(), len(calm), len(beside), pieces)
	}
	g.calm, g.beside = quantile(calm, 0.99), quantile(beside, 0.99)
	return g, nil
}

// quantile of at least one duration.
func quantile(ds []time.Duration, q float64) time.Duration {
	slices.Sort(ds)
	return ds[min(len(ds)-1, int(q*float64(len(ds))))]
}

// ceiling compares with bare calls at the same shape: all slots get a prompt of 200 tokens and make 32.
func ceiling(ctx context.Context, c *contest, x *extra) error {
	own, err := startOurs(ctx, c.o, c.file, 0)
	if err != nil {
		return err
	}
	defer own.close()
	if _, err := round(ctx, own, c.full(trialRounds)); err != nil { // warm up
		return err
	}
	for i := range c.o.rounds {
		bare, err := bareCalls(ctx, c, x)
		if err != nil {
			return err
		}
		t, err := round(ctx, own, c.full(i))
		if err != nil {
			return err
		}
		x.Ratios = append(x.Ratios, t.rate/bare)
		x.detail("Lorry, tokens/s", t.rate)
		x.detail("llama-batched-bench, tokens/s", bare)
		progress("ceiling, round %d: ours %.1f, llama-batched-bench %.1f tokens/s", i+1, t.rate, bare)
	}
	return nil
}

// bareCalls is the better of llama-batched-bench's rates with cells for each sequence and with shared ones.
func bareCalls(ctx context.Context, c *contest, x *extra) (best float64, err error) {
	for _, more := range []string{"", unified} {
		rate, shown, err := batchedBench(ctx, c.o, c.file, more)
		if err != nil {
			return 0, err
		}
		x.Tried = append(x.Tried, trial{shown, rate})
		if rate > best {
			best, x.Peers = rate, shown
		}
	}
	return best, nil
}

// pipe compares the engine in its own process with the engine in this one.
func pipe(ctx context.Context, c *contest, x *extra) error {
	own, err := startOurs(ctx, c.o, c.file, 0)
	if err != nil {
		return err
	}
	defer own.close()
	inside, err := startInside(c.o, c.file)
	if err != nil {
		return err
	}
	defer inside.close()
	x.Peers = inside.command()
	sides := []side{own, inside}
	for i := range c.o.rounds + 1 {
		var rates [2]float64
		for k := range sides {
			n := (i + k) % len(sides)
			t, err := round(ctx, sides[n], c.full(i))
			if err != nil {
				return err
			}
			rates[n] = t.rate
		}
		progress("pipe, round %d: behind it %.1f, in this process %.1f tokens/s", i, rates[0], rates[1])
		if i == 0 { // both were cold
			continue
		}
		x.Ratios = append(x.Ratios, rates[0]/rates[1])
		x.detail("behind the pipe, tokens/s", rates[0])
		x.detail("in this process, tokens/s", rates[1])
	}
	return nil
}

// full is a request for each slot.
func (c *contest) full(round int) (out []request) {
	for i := range c.o.slots {
		out = append(out, c.words.request(seed(round, i), promptLength, answerLength))
	}
	return out
}
