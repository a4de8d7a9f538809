package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"lorry/engine/llama"
)

// check is `lorry-engine check`: it looks at a file that nobody trusts yet, and prints what it is as JSON. It may be
// ended by what it finds, or find no end: who calls it, as child.Check does, gives it a deadline.
func check(args []string, _ io.Reader, stdout, stderr io.Writer) error {
	c, err := parseCheck(args, stderr)
	if err != nil {
		return usageError{err}
	}
	if c.Renderer, err = renderer(); err != nil {
		return err
	}
	c.Memory = cmp.Or(c.Memory, memory(c.File, c.Base))
	report, err := llama.Inspect(c)
	if err != nil {
		return err
	}
	out := json.NewEncoder(stdout)
	out.SetEscapeHTML(false)
	return out.Encode(report)
}

func parseCheck(args []string, stderr io.Writer) (c llama.Inspection, err error) {
	f := flag.NewFlagSet("lorry-engine check", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintln(stderr, "Usage: lorry-engine check [FILE] [--base FILE] [--template FILE] [--lib FOLDER [--memory BYTES]]\n"+
			"Check a model, an adapter for a base, or a chat template, and print what it is as JSON.")
		f.PrintDefaults()
	}
	f.StringVar(&c.Base, "base", "", "GGUF `file` of the model that an adapter is for")
	f.StringVar(&c.Template, "template", "", "`file` with a chat template (default: the model's own)")
	f.StringVar(&c.Lib, "lib", "", "`folder` of llama.cpp's libraries, to load the file too (default: it is only read)")
	f.Uint64Var(&c.Memory, "memory", 0, "`bytes` that it may hold while it loads the file (default: by the files' sizes)")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if c.File = f.Arg(0); f.NArg() > 1 { // flags may follow the file
		if err := f.Parse(f.Args()[1:]); err != nil {
			return c, err
		}
	}
	switch {
	case f.NArg() > 0 && f.Arg(0) != c.File:
		return c, fmt.Errorf("one file at a time: there is no argument %q", f.Arg(0))
	case c.File == "" && (c.Template == "" || c.Base != ""):
		return c, errors.New("name a GGUF file, or a chat template with --template")
	}
	return c, nil
}

// spare is the memory that a check may take beside its files': for numbers under way, and the KV cache of a short context.
const spare = 4 << 30

// memory bounds what files may make a check hold. Weights are read in place, or once more where llama.cpp turns them over
// for the processor. A file that can't be read is told of later.
func memory(files ...string) uint64 {
	most := uint64(spare)
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			most += 2 * uint64(st.Size())
		}
	}
	return most
}

// render is `lorry-engine render`, in which a model's chat template runs: see llama.ServeTemplates.
func render(_ []string, stdin io.Reader, stdout, _ io.Writer) error {
	return llama.ServeTemplates(stdin, stdout)
}

// renderer is the command line of render.
func renderer() ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this executable: %w", err)
	}
	return []string{exe, "render"}, nil
}
