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

// rival is a side of a row, with what is to be reported of it.
type rival struct {
	side
	out *outcome
}

// workload lets the sides take turns at one: new prompts in each round, and another side is first.
func (c *contest) workload(ctx context.Context, w workload) (row, error) {
	r := row{Key: w.key, Name: w.name, Goal: w.goal}
	if w.adapters > 0 && c.o.noAdapters != "" {
		r.Skipped = c.o.noAdapters
		return r, nil
	}
	sides, err := c.sides(ctx, w, &r)
	for _, x := range sides {
		defer x.close()
	}
	if err != nil {
		return r, err
	}
	for i := range c.o.rounds {
		requests := w.requests(i, c.o.count(w))
		turns := make([]turn, len(sides))
		for k := range sides {
			x := (i + k) % len(sides)
			if turns[x], err = round(ctx, sides[x], requests); err != nil {
				return r, err
			}
			progress("%s, round %d: %s %.1f tokens/s", w.key, i+1, sides[x].name(), turns[x].rate)
		}
		for k, x := range sides {
			x.out.add(turns[0], turns[k])
		}
		r.Answers += len(requests)
	}
	return r, nil
}

// sides are started, ours first: each with the best of its settings.
func (c *contest) sides(ctx context.Context, w workload, r *row) (sides []rival, err error) {
	add := func(out *outcome, settings []string, start func(more string) (side, error)) {
		if err != nil {
			return
		}
		best, e := c.best(ctx, w, out, settings, start)
		if err = e; err == nil {
			sides = append(sides, rival{best, out})
		}
	}
	add(&r.Ours, []string{""}, func(string) (side, error) { return startOurs(ctx, c.o, c.file, w.adapters) })
	add(&r.Server, w.server, func(more string) (side, error) { return startTheirs(ctx, c.o, c.file, w.adapters, more) })
	if r.Kronk.Missing = c.o.noKronk; r.Kronk.Missing != "" || err != nil {
		return sides, err
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
	return sides, err
}

// best tries settings on the workload and keeps the fastest side. It is warm then.
func (c *contest) best(ctx context.Context, w workload, out *outcome, settings []string, start func(more string) (side, error)) (side, error) {
	best, err := choose(settings, start, func(i int, x side) (float64, error) {
		t, err := round(ctx, x, w.requests(trialRounds+i, trialTurns*c.o.slots))
		if err == nil {
			out.Tried = append(out.Tried, trial{x.command(), t.rate})
			progress("%s, trial: %s %s: %.1f tokens/s", w.key, x.name(), settings[i], t.rate)
		}
		return t.rate, err
	})
	if err == nil {
		out.Command = best.command()
	}
	return best, err
}

// choose starts a side with each of the settings, keeps the one that scores most and closes the others: all of them after
// an error.
func choose[S interface{ close() }](settings []string, start func(more string) (S, error), score func(i int, x S) (float64, error)) (best S, err error) {
	drop, most := func() {}, math.Inf(-1)
	for i, more := range settings {
		x, err := start(more)
		if err != nil {
			drop()
			return best, err
		}
		n, err := score(i, x)
		if err != nil {
			x.close()
			drop()
			return best, err
		}
		if n < most {
			x.close()
			continue
		}
		drop()
		best, drop, most = x, x.close, n
	}
	return best, nil
}

// trialTurns are how many requests each slot has in a trial: what a slot held before costs some settings more.
const trialTurns = 2

// trialRounds are the numbers of rounds before those that count.
const trialRounds = 1000

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
