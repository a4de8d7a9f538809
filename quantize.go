package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lorry/cli"
	"lorry/engine"
	"lorry/engine/child"
)

func newQuantize() *cobra.Command {
	var q quantization
	c := &cobra.Command{Use: "quantize MODEL --to FORMAT", Short: "Write a model in another number format, and measure what that changes", Args: cobra.ExactArgs(1),
		Long: `Write a model in another number format, and measure size, speed and perplexity before and after, on this machine.

MODEL is a GGUF file, or the name of the model that this box serves. FORMAT is one of bf16, f16, f32, iq4_nl, iq4_xs, q2_k,
q3_k_l, q3_k_m, q3_k_s, q4_0, q4_1, q4_k_m, q4_k_s, q5_0, q5_1, q5_k_m, q5_k_s, q6_k and q8_0, or "fastest": then q4_0, q4_k_m and
q8_0 are written and measured, and the one with the shortest jobs (200 tokens in, 32 out) is kept.

Perplexity is over a text of Lorry's own, about a thousand tokens: compare formats of one model by it, nothing else. A
model that is quantized already is refused without --requantize, since what that lost stays lost.

The work is done in a process of its own. Ctrl-C leaves no half file.`,
		Example: `  lorry quantize my-f16.gguf --to q4_k_m                # writes my-f16-q4_k_m.gguf beside it
  lorry quantize my-f16.gguf --to fastest -O my.gguf
  lorry quantize smollm2 --to q4_0 --requantize -o json | jq .after.perplexity`}
	load := bindConfig(c, "tool")
	f := c.Flags()
	f.StringVar(&q.to, "to", "", "format to write, or fastest (required)")
	f.StringVarP(&q.out, "out", "O", "", "file to write; default: MODEL-FORMAT.gguf beside the model")
	f.BoolVar(&q.requantize, "requantize", false, "take a model that is quantized already")
	f.BoolVar(&q.unmeasured, "no-measure", false, "only write the file")
	cli.OutputFlag(c, &q.format)
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		if q.to == "" {
			return usageError{errors.New("--to is missing: --to q4_k_m, or --to fastest (see lorry quantize --help)")}
		}
		return q.run(c.Context(), cfg, args[0], c.OutOrStdout(), c.ErrOrStderr())
	}
	return c
}

type quantization struct {
	to, out, format        string
	requantize, unmeasured bool
}

func (q *quantization) run(ctx context.Context, cfg *Config, model string, out, errs io.Writer) error {
	file, err := fileOf(cfg, model)
	if err != nil {
		return err
	}
	to, err := filepath.Abs(cmp.Or(q.out, strings.TrimSuffix(file, filepath.Ext(file))+"-"+q.to+".gguf"))
	if err != nil {
		return err
	}
	args := []string{"--to", q.to, "--out", to}
	if q.requantize {
		args = append(args, "--requantize")
	}
	if q.unmeasured {
		args = append(args, "--no-measure")
	}
	var result engine.Quantized
	if err := runTool(ctx, cfg, "quantize", file, args, errs, &result); err != nil {
		return err
	}
	if q.format == "json" {
		return cli.PrintJSON(out, result)
	}
	return printQuantized(out, result)
}

// fileOf is the file of a model that was named by its path, or as clients name it.
func fileOf(cfg *Config, model string) (string, error) {
	if st, err := os.Stat(model); err == nil && st.Mode().IsRegular() {
		return filepath.Abs(model)
	}
	file, name, err := modelOf(cfg)
	if err == nil && name == model {
		return file, nil
	}
	return "", fmt.Errorf("no model %s here: name a GGUF file", model)
}

// runTool runs a command of lorry-engine's on a model's file, and shows on errs how far it is.
func runTool(ctx context.Context, cfg *Config, name, file string, more []string, errs io.Writer, result any) error {
	exe, err := engineExe()
	if err != nil {
		return err
	}
	lib, err := libDir(cfg)
	if err != nil {
		return err
	}
	args := []string{name, "--lib", lib, "--model", file, "--device", cfg.Device}
	if cfg.Threads > 0 {
		args = append(args, "--threads", strconv.Itoa(cfg.Threads))
	}
	p := &stages{to: errs, tty: isTerminal(errs)}
	defer p.end()
	err = child.Tool{Path: exe, Args: append(args, more...), Progress: p.show}.Run(ctx, result)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted; nothing was written")
	}
	return err
}

// stages shows what a tool is about: one moving line on a terminal, else one line for each stage.
type stages struct {
	to    io.Writer
	tty   bool
	last  string
	shown time.Time
}

func (s *stages) show(p child.Progress) {
	fresh := p.Stage != s.last
	if !fresh && (!s.tty || time.Since(s.shown) < 100*time.Millisecond) {
		return
	}
	s.last, s.shown = p.Stage, time.Now()
	switch {
	case !s.tty:
		fmt.Fprintln(s.to, p.Stage)
	case p.Of > 0:
		fmt.Fprintf(s.to, "\r\033[K%s %3d%%", p.Stage, 100*p.Done/p.Of)
	default:
		fmt.Fprintf(s.to, "\r\033[K%s …", p.Stage)
	}
}

// end clears the line.
func (s *stages) end() {
	if s.tty && s.last != "" {
		fmt.Fprint(s.to, "\r\033[K")
	}
}

// printQuantized is a row for each format: what was there, what was tried, what was kept.
func printQuantized(out io.Writer, r engine.Quantized) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "FORMAT\tMB\tPROMPT/S\tALONE/S\t8 TOGETHER/S\tPERPLEXITY\t")
	rows := append([]engine.Measured{r.Before}, r.Tried...)
	if len(r.Tried) == 0 {
		rows = append(rows, r.After)
	}
	for _, m := range rows {
		fmt.Fprintf(w, "%s\t%.1f\t%s\t%s\t%s\t%s\t\n", m.Format, float64(m.Bytes)/1e6, perSecond(m.Prompt), perSecond(m.Alone), perSecond(m.Together), wavering(m))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s written in %.1f s", r.After.File, r.Seconds)
	if r.Device != "" {
		fmt.Fprintf(out, "; tokens a second on %s", r.Device)
	}
	fmt.Fprintln(out)
	_, err := fmt.Fprintln(out, advice(r))
	return err
}

func perSecond(x float64) string {
	if x == 0 {
		return "–"
	}
	return strconv.FormatFloat(x, 'f', 0, 64)
}

func wavering(m engine.Measured) string {
	if m.Perplexity == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f ± %.2f", m.Perplexity, m.Error)
}

// advice is what the measures say to do.
func advice(r engine.Quantized) string {
	switch {
	case r.After.Prompt == 0:
		return "Nothing was measured: leave out --no-measure to see what it does."
	case r.After.Job() > r.Before.Job():
		return fmt.Sprintf("%s is faster here: its jobs take %.0f %% of %s's time. --to fastest looks for a faster one.", r.Before.Format,
			100*r.Before.Job()/r.After.Job(), r.After.Format)
	case len(r.Tried) == 0:
		return fmt.Sprintf("Jobs of 200 tokens in and 32 out are %.2f times as fast as with %s. --to fastest compares formats.", r.Before.Job()/r.After.Job(), r.Before.Format)
	}
	return fmt.Sprintf("%s is the fastest here: jobs of 200 tokens in and 32 out are %.2f times as fast as with %s.", r.After.Format, r.Before.Job()/r.After.Job(), r.Before.Format)
}
