package main

import (
	"github.com/spf13/cobra"

	"lorry/cli"
)

func newConfig() *cobra.Command {
	var format string
	c := &cobra.Command{Use: "config", Short: "Print every setting, its value, and where it came from", Args: cobra.NoArgs,
		Long: `Print every setting, its value, and where the value came from. A later layer wins:

  built-in default  <  YAML file (--config FILE or LORRY_CONFIG)  <  environment (LORRY_…)  <  flag

One name serves all: the key some_name of the file is LORRY_SOME_NAME in the environment and --some-name as a flag.
Secrets are not shown.`,
		Example: `  lorry config                              # what would a lorry here use?
  LORRY_SLOTS=16 lorry config --config lorry.yaml
  lorry config -o json | jq '.[] | select(.source != "default")'`}
	load := bindConfig(c, "")
	cli.OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		if format == "json" {
			return cli.PrintJSON(c.OutOrStdout(), cfg.shown())
		}
		return cli.Table(c.OutOrStdout(), "KEY\tVALUE\tSOURCE\tWHAT IT IS", cfg.shown(), func(k shownKnob) []any {
			return []any{k.Key, k.Value, k.Source, k.Doc}
		})
	}
	return c
}

// shownKnob is a row of `lorry config`.
type shownKnob struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
	Env    string `json:"env"`
	Flag   string `json:"flag"`
	Doc    string `json:"doc"`
}

func (c *Config) shown() (out []shownKnob) {
	for _, k := range c.knobs() {
		out = append(out, shownKnob{k.name, k.shown(), c.source(k.name), k.env(), "--" + k.flag(), k.doc})
	}
	return out
}
