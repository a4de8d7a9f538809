package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"
)

// Push is a file that becomes a model.
type Push struct {
	// Name is what clients will ask for.
	Name string
	// Base is the model that an adapter changes; empty: the file is a model of its own.
	Base string
	// Quantize is the format in which a model is to be served, or "fastest"; Requantize takes a file that is quantized already.
	Quantize   string
	Requantize bool
}

func (p Push) query() string {
	q := url.Values{"name": {p.Name}}
	for key, v := range map[string]string{"base": p.Base, "quantize": p.Quantize} {
		if v != "" {
			q.Set(key, v)
		}
	}
	if p.Requantize {
		q.Set("requantize", "true")
	}
	return q.Encode()
}

// Push registers a model. The client's key must be an admin's. The file, of size bytes, is streamed, once; a server that
// refuses the push answers while it is sent. Expect: 100-continue would be the wrong header here: behind it net/http drops
// the connection of a body that it has not read to its end, and the answer with it.
func (c *Client) Push(ctx context.Context, p Push, file io.Reader, size int64) (m Model, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.target.URL+"/lorry/v1/models?"+p.query(), io.NopCloser(file))
	if err != nil {
		return m, fmt.Errorf("url %q: %w", c.target.URL, err)
	}
	req.ContentLength = size // a file that is cut off on its way is no model
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := c.exchange(ctx, req)
	if err != nil {
		return m, err
	}
	return m, c.read(resp, &m)
}

// pushing is a call of push.
type pushing struct {
	Push
	file, adapter, format string
	quiet                 bool
}

func newModelPush(bind Bind) *cobra.Command {
	var p pushing
	c := &cobra.Command{Use: "push NAME (--file FILE | --adapter FILE --base MODEL)", Short: "Register a model, or a LoRA adapter (GGUF), under a name of its own", Args: cobra.ExactArgs(1),
		Long: `Register a model, or a LoRA adapter of one (both GGUF), under a name of its own: from then on clients ask for it. It needs
an admin key.

The file is streamed into the fleet's store and checked: its head first, then, where the server has an engine at hand, by
loading it in a process of its own. Ctrl-C, a full disk or a bad file leave nothing.

A model is fetched and served by every worker whose --models names it (all is the default) and that has room for it
(--model-memory). What its name stands for never changes by a push: give another file another name, or a version (NAME:2).
With --quantize the server first writes it in another format, and keeps only that; fastest compares formats there, which
takes minutes. A file that is quantized already is refused without --requantize. lorry quantize does the same here, and
measures what it changes.

An adapter's name may stand for an adapter already: then it stands for the new one; jobs that were accepted before keep theirs.`,
		Example: `  lorry model push support --file support-f16.gguf
  lorry model push support:2 --file support-f16.gguf --quantize q4_0     # or fastest: what is fastest there
  lorry model push poet --adapter poet.gguf --base smollm2`}
	target := bind(c)
	f := c.Flags()
	f.StringVar(&p.file, "file", "", "`file` of a model")
	f.StringVar(&p.Quantize, "quantize", "", "`format` to serve the model in, or fastest")
	f.BoolVar(&p.Requantize, "requantize", false, "take a model that is quantized already")
	f.StringVar(&p.adapter, "adapter", "", "`file` of an adapter")
	f.StringVar(&p.Base, "base", "", "name of the `model` that the adapter changes")
	f.BoolVarP(&p.quiet, "quiet", "q", false, "no progress")
	OutputFlag(c, &p.format)
	c.RunE = func(c *cobra.Command, args []string) error {
		p.Name = args[0]
		if err := p.check(); err != nil {
			return err
		}
		return withClient(c, target, func(ctx context.Context, cl *Client) error { return p.run(ctx, cl, c) })
	}
	return c
}

func (p *pushing) check() error {
	switch {
	case p.file != "" && (p.adapter != "" || p.Base != ""):
		return usagef("--file is a model of its own, --adapter with --base is a part of one: give either")
	case p.file == "" && p.adapter == "":
		return usagef("name a model's file with --file, or an adapter's with --adapter and --base")
	case p.adapter != "" && p.Base == "":
		return usagef("--base is needed beside --adapter: lorry model list shows what can be one")
	case p.adapter != "" && (p.Quantize != "" || p.Requantize):
		return usagef("--quantize is for models, not for adapters")
	case p.Requantize && p.Quantize == "":
		return usagef("--requantize says nothing without --quantize")
	}
	return nil
}

func (p *pushing) run(ctx context.Context, cl *Client, c *cobra.Command) error {
	m, err := p.send(ctx, cl, c.ErrOrStderr())
	if err != nil {
		return err
	}
	if p.format == "json" {
		return PrintJSON(c.OutOrStdout(), m)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s is registered%s: lorry submit --model %s \"…\"\n", m.ID, p.outcome(m), m.ID)
	return err
}

// outcome is what became of the file.
func (p *pushing) outcome(m Model) string {
	if p.Quantize == "" {
		return ""
	}
	return fmt.Sprintf(" (%s, %s)", m.Lorry.Format, m.Lorry.size())
}

// send sends the file, again where the server refuses it for now.
func (p *pushing) send(ctx context.Context, cl *Client, errs io.Writer) (m Model, err error) {
	for n := 1; ; n++ {
		m, err = p.once(ctx, cl, errs)
		if err == nil {
			return m, nil
		}
		if err := cl.again(ctx, err, n); err != nil {
			return m, err
		}
	}
}

func (p *pushing) once(ctx context.Context, cl *Client, errs io.Writer) (Model, error) {
	path := p.file + p.adapter // one of them is empty
	f, err := os.Open(path)
	if err != nil {
		return Model{}, Usage{err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return Model{}, usagef("%s is no file", path)
	}
	b := newBytesBar(errs, p.Name, info.Size(), p.quiet)
	defer b.finish()
	m, err := cl.Push(ctx, p.Push, b.reader(f), info.Size())
	if at, _ := f.Seek(0, io.SeekCurrent); broken(ctx, err) && at > 0 {
		err = fmt.Errorf("the push broke off after %d of %d bytes: %w: push it again, from the beginning: what is half-way does not stay", at, info.Size(), err)
	}
	return m, err
}

// broken says whether a connection ended without an answer, and not by Ctrl-C.
func broken(ctx context.Context, err error) bool {
	_, answered := errors.AsType[*APIError](err)
	return err != nil && !answered && ctx.Err() == nil
}
