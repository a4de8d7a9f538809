// Package cli holds the commands that talk to a running Lorry over HTTP, as any other client would.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Target is a running Lorry.
type Target struct {
	// URL is its base, without /v1.
	URL string
	// Key is the API key to show; empty shows none.
	Key string
}

// Bind gives a command the flags that name a Lorry, and returns what reads them once they are parsed.
type Bind func(*cobra.Command) func() (Target, error)

// Commands are submit, job, batch and file.
func Commands(bind Bind) []*cobra.Command {
	return []*cobra.Command{newSubmit(bind), newJob(bind), newBatch(bind), newFile(bind)}
}

// withClient runs a command's work once its flags are parsed. An interruption is told in words for a person.
func withClient(c *cobra.Command, target func() (Target, error), work func(ctx context.Context, cl *Client) error) error {
	cl, err := connect(target)
	if err != nil {
		return err
	}
	err = work(c.Context(), cl)
	if _, told := errors.AsType[goesOn](err); err == nil || told {
		return err
	}
	return cause(c.Context(), err)
}

// eachID calls one method on the path of each ID, in order, and prints what it answers.
func eachID(c *cobra.Command, target func() (Target, error), ids []string, method string, path func(id string) string, print func(w io.Writer, raw json.RawMessage) error) error {
	return withClient(c, target, func(ctx context.Context, cl *Client) error {
		for _, id := range ids {
			var raw json.RawMessage
			if err := cl.do(ctx, method, path(id), nil, nil, &raw); err != nil {
				return err
			}
			if err := print(c.OutOrStdout(), raw); err != nil {
				return err
			}
		}
		return nil
	})
}

// OutputFlag gives a command -o, which is checked when it is parsed.
func OutputFlag(c *cobra.Command, to *string) {
	c.Flags().VarP((*output)(to), "output", "o", "output format: text or json")
}

// output is text or json.
type output string

func (o *output) Set(s string) error {
	if s != "text" && s != "json" {
		return fmt.Errorf("%q is neither text nor json", s)
	}
	*o = output(s)
	return nil
}
func (o *output) String() string { return string(*o) }
func (o *output) Type() string   { return "format" }

// connect makes the client of a command, once its flags are parsed.
func connect(target func() (Target, error)) (*Client, error) {
	t, err := target()
	if err != nil {
		return nil, err
	}
	return NewClient(t), nil
}

// cause is why ctx ended, in words for a person.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted")
	}
	return err
}
