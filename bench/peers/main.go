// Command peers compares Lorry's engine with llama-server and llama-batched-bench of the same llama.cpp, on the same
// weights, slots, threads, context and prompts: `make bench-engine`, alone on the machine.
//
// Each side has all requests of a workload at once, as a queue has them, and takes as many as it has slots. Answers are
// greedy and of a fixed length, so that tokens a second compare. Rounds alternate between the sides; medians of their
// ratios are reported. llama-server runs with the best of its own settings, found for each workload before it counts.
// Its requests go over HTTP on loopback, ours over the engine's pipe, as they do in service.
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
	"strings"
	"syscall"
	"time"
)

// options are what to compare, and how.
type options struct {
	root, lib, peers, model, out string
	formats                      []string
	only                         string
	rounds                       int
	slots, threads, context      int
	foreign                      bool // the model is none that adapters can be made for
	adapterDir                   string
	adapters                     []string // digests of the workload under way
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lorry-peers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.adapterDir = dir
	r := report{Begun: time.Now().UTC(), Machine: machine(), Threads: o.threads, Slots: o.slots, Context: o.context, Rounds: o.rounds,
		Model: filepath.Base(o.model)}
	for _, format := range o.formats {
		file, err := o.weights(ctx, dir, format)
		if err != nil {
			return err
		}
		f, err := compare(ctx, o, format, file)
		r.Formats = append(r.Formats, f)
		if err := errors.Join(err, r.save(o.out), f.print(os.Stdout, o)); err != nil {
			return err
		}
	}
	fmt.Printf("took %v on %s; written to %s\n", time.Since(r.Begun).Round(time.Second), r.Machine, o.out)
	return nil
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	f.StringVar(&o.root, "root", "..", "`folder` of lorry-engine and runtime/")
	f.StringVar(&o.lib, "lib", "", "`folder` of llama.cpp's libraries for our side; \"peers\": those that llama-server runs on (default: runtime/lib)")
	f.StringVar(&o.peers, "peers", "", "`folder` of llama-server (default: what bench/peers/build prints)")
	f.StringVar(&o.model, "model", "", "GGUF `file` (default: the demo's)")
	f.StringVar(&o.out, "out", "peers.json", "JSON `file` to write")
	f.StringVar(&o.only, "only", "", "measure only what has this `word` in its name")
	formats := f.String("formats", "q4_0,q4_1", "`formats` of the weights, by commas: quantized from the model where it has another; \"as-is\"")
	f.IntVar(&o.rounds, "rounds", 3, "of each workload; three take about 16 minutes on two cores")
	f.IntVar(&o.slots, "slots", 8, "sequences at the same moment")
	f.IntVar(&o.threads, "threads", runtime.GOMAXPROCS(0), "that compute")
	f.IntVar(&o.context, "context", 8192, "cells of the KV cache, in all")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if o.rounds < 1 || f.NArg() > 0 {
		return nil, errors.New("at least one round, and no arguments")
	}
	o.formats = strings.Split(*formats, ",")
	return o, o.find()
}

// find fills in where things are.
func (o *options) find() (err error) {
	rt := os.Getenv("LORRY_RUNTIME")
	if rt == "" {
		rt = filepath.Join(o.root, "runtime")
	}
	if o.foreign = o.model != ""; !o.foreign {
		o.model = filepath.Join(rt, "models", "smollm2.gguf")
	}
	if o.peers == "" {
		build := exec.Command(filepath.Join(o.root, "bench", "peers", "build"))
		build.Stderr = os.Stderr
		out, err := build.Output()
		if err != nil {
			return fmt.Errorf("build llama-server: %w", err)
		}
		o.peers = strings.TrimSpace(string(out))
	}
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

// weights are the model in a format, made by lorry-engine where it has another one.
func (o *options) weights(ctx context.Context, dir, format string) (string, error) {
	if format == "as-is" {
		return o.model, nil
	}
	file := filepath.Join(dir, format+".gguf")
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

// save writes what is there so far: a run that is ended half-way has measured something all the same.
func (r *report) save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// machine is what the numbers are of.
func machine() string {
	name := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s", name, runtime.GOMAXPROCS(0), runtime.GOOS)
}
