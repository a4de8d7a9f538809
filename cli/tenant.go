package cli

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Tenant is a tenant's settings; 0 is no bound.
type Tenant struct {
	Tenant            string `json:"tenant"`
	Weight            int    `json:"weight"`
	MaxWaiting        int    `json:"max_waiting"`
	MaxReady          int    `json:"max_ready"`
	RequestsPerMinute int    `json:"requests_per_minute"`
	TokensPerMinute   int    `json:"tokens_per_minute"`
	EnqueuedTokens    int    `json:"enqueued_tokens"`
	Paused            bool   `json:"paused"`
}

// NewTenant is the command over tenants' settings. The client's key must be an admin's.
func NewTenant(bind Bind) *cobra.Command {
	c := &cobra.Command{Use: "tenant", Short: "Show and change tenants' shares, limits and pauses",
		Long: `Show and change tenants' shares, limits and pauses. Changes take effect everywhere within a moment.

Who passes a limit a minute gets 429 with the time to wait, and its batches' lines wait (held back by rate_limit). Tokens
are those of the prompt, and as many as the answer may have: max_tokens, or 256. What the cache answers is not counted.`,
		Example: `  lorry tenant list
  lorry tenant set acme --weight 3 --requests-per-minute 600 --tokens-per-minute 100000
  lorry tenant set acme --paused=false`}
	c.AddCommand(newTenantList(bind), newTenantSet(bind))
	return c
}

func newTenantList(bind Bind) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "list", Short: "List tenants and their settings", Args: cobra.NoArgs, Example: "  lorry tenant list -o json"}
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			var raw json.RawMessage
			if err := cl.do(ctx, http.MethodGet, "/lorry/v1/tenants", nil, nil, &raw); err != nil {
				return err
			}
			return show(c.OutOrStdout(), format, raw, func(w io.Writer, list struct{ Data []Tenant }) error { return tenantTable(w, list.Data) })
		})
	}
	return c
}

func tenantTable(w io.Writer, ts []Tenant) error {
	return Table(w, "TENANT\tWEIGHT\tREQUESTS/MIN\tTOKENS/MIN\tENQUEUED TOKENS\tWAITING\tREADY\tPAUSED", ts, func(x Tenant) []any {
		return []any{x.Tenant, x.Weight, bound(x.RequestsPerMinute), bound(x.TokensPerMinute), bound(x.EnqueuedTokens), bound(x.MaxWaiting), bound(x.MaxReady), x.Paused}
	})
}

// bound is a limit, or that there is none.
func bound(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func newTenantSet(bind Bind) *cobra.Command {
	var format string
	var t Tenant
	c := &cobra.Command{Use: "set TENANT", Short: "Change some of a tenant's settings", Args: cobra.ExactArgs(1),
		Example: `  lorry tenant set acme --requests-per-minute 600
  lorry tenant set acme --tokens-per-minute 0     # no bound any more`}
	own := pflag.NewFlagSet("tenant", pflag.ContinueOnError)
	own.IntVar(&t.Weight, "weight", 1, "share beside other tenants, 1 to 1000")
	own.IntVar(&t.RequestsPerMinute, "requests-per-minute", 0, "requests and batch lines that may run in a minute; 0: no bound")
	own.IntVar(&t.TokensPerMinute, "tokens-per-minute", 0, "the same in tokens of prompts and answers; 0: no bound")
	own.IntVar(&t.EnqueuedTokens, "enqueued-tokens", 0, "tokens of running batches of one model; past them a batch fails; 0: no bound")
	own.IntVar(&t.MaxWaiting, "max-waiting", 0, "requests that may wait for their answers at one producer; 0: the producer's own bound")
	own.IntVar(&t.MaxReady, "max-ready", 0, "jobs that may be ready for workers at a moment; 0: no bound")
	own.BoolVar(&t.Paused, "paused", false, "accept asynchronous jobs and batches, but let them wait")
	c.Flags().AddFlagSet(own)
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		body, err := changed(own, t)
		if err != nil {
			return err
		}
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			return setTenant(ctx, cl, args[0], body, c.OutOrStdout(), format)
		})
	}
	return c
}

// changed are the settings whose flags were given.
func changed(own *pflag.FlagSet, t Tenant) (map[string]any, error) {
	all := map[string]any{"weight": t.Weight, "requests-per-minute": t.RequestsPerMinute, "tokens-per-minute": t.TokensPerMinute,
		"enqueued-tokens": t.EnqueuedTokens, "max-waiting": t.MaxWaiting, "max-ready": t.MaxReady, "paused": t.Paused}
	body := map[string]any{}
	own.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			body[strings.ReplaceAll(f.Name, "-", "_")] = all[f.Name]
		}
	})
	if len(body) == 0 {
		return nil, usagef("nothing to change: see lorry tenant set --help")
	}
	return body, nil
}

func setTenant(ctx context.Context, cl *Client, name string, body map[string]any, w io.Writer, format string) error {
	var raw json.RawMessage
	if err := cl.do(ctx, http.MethodPatch, "/lorry/v1/tenants/"+url.PathEscape(name), nil, body, &raw); err != nil {
		return err
	}
	return show(w, format, raw, func(w io.Writer, t Tenant) error { return tenantTable(w, []Tenant{t}) })
}
