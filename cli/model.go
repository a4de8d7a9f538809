package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8/decor"
)

// Model is a model that can be asked for.
type Model struct {
	ID      string  `json:"id"`
	Object  string  `json:"object"`
	Created int64   `json:"created"`
	OwnedBy string  `json:"owned_by"`
	Context int     `json:"context_length,omitempty"`
	Lorry   Weights `json:"lorry"`
}

// Weights say which files a model is, by their SHA-256.
type Weights struct {
	Runtime string `json:"runtime,omitempty"`
	Base    string `json:"base"`
	Adapter string `json:"adapter,omitempty"`
	// Pushed says that any worker can fetch them. Size, in bytes, and Format are of a pushed file; Source is what it was
	// quantized from.
	Pushed bool   `json:"pushed"`
	Size   int64  `json:"size,omitempty"`
	Format string `json:"format,omitempty"`
	Source string `json:"source,omitempty"`
}

// Models are all that can be asked for.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	var list struct {
		Data []Model `json:"data"`
	}
	return list.Data, c.do(ctx, http.MethodGet, "/v1/models", nil, nil, &list)
}

// ModelCommands are list, push and delete, below model.
func ModelCommands(bind Bind) []*cobra.Command {
	return []*cobra.Command{newModelList(bind), newModelPush(bind), newModelDelete(bind)}
}

func newModelDelete(bind Bind) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "delete NAME...", Aliases: []string{"remove"}, Short: "Delete pushed models and adapters", Args: cobra.MinimumNArgs(1),
		Long: `Delete models and adapters that were pushed. Their owner may, and admins. Clients can't ask for them from now on; jobs that
were accepted run with them all the same. When none needs a model any more, which is looked for after some seconds, its
workers let go of it and delete their copies, and its file goes from the fleet's store; an adapter's goes after a day. The
name may be given to another model at once.

A model that adapters stand on stays until these are deleted. One that a worker has from a file of its own (--model-file)
can't be deleted: it is served as long as the worker is told to.`,
		Example: `  lorry model delete support:2 poet`}
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return eachID(c, target, args, http.MethodDelete, modelPath, func(w io.Writer, raw json.RawMessage) error { return printID(w, format, raw) })
	}
	return c
}

func modelPath(name string) string { return "/v1/models/" + url.PathEscape(name) }

func newModelList(bind Bind) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "list", Short: "List the models that can be asked for", Args: cobra.NoArgs,
		Long: `List the models that can be asked for. KIND is adapter, pushed (a model that any worker may fetch) or file (one that a
worker has from a file of its own, or behind its engine). SIZE and FORMAT are those of pushed files; SOURCE is the digest of
the file that a model was quantized from when it was pushed.`, Example: `  lorry model list`}
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
		return Table(c.OutOrStdout(), "MODEL\tKIND\tCONTEXT\tSIZE\tFORMAT\tSOURCE\tOWNER\tCREATED", models, func(m Model) []any {
			return []any{m.ID, m.kind(), cells(m.Context), m.Lorry.size(), cmp.Or(m.Lorry.Format, "-"), cmp.Or(short(m.Lorry.Source), "-"), m.OwnedBy, Stamp(m.Created)}
		})
	}
	return c
}

func (m Model) kind() string {
	switch {
	case m.Lorry.Adapter != "":
		return "adapter"
	case m.Lorry.Pushed:
		return "pushed"
	}
	return "file"
}

// cells shows a context's length, which a model has once a worker serves it.
func cells(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func (w Weights) size() string {
	if w.Size == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", decor.SizeB1024(w.Size))
}

// short is how a digest is shown.
func short(digest string) string { return digest[:min(12, len(digest))] }
