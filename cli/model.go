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

// Model is a model that can be asked for.
type Model struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	Context int    `json:"context_length,omitempty"`
}

// Models are all that can be asked for.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	var list struct {
		Data []Model `json:"data"`
	}
	return list.Data, c.do(ctx, http.MethodGet, "/v1/models", nil, nil, &list)
}

// PushAdapter registers a LoRA adapter on a base. The client's key must be an admin's. The file is streamed, once.
func (c *Client) PushAdapter(ctx context.Context, name, base string, file io.Reader) (m Model, err error) {
	query := url.Values{"name": {name}, "base": {base}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.target.URL+"/lorry/v1/models?"+query.Encode(), file)
	if err != nil {
		return m, fmt.Errorf("url %q: %w", c.target.URL, err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := c.exchange(ctx, req)
	if err != nil {
		return m, err
	}
	return m, c.read(resp, &m)
}

// ModelCommands are list and push, below model.
func ModelCommands(bind Bind) []*cobra.Command {
	return []*cobra.Command{newModelList(bind), newModelPush(bind)}
}

func newModelList(bind Bind) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "list", Short: "List the models that can be asked for", Args: cobra.NoArgs, Example: `  lorry model list`}
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := connect(target)
		if err != nil {
			return err
		}
		models, err := client.Models(c.Context())
		if err != nil {
			return cause(c.Context(), err)
		}
		if format == "json" {
			return PrintJSON(c.OutOrStdout(), models)
		}
		return Table(c.OutOrStdout(), "MODEL\tCONTEXT\tOWNER\tCREATED", models, func(m Model) []any {
			return []any{m.ID, m.Context, m.OwnedBy, Stamp(m.Created)}
		})
	}
	return c
}

func newModelPush(bind Bind) *cobra.Command {
	var file, base, format string
	c := &cobra.Command{Use: "push NAME --adapter FILE --base MODEL", Short: "Register a LoRA adapter (GGUF) under a name of its own", Args: cobra.ExactArgs(1),
		Long: `Register a LoRA adapter (GGUF) under a name of its own: from then on clients ask for it as a model. It needs an admin
key. A name that stands for an adapter already stands for the new one; jobs that were accepted before keep theirs.`,
		Example: `  lorry model push poet --adapter poet.gguf --base smollm2`}
	target := bind(c)
	c.Flags().StringVar(&file, "adapter", "", "`file` of the adapter")
	c.Flags().StringVar(&base, "base", "", "name of the `model` that it changes")
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		if file == "" || base == "" {
			return Usage{errors.New("--adapter and --base are needed: lorry model list shows what can be a base")}
		}
		client, err := connect(target)
		if err != nil {
			return err
		}
		m, err := push(c.Context(), client, args[0], base, file)
		if err != nil {
			return cause(c.Context(), err)
		}
		if format == "json" {
			return PrintJSON(c.OutOrStdout(), m)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s is served: lorry submit --model %s \"…\"\n", m.ID, m.ID)
		return err
	}
	return c
}

func push(ctx context.Context, client *Client, name, base, file string) (Model, error) {
	f, err := os.Open(file)
	if err != nil {
		return Model{}, Usage{err}
	}
	defer f.Close()
	return client.PushAdapter(ctx, name, base, f)
}
