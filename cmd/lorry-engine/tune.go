package main

import (
	"errors"
	"flag"
	"io"

	"lorry/engine/child"
	"lorry/engine/llama"
)

// tune is `lorry-engine tune`, which `lorry bench engine` runs.
func tune(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	var c llama.Config
	f := flag.NewFlagSet("lorry-engine tune", flag.ContinueOnError)
	f.SetOutput(stderr)
	modelFlags(f, &c)
	if err := f.Parse(args); err != nil {
		return usageError{err}
	}
	if c.Lib == "" || c.File == "" {
		return usageError{errors.New("--lib and --model must be given")}
	}
	child.OnStop(stdin, func() {})
	say := child.NewReporter(stdout)
	t, err := llama.Tune(c, say.Progress)
	if err != nil {
		return err
	}
	return say.Result(t)
}
