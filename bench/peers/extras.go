package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// What is measured beside the workloads.
const (
	pauseName   = "pause between tokens, p99, beside a 1,500-token prompt ÷ without"
	ceilingName = "tokens/s ÷ llama-batched-bench"
	pipeName    = "engine behind its pipe ÷ in this process"
)

// extra is one of these: a ratio with its goal, of each round.
type extra struct {
	Name   string             `json:"name"`
	Goal   float64            `json:"goal"`
	AtMost bool               `json:"at_most,omitempty"` // the goal is a bound from above
	Ratios []float64          `json:"ratios"`
	Peer   []float64          `json:"llama_server_ratios,omitempty"`
	Detail map[string]float64 `json:"detail"`
	Note   string             `json:"note,omitempty"`
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

func pause(ctx context.Context, s *sides, vocab int) (x extra, err error) {
	x.Name, x.Goal, x.AtMost = pauseName, 2, true
	own, err := s.own(ctx)
	if err != nil {
		return x, err
	}
	peer, err := s.peer(ctx, unified) // without it no slot holds so long a prompt
	if err != nil {
		return x, err
	}
	for i := range min(2, s.o.rounds) {
		ours, err := pauses(ctx, own, vocab, i)
		if err != nil {
			return x, err
		}
		theirs, err := pauses(ctx, peer, vocab, i)
		if err != nil {
			return x, err
		}
		x.Ratios, x.Peer = append(x.Ratios, ours.ratio()), append(x.Peer, theirs.ratio())
		for name, p := range map[string]gaps{"ours": ours, "llama-server": theirs} {
			x.detail(name+" ms calm", ms(p.calm))
			x.detail(name+" ms beside", ms(p.beside))
			x.detail(name+" s for the prompt", p.prompt.Seconds())
		}
		progress("pause: ours %v → %v (prompt %v), llama-server %v → %v (prompt %v)", ours.calm, ours.beside, ours.prompt, theirs.calm, theirs.beside, theirs.prompt)
	}
	x.Note = peer.command()
	return x, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// gaps are p99 of the time between two tokens of an answer, before and while the prompt is computed, and how long it was.
type gaps struct{ calm, beside, prompt time.Duration }

func (g gaps) ratio() float64 { return float64(g.beside) / float64(g.calm) }

// pauses has some answers made, and computes a long prompt beside them.
func pauses(ctx context.Context, x side, vocab, round int) (g gaps, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	answers, errs := make([]answer, pauseRunning), make([]error, pauseRunning)
	for i := range answers {
		r := request{prompt: words(vocab, 900+10*round+i, shortLength), tokens: pauseTokens}
		wg.Go(func() { answers[i], errs[i] = x.run(ctx, r, true) })
	}
	// One more answer says when the others are well under way.
	if _, err := x.run(ctx, request{prompt: words(vocab, 950+round, shortLength), tokens: pauseCalm}, false); err != nil {
		return g, err
	}
	calmEnds := time.Now()
	if _, err := x.run(ctx, request{prompt: words(vocab, 960+round, pausePrompt), tokens: 1}, false); err != nil {
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
func ceiling(ctx context.Context, s *sides, vocab int) (x extra, err error) {
	x.Name, x.Goal = ceilingName, 0.95
	own, err := s.own(ctx)
	if err != nil {
		return x, err
	}
	for i := range min(2, s.o.rounds) {
		bare, shown, err := batchedBench(ctx, s.o, s.file)
		if err != nil {
			return x, err
		}
		t, err := s.round(ctx, own, unique(vocab, 300+i, s.o.slots))
		if err != nil {
			return x, err
		}
		x.Ratios = append(x.Ratios, t.rate/bare)
		x.detail("ours", t.rate)
		x.detail("llama-batched-bench", bare)
		x.Note = shown
		progress("ceiling: ours %.1f, llama-batched-bench %.1f tokens/s", t.rate, bare)
	}
	return x, nil
}

// pipe compares the engine in its own process with the engine in this one.
func pipe(ctx context.Context, s *sides, vocab int) (x extra, err error) {
	x.Name, x.Goal = pipeName, 0.98
	own, err := s.own(ctx)
	if err != nil {
		return x, err
	}
	inside, err := startInside(s.o, s.file)
	if err != nil {
		return x, err
	}
	defer inside.close()
	for i := range s.o.rounds {
		requests := unique(vocab, 400+i, s.o.slots)
		order := []side{own, inside}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		rates := map[side]float64{}
		for _, y := range order {
			t, err := s.round(ctx, y, requests)
			if err != nil {
				return x, err
			}
			rates[y] = t.rate
		}
		x.Ratios = append(x.Ratios, rates[own]/rates[inside])
		x.detail("behind the pipe", rates[own])
		x.detail("in this process", rates[inside])
		progress("pipe: behind it %.1f, in this process %.1f tokens/s", rates[own], rates[inside])
	}
	return x, nil
}

func unique(vocab, round, n int) (out []request) {
	for i := range n {
		out = append(out, request{prompt: words(vocab, round*1000+i, promptLength), tokens: answerLength})
	}
	return out
}
