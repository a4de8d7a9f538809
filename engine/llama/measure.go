package llama

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"lorry/engine"
)

// perplexityText is prose, talk, instructions, code, a letter: about a thousand tokens. It was written for this program,
// so that no model has learned it.
//
//go:embed perplexity.txt
var perplexityText string

// Bench is a model on a device, loaded to be measured and not to serve.
type Bench struct {
	m    *model
	dev  device
	cfg  Config
	seqs []*sequence
	lengths
}

// lengths are of what is measured, in tokens: long enough that a call's own cost is as in service.
type lengths struct {
	prompt int
	begins int // what an answer begins with
	answer int // what is made of it
	times  int // that each is measured; the first one warms up too
}

var usual = lengths{prompt: 256, begins: 32, answer: 16, times: 3}

// benchCells are enough for the shipped text, and for the widest batch that is measured with its prompts.
const benchCells = 8192

// OpenBench loads a model as [Open] does.
func OpenBench(c Config) (*Bench, error) {
	if err := load(c.Lib); err != nil {
		return nil, err
	}
	library.log.begin(c.Log)
	if c.Threads == 0 {
		c.Threads = defaultThreads()
	}
	dev, err := choose(c.Device, accelerators())
	if err != nil {
		return nil, err
	}
	if c.Context == 0 {
		c.Context = benchCells
	}
	c.setDefaults(dev)
	m, err := openModel(c, dev)
	if err != nil {
		return nil, err
	}
	b := &Bench{m: m, dev: dev, cfg: c, lengths: usual}
	for i := range c.Slots {
		b.seqs = append(b.seqs, &sequence{slot: i})
	}
	return b, nil
}

// Close frees the model.
func (b *Bench) Close() { b.m.free() }

// Device says what computes.
func (b *Bench) Device() string { return b.dev.describe(b.cfg.Threads) }

// Together is how many answers are made together to say what a full batch does.
const Together = 8

// Measure takes each speed some times and gives the median.
func (b *Bench) Measure() (s engine.Speed, err error) {
	if s.Prompt, err = b.Prompt(b.prompt); err != nil {
		return s, err
	}
	if s.Alone, err = b.Answers(1); err != nil {
		return s, err
	}
	s.Together, err = b.Answers(min(Together, len(b.seqs)))
	return s, err
}

// Prompt is how many tokens a second of one prompt of n are computed.
func (b *Bench) Prompt(n int) (float64, error) {
	return b.median(n, func() error { return b.feed(b.seqs[0], 0, n) })
}

// Answers is how many tokens a second are made in all, of width answers together.
func (b *Bench) Answers(width int) (float64, error) {
	if width > len(b.seqs) {
		return 0, fmt.Errorf("llama: %d answers do not fit into %d slots", width, len(b.seqs))
	}
	begin := func() error {
		for _, s := range b.seqs[:width] {
			if err := b.feed(s, 0, b.begins); err != nil {
				return err
			}
		}
		return nil
	}
	return b.medianAfter(begin, width*b.answer, func() error {
		for i := range b.answer {
			if err := b.step(b.seqs[:width], b.begins+i); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *Bench) median(tokens int, f func() error) (float64, error) {
	return b.medianAfter(func() error { return nil }, tokens, f)
}

// medianAfter times f, each time after begin and on an empty cache.
func (b *Bench) medianAfter(begin func() error, tokens int, f func() error) (float64, error) {
	var rates []float64
	for range b.times {
		b.clear()
		if err := begin(); err != nil {
			return 0, err
		}
		begun := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		rates = append(rates, float64(tokens)/time.Since(begun).Seconds())
	}
	slices.Sort(rates)
	return rates[len(rates)/2], nil
}

func (b *Bench) clear() {
	for _, s := range b.seqs {
		b.m.remove(s.slot, 0)
	}
}

// token is any ordinary one: which it is changes no time.
func (b *Bench) token(slot, pos int) int32 {
	return int32((1000 + slot*7919 + pos*104729) % b.m.vocab.size)
}

// feed computes n tokens of a prompt, in calls as large as they may be.
func (b *Bench) feed(s *sequence, from, n int) error {
	for n > 0 {
		rows := make([]row, min(n, b.m.rows))
		for i := range rows {
			rows[i] = row{s, b.token(s.slot, from+i), from + i, i == n-1}
		}
		if err := b.decode(rows); err != nil {
			return err
		}
		from, n = from+len(rows), n-len(rows)
	}
	return nil
}

// step computes one token of each answer.
func (b *Bench) step(seqs []*sequence, pos int) error {
	rows := make([]row, len(seqs))
	for i, s := range seqs {
		rows[i] = row{s, b.token(s.slot, pos), pos, true}
	}
	return b.decode(rows)
}

// decode returns when the call's logits are there: an accelerator computes on after the call.
func (b *Bench) decode(rows []row) error {
	if code := b.m.decode(rows); code != 0 {
		return errors.New("llama: measure: " + b.m.why(code))
	}
	if last := len(rows) - 1; rows[last].output {
		b.m.logits(last)
	}
	return nil
}

// Perplexity is how many tokens the model wavers between at each of the shipped text, and the standard error of that.
func (b *Bench) Perplexity(progress func(done, of int)) (ppl, stderr float64, err error) {
	b.clear()
	ids := b.m.vocab.begin(b.m.vocab.tokenize(perplexityText, false))
	ids = ids[:min(len(ids), b.m.limit())]
	var losses []float64
	for at := 0; at < len(ids)-1; at += b.m.rows {
		progress(at, len(ids))
		part, err := b.losses(ids, at, min(at+b.m.rows, len(ids)-1))
		if err != nil {
			return 0, 0, err
		}
		losses = append(losses, part...)
	}
	b.clear()
	ppl, stderr = perplexity(losses)
	return ppl, stderr, nil
}

// losses are how unlikely the model held the tokens after those from one index to another.
func (b *Bench) losses(ids []int32, from, to int) (out []float64, err error) {
	rows := make([]row, 0, to-from)
	for i := from; i < to; i++ {
		rows = append(rows, row{b.seqs[0], ids[i], i, true})
	}
	if err := b.decode(rows); err != nil {
		return nil, err
	}
	for i := range rows {
		own, _ := logprobs(b.m.logits(i), ids[from+i+1], 0)
		out = append(out, -own)
	}
	return out, nil
}

// perplexity is e to the mean loss, with its standard error by the delta method.
func perplexity(losses []float64) (ppl, stderr float64) {
	n, sum, squares := float64(len(losses)), 0.0, 0.0
	for _, x := range losses {
		sum += x
	}
	mean := sum / n
	for _, x := range losses {
		squares += (x - mean) * (x - mean)
	}
	ppl = math.Exp(mean)
	return ppl, ppl * math.Sqrt(squares/(n-1)/n)
}

// MeasureFile is a model's file with all its measures.
func MeasureFile(c Config, progress func(stage string, done, of int)) (f engine.Measured, device string, err error) {
	f.File = c.File
	if f.Format, err = Format(c.Lib, c.File); err != nil {
		return f, "", err
	}
	st, err := os.Stat(c.File)
	if err != nil {
		return f, "", fmt.Errorf("llama: %w", err)
	}
	f.Bytes = st.Size()
	progress("measure "+f.Format, 0, 0)
	b, err := OpenBench(c)
	if err != nil {
		return f, "", err
	}
	defer b.Close()
	if f.Speed, err = b.Measure(); err != nil {
		return f, "", err
	}
	f.Perplexity, f.Error, err = b.Perplexity(func(done, of int) { progress("perplexity of "+f.Format, done, of) })
	return f, b.Device(), err
}
