// Command peers compares Lorry's engine with llama-server and llama-batched-bench of the same llama.cpp and with Kronk's
// SDK, on the same weights, slots, threads, cells and prompts: `make bench-engine`, alone on the machine.
//
// Each side has all requests of a workload at once, as a queue has them, and takes as many as it has slots. Answers are
// greedy and of a fixed length, so that tokens a second compare. Rounds take turns, and another side is first in each;
// medians of their ratios are reported. llama-server and Kronk run with the best of their own settings, found for each
// workload before it counts; ours with its defaults. llama-server's requests go over HTTP on loopback, ours and Kronk's
// over a pipe to another process, as they do in service.
//
// A few things are not the same, and cannot be: Kronk takes text, which is chosen such that it becomes the same tokens,
// and cannot be told to ignore the end of an answer, so its copy of the weights says that this end is never drawn. It was
// made for a later llama.cpp, and runs on our libraries. Ours are llama.cpp's packaged ones, which pick the code for the
// CPU when they start; llama-server was built for this very CPU. `-lib peers` has all run on the latter.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what to compare, and how.
type options struct {
	root, lib, peers, kronk, model string
	engine                         string // more flags of lorry-engine
	noKronk                        string // why it is not measured
	output, out                    string
	join                           bool
	weights, rows                  []string
	rounds                         int
	slots, threads, context        int
	shape                          string // of a model of random weights, in place of a trained one
	write                          string // where to, and no more
	noAdapters                     string // why none can be made for the model
	dir                            string
	adapters                       []string // digests
}

// rowKeys are the table's rows, in its order.
var rowKeys = func() (keys []string) {
	for _, w := range workloads(nil) {
		keys = append(keys, w.key)
	}
	for _, c := range checks {
		keys = append(keys, c.key)
	}
	return keys
}()

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err == nil {
		err = o.find()
	}
	switch {
	case err != nil:
		return err
	case o.write != "":
		return shapes[o.shape].write(o.write, o.weights[0], o.model)
	}
	if o.dir, err = os.MkdirTemp("", "lorry-peers-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	if err := o.makeAdapters(); err != nil {
		return err
	}
	r := report{Begun: time.Now().UTC(), Machine: machine(), Threads: o.threads, Slots: o.slots, Context: o.context, Model: o.modelName()}
	if o.join {
		if err := r.join(o.out); err != nil {
			return err
		}
	}
	begun := time.Now()
	for _, format := range o.weights {
		if err := o.compare(ctx, &r, format); err != nil {
			return err
		}
	}
	progress("took %v; written to %s", time.Since(begun).Round(time.Second), o.out)
	if o.output == "json" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.print(os.Stdout)
}

// compare measures the rows on one format of the weights. What was measured before something went wrong is kept.
func (o *options) compare(ctx context.Context, r *report, format string) error {
	file, err := o.quantized(ctx, format)
	if err != nil {
		return err
	}
	c, err := newContest(ctx, o, format, file)
	if err != nil {
		return err
	}
	f := r.format(format)
	err = c.measure(ctx, &f)
	r.Formats = put(r.Formats, f)
	return errors.Join(err, r.save(o.out))
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	rows := f.String("row", "", "measure only these `rows`, by commas: "+strings.Join(rowKeys, ", "))
	weights := f.String("weights", "q4_0,q4_1", "`formats`, by commas, quantized from the model by lorry-engine where it has another; \"as-is\"")
	f.IntVar(&o.rounds, "rounds", 3, "of each row")
	f.StringVar(&o.output, "o", "markdown", "`format` of what is printed: markdown or json")
	f.StringVar(&o.out, "out", "peers.json", "JSON `file` to write")
	f.BoolVar(&o.join, "join", false, "keep the other rows of that file, from an earlier run on the same terms")
	f.StringVar(&o.root, "root", "..", "`folder` of lorry-engine and runtime/")
	f.StringVar(&o.lib, "lib", "", "`folder` of llama.cpp's libraries for our side and Kronk; \"peers\": those that llama-server runs on (default: runtime/lib)")
	f.StringVar(&o.peers, "peers", "", "`folder` of llama-server (default: what bench/peers/build prints)")
	f.StringVar(&o.kronk, "kronk", "", "`folder` of kronk (default: what bench/kronk/build prints); \"none\": it is left out")
	f.StringVar(&o.model, "model", "", "GGUF `file` (default: the demo's)")
	f.StringVar(&o.shape, "shape", "", "measure on a model of random weights in this `shape`, with the model's vocabulary, as long as a trained one takes: "+shapeNames())
	f.StringVar(&o.write, "write", "", "write the model of -shape in the first of -weights to this `file`, as for `lorry up --model-file`, and measure nothing")
	f.StringVar(&o.engine, "engine", "", "more `flags` of lorry-engine, to see what they bring")
	f.IntVar(&o.slots, "slots", usualSlots, "sequences at the same moment")
	f.IntVar(&o.threads, "threads", runtime.GOMAXPROCS(0), "that compute")
	f.IntVar(&o.context, "context", 8192, "cells of the KV cache, in all")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.weights, o.rows = list(*weights), list(*rows)
	for _, row := range o.rows {
		if !slices.Contains(rowKeys, row) {
			return nil, fmt.Errorf("there is no row %q: -row takes %s", row, strings.Join(rowKeys, ", "))
		}
	}
	if _, ok := shapes[o.shape]; o.shape != "" && !ok {
		return nil, fmt.Errorf("there is no shape %q: -shape takes %s", o.shape, shapeNames())
	}
	switch {
	case o.write != "" && o.shape == "":
		return nil, fmt.Errorf("-write needs a -shape: %s", shapeNames())
	case f.NArg() > 0:
		return nil, fmt.Errorf("%q: no arguments are taken", f.Arg(0))
	case o.rounds < 1 || o.slots < 1 || o.threads < 1 || o.context < 1 || len(o.weights) == 0:
		return nil, errors.New("-rounds, -slots, -threads and -context are at least 1, and -weights names one format")
	case o.output != "markdown" && o.output != "json":
		return nil, fmt.Errorf("-o %s: it is markdown or json", o.output)
	}
	return o, nil
}

// list takes apart what commas join.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func (o *options) wants(row string) bool { return len(o.rows) == 0 || slices.Contains(o.rows, row) }

// find fills in where things are, and has built what is missing.
func (o *options) find() (err error) {
	rt := os.Getenv("LORRY_RUNTIME")
	if rt == "" {
		rt = filepath.Join(o.root, "runtime")
	}
	if o.model == "" {
		o.model = filepath.Join(rt, "models", "smollm2.gguf")
	}
	if o.write != "" {
		return nil
	}
	if o.peers == "" {
		if o.peers, err = o.built("peers"); err != nil {
			return fmt.Errorf("build llama-server: %w", err)
		}
	}
	o.findKronk()
	switch o.lib {
	case "":
		o.lib = filepath.Join(rt, "lib")
	case "peers":
		o.lib = o.peers
	}
	for _, p := range []*string{&o.lib, &o.model, &o.peers} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
		if _, err := os.Stat(*p); err != nil {
			return fmt.Errorf("%w: run make build", err)
		}
	}
	return nil
}

// findKronk goes without it where it cannot be built: its modules and its Go must be fetched.
func (o *options) findKronk() {
	if o.kronk == "none" {
		o.noKronk = "left out by -kronk none"
		return
	}
	if o.kronk != "" {
		return
	}
	var err error
	if o.kronk, err = o.built("kronk"); err != nil {
		o.noKronk = fmt.Sprintf("bench/kronk/build failed here: %v", err)
		progress("no Kronk: %s", o.noKronk)
	}
}

// built is the folder that a program's script prints, which builds it the first time.
func (o *options) built(name string) (string, error) {
	build := exec.Command(filepath.Join(o.root, "bench", name, "build"))
	build.Stderr = os.Stderr
	out, err := build.Output()
	return strings.TrimSpace(string(out)), err
}

// modelName is what a report calls the model.
func (o *options) modelName() string {
	if o.shape != "" {
		return "random weights, " + o.shape
	}
	return filepath.Base(o.model)
}

// quantized is the model in a format, made by lorry-engine where it has another one.
func (o *options) quantized(ctx context.Context, format string) (string, error) {
	file := filepath.Join(o.dir, format+".gguf")
	switch {
	case o.shape != "":
		progress("writing random weights: %s, %s", o.shape, format)
		return file, shapes[o.shape].write(file, format, o.model)
	case format == "as-is":
		return o.model, nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(o.root, "lorry-engine"), "quantize", "--lib", o.lib, "--model", o.model, "--to", format,
		"--out", file, "--requantize", "--no-measure")
	in, err := cmd.StdinPipe() // it ends when its input does
	if err != nil {
		return "", err
	}
	defer in.Close()
	said, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return file, nil
	case strings.Contains(string(said), "nothing to do"):
		return o.model, nil
	}
	return "", fmt.Errorf("write the model as %s: %w: %s", format, err, said)
}

// machine is what the numbers are of.
func machine() string {
	name := field("/proc/cpuinfo", "model name")
	if name == "" {
		name = runtime.GOARCH
	}
	memory := ""
	var kib int
	if n, _ := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d kB", &kib); n == 1 {
		memory = fmt.Sprintf(", %d GiB", (kib+1<<19)>>20)
	}
	return fmt.Sprintf("%s, %d cores%s, %s", name, runtime.GOMAXPROCS(0), memory, runtime.GOOS)
}

// field is the first line's value that a file of Linux's has under a name.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
