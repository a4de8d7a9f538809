package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// sides are those under comparison for one file of weights, each started once: settings of llama-server and the number
// of adapters make them differ.
type sides struct {
	o      *options
	file   string
	theirs map[string]*theirs
	ours   map[int]*ours
}

func (s *sides) close() {
	for _, x := range s.theirs {
		x.close()
	}
	for _, x := range s.ours {
		x.close()
	}
}

func (s *sides) peer(ctx context.Context, more string) (*theirs, error) {
	key := fmt.Sprint(len(s.o.adapters), more)
	if x := s.theirs[key]; x != nil {
		return x, nil
	}
	x, err := startTheirs(ctx, s.o, s.file, more)
	if x != nil {
		s.theirs[key] = x
	}
	return x, err
}

func (s *sides) own(ctx context.Context) (*ours, error) {
	if x := s.ours[len(s.o.adapters)]; x != nil {
		return x, nil
	}
	x, err := startOurs(ctx, s.o, s.file)
	if err == nil {
		s.ours[len(s.o.adapters)] = x
	}
	return x, err
}

// compare measures everything on one file of weights.
func compare(ctx context.Context, o *options, format, file string) (f formatReport, err error) {
	f.Format = format
	s := &sides{o: o, file: file, theirs: map[string]*theirs{}, ours: map[int]*ours{}}
	defer s.close()
	first, err := s.peer(ctx, "")
	if err != nil {
		return f, err
	}
	vocab, err := first.vocab()
	if err != nil {
		return f, err
	}
	for _, w := range workloads(vocab) {
		if !o.wants(w.name) {
			continue
		}
		row, err := s.workload(ctx, w)
		if err != nil {
			return f, fmt.Errorf("%s: %w", w.name, err)
		}
		f.Workloads = append(f.Workloads, row)
	}
	o.adapters = nil
	for name, measure := range map[string]func(context.Context, *sides, int) (extra, error){pauseName: pause, ceilingName: ceiling, pipeName: pipe} {
		if !o.wants(name) {
			continue
		}
		x, err := measure(ctx, s, vocab)
		if err != nil {
			return f, fmt.Errorf("%s: %w", name, err)
		}
		f.Extras = append(f.Extras, x)
	}
	slices.SortFunc(f.Extras, func(a, b extra) int { return strings.Compare(a.Name, b.Name) })
	return f, nil
}

func (o *options) wants(name string) bool { return strings.Contains(name, o.only) }

// workload lets both sides take turns at one.
func (s *sides) workload(ctx context.Context, w workload) (row row, err error) {
	row.Name, row.Goal = w.name, w.goal
	if w.adapters > 0 && s.o.foreign {
		row.Skipped = "its adapters fit the demo's model alone"
		return row, nil
	}
	s.o.adapters = s.o.makeAdapters(w.adapters)
	own, err := s.own(ctx)
	if err != nil {
		return row, err
	}
	peer, err := s.best(ctx, w, &row)
	if err != nil {
		return row, err
	}
	row.Ours, row.Theirs = own.command(), peer.command()
	if _, err := s.round(ctx, own, w.requests(100, s.o.slots)); err != nil { // warm up, as best has done for the peer
		return row, err
	}
	for i := range s.o.rounds {
		// new prompts each time, and who is first alternates
		requests := w.requests(i, w.n)
		order := []side{peer, own}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		rates := map[side]turn{}
		for _, x := range order {
			if rates[x], err = s.round(ctx, x, requests); err != nil {
				return row, err
			}
		}
		row.add(rates[own], rates[peer])
		progress("%s: round %d: ours %.1f, llama-server %.1f tokens/s", w.name, i+1, rates[own].rate, rates[peer].rate)
	}
	return row, nil
}

// best tries llama-server's settings on the workload and keeps the fastest.
func (s *sides) best(ctx context.Context, w workload, row *row) (*theirs, error) {
	var best *theirs
	fastest := 0.0
	for i, more := range append([]string{""}, w.settings...) {
		x, err := s.peer(ctx, more)
		if err != nil {
			return nil, err
		}
		t, err := s.round(ctx, x, w.requests(200+i, max(s.o.slots, w.n/2)))
		if err != nil {
			return nil, err
		}
		row.Tried = append(row.Tried, trial{x.command(), t.rate})
		progress("%s: llama-server %s: %.1f tokens/s", w.name, more, t.rate)
		if t.rate > fastest {
			best, fastest = x, t.rate
		}
	}
	return best, nil
}

// turn is one side's go at a round.
type turn struct {
	rate    float64 // tokens made a second
	answers []string
}

// round gives a side all requests at once.
func (s *sides) round(ctx context.Context, x side, requests []request) (t turn, err error) {
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
			errs[i] = fmt.Errorf("%d tokens were made, not %d", a.tokens, requests[i].tokens)
		}
	}
	t.rate = float64(made) / took
	return t, errors.Join(errs...)
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}
