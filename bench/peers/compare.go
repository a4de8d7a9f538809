package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// contest is what the rows of one file of weights share.
type contest struct {
	o       *options
	file    string
	endless string // the same weights, for Kronk
	words   *vocabulary
}

// newContest asks llama-server about the model, and prepares Kronk's copy of it.
func newContest(ctx context.Context, o *options, format, file string) (*contest, error) {
	c := &contest{o: o, file: file, endless: filepath.Join(o.dir, format+"-endless.gguf")}
	s, err := startTheirs(ctx, o, file, 0, "")
	if err != nil {
		return nil, err
	}
	defer s.close()
	if c.words, err = learn(ctx, s, o.root); err != nil || o.noKronk != "" {
		return c, err
	}
	return c, neverEnding(file, c.endless, c.words.ends)
}

// measure fills in the rows that are wanted, in the table's order.
func (c *contest) measure(ctx context.Context, f *formatReport) error {
	for _, w := range workloads(c.words) {
		if !c.o.wants(w.key) {
			continue
		}
		r, err := c.workload(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.key, err)
		}
		f.Workloads = put(f.Workloads, r)
	}
	for _, k := range checks {
		if !c.o.wants(k.key) {
			continue
		}
		x := extra{Key: k.key, Name: k.name, Goal: k.goal, AtMost: k.atMost}
		if err := k.measure(ctx, c, &x); err != nil {
			return fmt.Errorf("%s: %w", k.key, err)
		}
		f.Extras = put(f.Extras, x)
	}
	return nil
}

// count is how many requests a workload has: as many for each slot, however many there are.
func (o *options) count(w workload) int { return w.n * max(1, o.slots/usualSlots) }

// rival is a side of a row, with the best of its settings, and what is to be reported of it.
type rival struct {
	start func() (side, error)
	out   *outcome
}

// workload lets the sides take turns at one: new prompts in each round, and another side is first. All are started anew
// in each: where a process's memory happens to lie makes it a tenth slower or faster for as long as it lives.
func (c *contest) workload(ctx context.Context, w workload) (row, error) {
	r := row{Key: w.key, Name: w.name, Goal: w.goal}
	if w.adapters > 0 && c.o.noAdapters != "" {
		r.Skipped = c.o.noAdapters
		return r, nil
	}
	rivals, err := c.rivals(ctx, w, &r)
	if err != nil {
		return r, err
	}
	for i := range c.o.rounds {
		requests := w.requests(i, c.o.count(w))
		turns, err := c.turns(ctx, w, rivals, i, requests)
		if err != nil {
			return r, err
		}
		for k, x := range rivals {
			x.out.add(turns[0], turns[k])
		}
		r.Answers += len(requests)
	}
	return r, nil
}

// turns has each rival answer a round's requests, when it has answered some others.
func (c *contest) turns(ctx context.Context, w workload, rivals []rival, number int, requests []request) ([]turn, error) {
	turns, sides := make([]turn, len(rivals)), make([]side, len(rivals))
	for k, x := range rivals {
		s, err := x.start()
		if err != nil {
			return nil, err
		}
		defer s.close()
		if _, err := round(ctx, s, c.trial(w, warmRounds+number)); err != nil {
			return nil, err
		}
		sides[k] = s
	}
	for k := range sides {
		x := (number + k) % len(sides)
		t, err := round(ctx, sides[x], requests)
		if err != nil {
			return nil, err
		}
		progress("%s, round %d: %s %.1f tokens/s", w.key, number+1, sides[x].name(), t.rate)
		turns[x] = t
	}
	return turns, nil
}

// rivals are those of a row, ours first.
func (c *contest) rivals(ctx context.Context, w workload, r *row) (rivals []rival, err error) {
	add := func(out *outcome, settings []string, start func(more string) (side, error)) {
		if err != nil {
			return
		}
		best, e := c.best(ctx, w, out, settings, start)
		if err = e; err == nil {
			rivals = append(rivals, rival{func() (side, error) { return start(best) }, out})
		}
	}
	add(&r.Ours, []string{""}, func(string) (side, error) { return startOurs(ctx, c.o, c.file, w.adapters) })
	add(&r.Server, w.server, func(more string) (side, error) { return startTheirs(ctx, c.o, c.file, w.adapters, more) })
	if r.Kronk.Missing = c.o.noKronk; r.Kronk.Missing != "" || err != nil {
		return rivals, err
	}
	file := c.endless
	if w.requests(0, 1)[0].schema != nil {
		file = c.file // the form ends the answer
	}
	add(&r.Kronk, w.kronk, func(more string) (side, error) {
		return startKronk(ctx, c.o, file, c.words.grammar, w.adapters, more)
	})
	if err != nil && ctx.Err() == nil { // the other two are compared all the same
		progress("%s: no Kronk: %v", w.key, err)
		why, _, _ := strings.Cut(err.Error(), "\n") // each request says the same
		r.Kronk, err = outcome{Missing: why}, nil
	}
	return rivals, err
}

// best tries settings on the workload and names the fastest.
func (c *contest) best(ctx context.Context, w workload, out *outcome, settings []string, start func(more string) (side, error)) (setting string, _ error) {
	best, at, err := choose(settings, start, func(i int, x side) (float64, error) {
		t, err := round(ctx, x, c.trial(w, trialRounds+i))
		if err == nil {
			out.Tried = append(out.Tried, trial{x.command(), t.rate})
			progress("%s, trial: %s %s: %.1f tokens/s", w.key, x.name(), settings[i], t.rate)
		}
		return t.rate, err
	})
	if err != nil {
		return "", err
	}
	out.Command = best.command()
	best.close()
	return settings[at], nil
}

// trial is what a side answers before a round that counts.
func (c *contest) trial(w workload, number int) []request {
	return w.requests(number, trialTurns*c.o.slots)
}

// choose starts a side with each of the settings, keeps the one that scores most, which has the settings at that index, and
// closes the others: all of them after an error.
func choose[S interface{ close() }](settings []string, start func(more string) (S, error), score func(i int, x S) (float64, error)) (best S, at int, err error) {
	drop, most := func() {}, math.Inf(-1)
	for i, more := range settings {
		x, err := start(more)
		if err != nil {
			drop()
			return best, 0, err
		}
		n, err := score(i, x)
		if err != nil {
			x.close()
			drop()
			return best, 0, err
		}
		if n < most {
			x.close()
			continue
		}
		drop()
		best, at, drop, most = x, i, x.close, n
	}
	return best, at, nil
}

// trialTurns are how many requests each slot has in a trial: what a slot held before costs some settings more.
const trialTurns = 2

// trialRounds are the numbers of rounds in which settings are tried, warmRounds of those that warm a side.
const trialRounds, warmRounds = 1000, 2000

// turn is one side's go at a round.
type turn struct {
	rate    float64 // tokens made a second
	answers []string
}

// round gives a side all requests at once.
func round(ctx context.Context, x side, requests []request) (t turn, err error) {
	var wg sync.WaitGroup
	answers, errs := make([]answer, len(requests)), make([]error, len(requests))
	begun := time.Now()
	for i, r := range requests {
		wg.Go(func() { answers[i], errs[i] = x.run(ctx, r, false) })
	}
	wg.Wait()
	took := time.Since(begun).Seconds()
	made := 0
	for i, a := range answers {
		made += a.tokens
		t.answers = append(t.answers, a.text)
		if errs[i] == nil && requests[i].schema == nil && a.tokens != requests[i].tokens {
			errs[i] = fmt.Errorf("%s made %d tokens, not %d", x.name(), a.tokens, requests[i].tokens)
		}
	}
	t.rate = float64(made) / took
	return t, errors.Join(errs...)
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}
