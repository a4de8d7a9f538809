package llama

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"

	"lorry/engine"
)

// tuner varies one knob after the other, the ones before it as they were found best.
type tuner struct {
	cfg      Config
	progress func(stage string, done, of int)
	t        engine.Tuning
	dev      device
	lengths
}

// gain is how much faster another value must be than the plain one to be suggested: less is noise.
const gain = 1.05

// Tune measures which settings suit the device at hand. It takes a minute or two on a small model.
func Tune(c Config, progress func(stage string, done, of int)) (engine.Tuning, error) {
	u := &tuner{cfg: c, progress: progress, t: engine.Tuning{File: c.File, Cores: runtime.GOMAXPROCS(0)}, lengths: usual}
	err := u.run()
	return u.t, err
}

func (u *tuner) run() (err error) {
	if u.t.Format, err = Format(u.cfg.Lib, u.cfg.File); err != nil {
		return err
	}
	if u.dev, err = choose(u.cfg.Device, accelerators()); err != nil {
		return err
	}
	u.plain()
	for i, step := range []func() error{u.threads, u.rows, u.slots, u.kvType, u.flash} {
		u.progress("measure", i, 5)
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// plain is what an engine does by itself.
func (u *tuner) plain() {
	u.cfg.Threads = cmp.Or(u.cfg.Threads, defaultThreads())
	u.cfg.Context = benchCells
	u.cfg.setDefaults(u.dev)
	u.t.Device = u.dev.describe(u.cfg.Threads)
	u.t.Suggest = engine.Setting{Threads: u.cfg.Threads, Slots: u.cfg.Slots, Rows: u.cfg.Rows, KVType: "f16", Flash: true}
}

// try measures one setting. That it can't be is a finding, not a failure.
func (u *tuner) try(knob string, s engine.Setting, measure func(*Bench) (engine.Speed, error)) engine.Trial {
	c := u.cfg
	c.Threads, c.Slots, c.Rows, c.KVType, c.NoFlash = s.Threads, s.Slots, s.Rows, s.KVType, !s.Flash
	x := engine.Trial{Knob: knob, Setting: s}
	b, err := OpenBench(c)
	if err == nil {
		b.lengths = u.lengths
		x.Speed, err = measure(b)
		b.Close()
	}
	if err != nil {
		x.Error = err.Error()
	}
	u.t.Trials = append(u.t.Trials, x)
	return x
}

// threads tries all that leave a core for the rest of the program, and all cores, to be looked at: a neighbour of theirs
// slows them more than they gain.
func (u *tuner) threads() error {
	if u.dev.accelerated() {
		return nil
	}
	most := max(1, u.t.Cores-1)
	counts := []int{1, most / 2, most, u.t.Cores}
	slices.Sort(counts)
	var best engine.Trial
	for _, n := range slices.Compact(counts) {
		if n < 1 {
			continue
		}
		s := u.t.Suggest
		s.Threads = n
		x := u.try("threads", s, (*Bench).Measure)
		if x.Error == "" && n <= most && (best.Prompt == 0 || best.Job() > gain*x.Job()) {
			best = x
		}
	}
	return u.take(best, "threads")
}

func (u *tuner) rows() error {
	counts := []int{32, 128, 256, 512}
	if u.dev.accelerated() {
		counts = []int{128, 256, 1024, 2048}
	}
	return u.vary("rows", len(counts), (*Bench).Measure, func(s *engine.Setting, i int) { s.Rows = counts[i] })
}

// slots looks for the fewest that make nearly as many tokens a second as more.
func (u *tuner) slots() error {
	widths := []int{1, 2, 4, 8, 16}
	if u.dev.accelerated() {
		widths = append(widths, 32, 64, 128)
	}
	var all []engine.Trial
	for _, n := range widths {
		s := u.t.Suggest
		s.Slots, s.Rows = n, max(n, s.Rows)
		all = append(all, u.try("slots", s, func(b *Bench) (v engine.Speed, err error) {
			v.Together, err = b.Answers(n)
			return v, err
		}))
	}
	fastest := slices.MaxFunc(all, func(a, b engine.Trial) int { return cmp.Compare(a.Together, b.Together) })
	at := slices.IndexFunc(all, func(x engine.Trial) bool { return gain*x.Together >= fastest.Together })
	u.t.Suggest.Slots = all[at].Slots
	return nil
}

func (u *tuner) kvType() error {
	return u.vary("kv_type", 1, (*Bench).Measure, func(s *engine.Setting, _ int) { s.KVType = "q8_0" })
}

func (u *tuner) flash() error {
	if u.t.Suggest.KVType != "f16" {
		return nil // the small cache needs it
	}
	return u.vary("flash_attention", 1, (*Bench).Measure, func(s *engine.Setting, _ int) { s.Flash = false })
}

// vary tries the knob as it is, then n other values, and takes the best of these if it is worth it.
func (u *tuner) vary(knob string, n int, measure func(*Bench) (engine.Speed, error), change func(*engine.Setting, int)) error {
	eight := u.t.Suggest
	eight.Slots = max(Together, eight.Slots)
	best := u.try(knob, eight, measure)
	for i := range n {
		s := eight
		change(&s, i)
		x := u.try(knob, s, measure)
		if x.Error == "" && (best.Error != "" || best.Job() > gain*x.Job()) {
			best = x
		}
	}
	slots := u.t.Suggest.Slots
	err := u.take(best, knob)
	u.t.Suggest.Slots = slots
	return err
}

// take suggests a trial's setting; without any that worked, it tells why the last one did not.
func (u *tuner) take(best engine.Trial, knob string) error {
	if best.Prompt == 0 {
		return fmt.Errorf("llama: no value of %s works: %s", knob, u.t.Trials[len(u.t.Trials)-1].Error)
	}
	u.t.Suggest = best.Setting
	return nil
}
