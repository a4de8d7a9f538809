// Lorry serves fine-tuned language models: jobs come in through an OpenAI-compatible API, wait on NATS JetStream, run in
// micro-batches on llama.cpp or any OpenAI-compatible engine, and are announced by signed webhooks. This package builds,
// wires, starts and drains; the roles never meet but here.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"lorry/cli"
)

// version is stamped by the build.
var version = ""

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program: 0 is done, 1 failed, 2 called wrongly.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	ctx, stop := signals(errs)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(errs, "lorry: "+oneLine(err))
	_, ours := errors.AsType[usageError](err)
	if _, theirs := errors.AsType[cli.Usage](err); ours || theirs {
		return 2
	}
	return 1
}

// signals is a context that the first SIGTERM or SIGINT ends: drain. A second one ends the process at once; the child
// processes die with it, and what was accepted is on disk.
func signals(errs io.Writer) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) { // not under nohup: a terminal that closes
		signal.Notify(ch, syscall.SIGHUP)
	}
	go func() {
		select {
		case <-ch:
		case <-ctx.Done():
			return
		}
		cancel()
		<-ch
		fmt.Fprintln(errs, "lorry: stopped at once by a second signal")
		os.Exit(1)
	}()
	return ctx, func() { signal.Stop(ch); cancel() }
}

// newRoot is the tree of commands.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lorry",
		Short: "Serve fine-tuned language models: queue, workers, OpenAI-compatible API",
		Long: `Lorry takes fine-tuned language models from a notebook to production: an OpenAI-compatible API before a durable
queue, workers on llama.cpp or any OpenAI-compatible engine, signed webhooks, a dashboard.

One box needs one command:

  lorry up                                  # http://127.0.0.1:8080: API under /v1, dashboard at /
  lorry submit "Why is the sky blue?"       # from another terminal
  lorry submit -f prompts.jsonl -O answers.jsonl

A fleet runs one role a process, against NATS and Redis of its own: lorry producer, worker, scheduler, dashboard.
Every setting is a flag, a LORRY_… variable, or a key of a YAML file; lorry config lists them all.`,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "use", Title: "Use a running Lorry:"}, &cobra.Group{ID: "admin", Title: "Look after it:"})
	add := func(group string, cs ...*cobra.Command) {
		for _, c := range cs {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", newUp(), newProducer(), newWorker(), newScheduler(), newDashboard())
	add("use", cli.Commands(bindTarget)...)
	add("admin", newConfig(), newKey(), cli.NewTenant(bindTarget), newWebhook(), newModel(), newQuantize(), newBench(), newVersion())
	usageArgs(root)
	return root
}

// usageError is a call that can't be right: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usageArgs makes errors about arguments usage errors, in every command below.
func usageArgs(c *cobra.Command) {
	check := c.Args
	if check == nil && c.HasSubCommands() {
		check = unknownCommand
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		if err := check(c, args); err != nil {
			return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
		}
		return nil
	}
	for _, sub := range c.Commands() {
		usageArgs(sub)
	}
}

func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2
	if s := c.SuggestionsFor(args[0]); len(s) > 0 {
		return fmt.Errorf("unknown command %q: did you mean %s?", args[0], strings.Join(s, " or "))
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// oneLine is an error as one line: what libraries say over several is joined.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// versionString is the stamped version, else what Go knows of the build.
func versionString() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}

func newVersion() *cobra.Command {
	var format string
	c := &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := map[string]string{"version": versionString(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if format == "json" {
				return cli.PrintJSON(c.OutOrStdout(), v)
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "lorry %s (%s, %s)\n", v["version"], v["go"], v["platform"])
			return err
		}}
	cli.OutputFlag(c, &format)
	return c
}
