// Command lorry-engine is the process that runs llama.cpp for lorry: one model behind a pipe, nothing else. It is an
// executable of its own because llama.cpp ends its process when it finds a fault, and because the binding to it needs
// a library (libffi) that lorry itself does without.
//
// Beside that it has tools, which do one thing and end: check looks at a file that nobody trusts yet, quantize writes a
// model in another format, and render is the process in which a model's chat template runs.
//
// It lives as long as the pipe to its parent does, and takes no notice of the signals by which a terminal or a service
// manager ends a whole group of processes: the parent drains first, then closes the pipe.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/rs/zerolog"

	"lorry/engine"
	"lorry/engine/child"
	"lorry/engine/llama"
)

// Exit codes: 1 is a failure that stderr tells of, 2 a wrong command line (and what Go exits with after a crash).
func main() {
	err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(usageError)):
		fmt.Fprintln(os.Stderr, "lorry-engine:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "lorry-engine:", err)
		os.Exit(1)
	}
}

// usageError is a command line that can't be meant.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// tools are commands that do one thing and end, beside the engine itself.
var tools = map[string]func(args []string, stdin io.Reader, stdout, stderr io.Writer) error{
	"check":    check,
	"quantize": quantize,
	"render":   render,
	"tune":     tune,
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) > 0 && tools[args[0]] != nil {
		return tools[args[0]](args[1:], stdin, stdout, stderr)
	}
	c, fd, version, err := parse(args, stderr)
	if err != nil {
		return usageError{err}
	}
	if version {
		_, err := fmt.Fprintln(stdout, "lorry-engine on llama.cpp", llama.Version)
		return err
	}
	conn, err := child.Conn(fd)
	if err != nil {
		return usageError{errors.New("this is the engine's own process, which lorry starts by itself: run `lorry up`")}
	}
	if c.Renderer, err = renderer(); err != nil {
		return err
	}
	c.Log = zerolog.New(stderr).With().Timestamp().Int("pid", os.Getpid()).Logger()
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	return child.Serve(context.Background(), conn, func(observe engine.DecodeObserver) (engine.Engine, error) {
		c.Observe = observe
		return openLlama(c)
	})
}

// openLlama keeps a nil *llama.Engine from becoming an engine.Engine.
func openLlama(c llama.Config) (engine.Engine, error) {
	e, err := llama.Open(c)
	if err != nil {
		return nil, err
	}
	return e, nil
}

func parse(args []string, stderr io.Writer) (c llama.Config, fd int, version bool, err error) {
	f := flag.NewFlagSet("lorry-engine", flag.ContinueOnError)
	f.SetOutput(stderr)
	modelFlags(f, &c)
	f.StringVar(&c.Model.Name, "name", "", "the model's `name`")
	f.StringVar(&c.Model.Base, "base", "", "the file's `SHA-256` in hex (default: computed)")
	f.StringVar(&c.Model.Settings, "settings", "", "`SHA-256` of the serving settings")
	f.IntVar(&c.Slots, "slots", 0, "sequences at the same moment (default 8 on a CPU, 64 on a GPU)")
	f.IntVar(&c.Context, "context", 0, "tokens in the KV cache, for all sequences (default 8192 on a CPU; on a GPU 2048 a slot, within half of the memory that the weights leave)")
	f.IntVar(&c.Rows, "rows", 0, "most tokens of one native call (default 256 on a CPU, 512 on a GPU)")
	f.DurationVar(&c.StepTarget, "pause", 0, "how long answers that nobody watches may pause for prompts (default 1s on a CPU, 150ms on a GPU)")
	f.Float64Var(&c.Stretch, "stretch", 0, "how many times as far apart as usual the tokens of a watched answer may come while a prompt is computed (default 2)")
	f.DurationVar(&c.Tenure, "tenure", 0, "how long waiting requests of one adapter go before those of others (default 10s)")
	f.StringVar(&c.KVType, "kv-type", "", "`type` of the KV cache: f16 or q8_0 (default f16)")
	f.BoolVar(&c.NoFlash, "no-flash", false, "no flash attention")
	f.StringVar(&c.Cores, "cores", "", "`file` by which the engines of this host take turns on its processors")
	f.StringVar(&c.Adapters, "adapters", "", "`folder` of LoRA adapters, each under its SHA-256 in hex")
	f.Int64Var(&c.AdapterBytes, "adapter-memory", 0, "`bytes` of adapters that are loaded at the same moment (default 1 GiB)")
	f.Func("pin", "`SHA-256`s, by commas, of adapters that stay loaded", func(s string) error {
		c.Pinned = strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
		return nil
	})
	f.IntVar(&fd, "fd", child.FD, "`descriptor` of the pipe to lorry")
	f.BoolVar(&version, "version", false, "print llama.cpp's version")
	if err := f.Parse(args); err != nil || version {
		return c, fd, version, err
	}
	return c, fd, false, complete(f, c)
}

// complete says what is missing or wrong on the command line.
func complete(f *flag.FlagSet, c llama.Config) error {
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("there is no argument %q", f.Arg(0))
	case f.NFlag() == 0:
		return errors.New("this is the engine's own process, which lorry starts by itself: run `lorry up`")
	case c.Lib == "" || c.File == "" || c.Model.Name == "":
		return errors.New("--lib, --model and --name must be given")
	case c.Slots < 0 || c.Context < 0 || c.Threads < 0 || c.Rows < 0 || c.AdapterBytes < 0:
		return errors.New("--slots, --context, --threads, --rows and --adapter-memory can't be negative")
	}
	return nil
}
