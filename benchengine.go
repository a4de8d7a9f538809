package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"lorry/cli"
	"lorry/engine"
)

func newBench() *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure this machine"}
	c.AddCommand(newBenchEngine())
	return c
}

func newBenchEngine() *cobra.Command {
	var format string
	c := &cobra.Command{Use: "engine [MODEL]", Short: "Find the settings of llama.cpp that suit a model on this device", Args: cobra.MaximumNArgs(1),
		Long: `Measure a model on this device with different settings, one after the other, and print those that suit it, ready for the
settings file. MODEL is a GGUF file, or the name of the model that this box serves; without it, that one.

Threads are suggested so that a core is left for the rest of Lorry: llama.cpp's threads wait for one another, so that a
neighbour on one core slows them all. Another value than the plain one is suggested only if it is 5 % faster. Run it
alone on the machine; it takes a minute or two with a small model.`,
		Example: `  lorry bench engine
  lorry bench engine my.gguf -o json | jq .suggest
  lorry bench engine my.gguf --device cpu`}
	load := bindConfig(c, "tool")
	cli.OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		t, err := benchEngine(c.Context(), cfg, append(args, "")[0], c.ErrOrStderr())
		if err != nil {
			return err
		}
		if format == "json" {
			return cli.PrintJSON(c.OutOrStdout(), t)
		}
		return printTuning(c.OutOrStdout(), t)
	}
	return c
}

func benchEngine(ctx context.Context, cfg *Config, model string, errs io.Writer) (t engine.Tuning, err error) {
	file, name, err := modelOf(cfg)
	if err == nil || model != "" {
		file, err = fileOf(cfg, cmp.Or(model, name))
	}
	if err != nil {
		return t, err
	}
	return t, runTool(ctx, cfg, "tune", file, nil, errs, &t)
}

func printTuning(out io.Writer, t engine.Tuning) error {
	fmt.Fprintf(out, "%s (%s) on %s, %d cores\n\n", t.File, t.Format, t.Device, t.Cores)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "VARIED\tTHREADS\tROWS\tSLOTS\tKV\tFLASH\tPROMPT/S\tALONE/S\tTOGETHER/S\t")
	for _, x := range t.Trials {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%t\t%s\t%s\t%s\t%s\n", x.Knob, x.Threads, x.Rows, x.Slots, x.KVType, x.Flash, perSecond(x.Prompt), perSecond(x.Alone), perSecond(x.Together), x.Error)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n# Tokens a second: of a prompt, of one answer alone, of answers together. For the settings file:\n%s", settings(t.Suggest))
	return err
}

// settings are the suggested ones, as a settings file has them.
func settings(s engine.Setting) string {
	out := "threads: " + strconv.Itoa(s.Threads) + "\nslots: " + strconv.Itoa(s.Slots) + "\nrows: " + strconv.Itoa(s.Rows) + "\nkv_type: " + s.KVType + "\n"
	return out + "flash_attention: " + strconv.FormatBool(s.Flash) + "\n"
}
