package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lorry/engine"
	"lorry/engine/child"
	"lorry/engine/llama"
)

// fastest stands for the format that makes a job shortest on this device, of those in candidates.
const fastest = "fastest"

// candidates are compared for it: a small one that llama.cpp repacks for the processor, a good one, a nearly lossless one.
var candidates = []string{"q4_0", "q4_k_m", "q8_0"}

// quantizing is one run of the quantize command.
type quantizing struct {
	llama.Config
	to, out    string
	requantize bool
	unmeasured bool
	say        *child.Reporter
	files      []string // to be gone if the run is ended
	result     engine.Quantized
}

// quantize is `lorry-engine quantize`, which `lorry quantize` runs.
func quantize(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	q := &quantizing{say: child.NewReporter(stdout)}
	f := flag.NewFlagSet("lorry-engine quantize", flag.ContinueOnError)
	f.SetOutput(stderr)
	modelFlags(f, &q.Config)
	f.StringVar(&q.to, "to", "", "`format` to write: one of "+strings.Join(llama.Formats(), ", ")+", or "+fastest)
	f.StringVar(&q.out, "out", "", "`file` to write")
	f.BoolVar(&q.requantize, "requantize", false, "take a model that is quantized already")
	f.BoolVar(&q.unmeasured, "no-measure", false, "measure neither speed nor perplexity")
	if err := f.Parse(args); err != nil {
		return usageError{err}
	}
	if q.Lib == "" || q.File == "" || q.to == "" || q.out == "" {
		return usageError{errors.New("--lib, --model, --to and --out must be given")}
	}
	for _, to := range append([]string{q.to}, candidates...) {
		q.files = append(q.files, q.of(to, q.out).Partial(), q.trial(to), q.of(to, q.trial(to)).Partial())
	}
	child.OnStop(stdin, q.tidy)
	defer q.tidy()
	if err := q.run(); err != nil {
		return err
	}
	return q.say.Result(q.result)
}

// modelFlags are those that all commands on a model have.
func modelFlags(f *flag.FlagSet, c *llama.Config) {
	f.StringVar(&c.Lib, "lib", "", "`folder` of llama.cpp's libraries")
	f.StringVar(&c.File, "model", "", "GGUF `file`")
	f.StringVar(&c.Device, "device", "", "what computes: cpu, gpu, a `kind` (cuda) or a name (cuda:1); default: a GPU where there is one")
	f.IntVar(&c.Threads, "threads", 0, "threads that compute (default: all cores but one)")
}

// tidy leaves no half file, whatever ended the run.
func (q *quantizing) tidy() {
	for _, f := range q.files {
		os.Remove(f)
	}
}

func (q *quantizing) of(to, out string) llama.Quantization {
	return llama.Quantization{Lib: q.Lib, From: q.File, Out: out, To: to, Requantize: q.requantize, Threads: q.Threads,
		Progress: func(done, of int) { q.say.Progress("write "+to, done, of) }}
}

// trial is where a candidate is written to be measured.
func (q *quantizing) trial(to string) string {
	return filepath.Join(filepath.Dir(q.out), "."+filepath.Base(q.out)+"."+to)
}

func (q *quantizing) run() (err error) {
	if q.to == fastest {
		return q.compare()
	}
	if err := q.of(q.to, q.out).Check(); err != nil {
		return err
	}
	if q.result.Before, err = q.measure(q.File); err != nil {
		return err
	}
	if q.result.Seconds, err = q.write(q.to, q.out); err != nil {
		return err
	}
	q.result.After, err = q.measure(q.out)
	return err
}

// write says how many seconds it took.
func (q *quantizing) write(to, out string) (float64, error) {
	begun := time.Now()
	err := llama.Quantize(q.of(to, out))
	return time.Since(begun).Seconds(), err
}

// measure looks at a file; at its size alone where that is all that is wanted.
func (q *quantizing) measure(file string) (f engine.Measured, err error) {
	if !q.unmeasured {
		c := q.Config
		c.File = file
		f, q.result.Device, err = llama.MeasureFile(c, q.say.Progress)
		return f, err
	}
	st, err := os.Stat(file)
	if err != nil {
		return f, err
	}
	format, err := llama.Format(q.Lib, file)
	return engine.Measured{File: file, Format: format, Bytes: st.Size()}, err
}

// compare writes and measures every candidate, and keeps the fastest.
func (q *quantizing) compare() (err error) {
	if q.unmeasured {
		return usageError{fmt.Errorf("--to %s is found by measuring: leave out --no-measure", fastest)}
	}
	if err := q.of(candidates[0], q.out).Check(); err != nil && !errors.Is(err, llama.ErrSameFormat) {
		return err
	}
	if q.result.Before, err = q.measure(q.File); err != nil {
		return err
	}
	took := map[string]float64{}
	for _, to := range candidates {
		if to == q.result.Before.Format {
			continue
		}
		if took[to], err = q.write(to, q.trial(to)); err != nil {
			return err
		}
		f, err := q.measure(q.trial(to))
		if err != nil {
			return err
		}
		q.result.Tried = append(q.result.Tried, f)
	}
	return q.keep(took)
}

// keep names the fastest as was asked for. The others are trials, which tidy removes.
func (q *quantizing) keep(took map[string]float64) error {
	best := slices.MinFunc(q.result.Tried, func(a, b engine.Measured) int { return cmp.Compare(a.Job(), b.Job()) })
	if err := os.Link(best.File, q.out); err != nil { // unlike a rename, it replaces nothing
		return fmt.Errorf("keep %s: %w", best.Format, err)
	}
	for i := range q.result.Tried {
		q.result.Tried[i].File = ""
	}
	best.File = q.out
	q.result.After, q.result.Seconds = best, took[best.Format]
	return nil
}
