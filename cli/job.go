package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// Job is the lorry.job object, as far as people read it.
type Job struct {
	ID        string            `json:"id"`
	Status    string            `json:"status"`
	Model     string            `json:"model"`
	Lane      string            `json:"lane"`
	CreatedAt int64             `json:"created_at"`
	StartedAt int64             `json:"started_at"`
	EndedAt   int64             `json:"ended_at"`
	Metadata  map[string]string `json:"metadata"`
	Response  *struct {
		StatusCode int             `json:"status_code"`
		Body       json.RawMessage `json:"body"`
	} `json:"response"`
	Error *APIError `json:"error"`
}

func (j *Job) over() bool { return j.Status != "queued" && j.Status != "running" }

func newJob(bind Bind) *cobra.Command {
	c := &cobra.Command{Use: "job", Short: "Look at jobs, and cancel them",
		Example: `  lorry job list --status running
  lorry job get job_01kb2c…
  lorry job cancel job_01kb2c… job_01kb2d…`}
	c.AddCommand(newJobGet(bind), newJobCancel(bind), newJobList(bind))
	return c
}

func newJobGet(bind Bind) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "get ID", Short: "Show a job, and its answer when it is there", Args: cobra.ExactArgs(1),
		Example: `  lorry job get job_01kb2c…
  lorry job get job_01kb2c… -o json | jq -r .response.body.choices[0].message.content`}
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return eachJob(c, target, format, args, http.MethodGet, "")
	}
	return c
}

func newJobCancel(bind Bind) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "cancel ID...", Short: "Cancel jobs; one that is over stays as it ended", Args: cobra.MinimumNArgs(1),
		Example: `  lorry job cancel job_01kb2c…
  lorry job list --status queued -o json | jq -r .data[].id | xargs lorry job cancel`}
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return eachJob(c, target, format, args, http.MethodPost, "/cancel")
	}
	return c
}

func eachJob(c *cobra.Command, target func() (Target, error), format string, ids []string, method, suffix string) error {
	return eachID(c, target, ids, method, func(id string) string { return "/v1/jobs/" + url.PathEscape(id) + suffix },
		func(w io.Writer, raw json.RawMessage) error { return show(w, format, raw, printJob) })
}

func printJob(w io.Writer, j Job) error {
	rows := [][2]string{{"id", j.ID}, {"status", j.Status}, {"model", j.Model}, {"lane", j.Lane}, {"created", Stamp(j.CreatedAt)},
		{"started", Stamp(j.StartedAt)}, {"ended", Stamp(j.EndedAt)}}
	if j.Error != nil {
		rows = append(rows, [2]string{"error", j.Error.Message})
	}
	if err := printRows(w, rows); err != nil || j.Response == nil {
		return err
	}
	a := readAnswer(j.Response.Body)
	_, err := fmt.Fprintf(w, "\n%s\n", a.text())
	return err
}

// Stamp is a time for tables; empty for none.
func Stamp(unix int64) string {
	if unix == 0 {
		return ""
	}
	return time.Unix(unix, 0).Format(time.DateTime)
}

func newJobList(bind Bind) *cobra.Command {
	var format, status, after string
	var limit int
	c := &cobra.Command{Use: "list", Short: "List jobs, newest first", Args: cobra.NoArgs,
		Example: `  lorry job list --limit 100
  lorry job list --status failed -o json`}
	target := bind(c)
	c.Flags().IntVar(&limit, "limit", 20, "how many, 1 to 100")
	c.Flags().StringVar(&status, "status", "", "only these: queued, running, succeeded, failed, cancelled or expired")
	c.Flags().StringVar(&after, "after", "", "the next ones after this job's ID")
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			return list(ctx, cl, c.OutOrStdout(), format, status, after, limit)
		})
	}
	return c
}

func list(ctx context.Context, cl *Client, w io.Writer, format, status, after string, limit int) error {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if status != "" {
		q.Set("status", status)
	}
	if after != "" {
		q.Set("after", after)
	}
	return showPage(ctx, cl, "/v1/jobs?"+q.Encode(), w, format, "lorry job list", "ID\tSTATUS\tMODEL\tLANE\tCREATED\tTOOK", func(j Job) []any {
		return []any{j.ID, j.Status, j.Model, j.Lane, Stamp(j.CreatedAt), took(j)}
	})
}

func took(j Job) string {
	if j.EndedAt == 0 {
		return ""
	}
	return (time.Duration(j.EndedAt-j.CreatedAt) * time.Second).String()
}
