package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
)

// PrintJSON writes v indented, without HTML escapes.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// show prints an answer of the API: with -o json as it came, else what text makes of it.
func show[T any](w io.Writer, format string, raw json.RawMessage, text func(io.Writer, T) error) error {
	if format == "json" {
		return PrintJSON(w, raw)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return text(w, v)
}

// showPage asks for one page of a list and prints it as a table, and how command shows the next one.
func showPage[T any](ctx context.Context, cl *Client, path string, w io.Writer, format, command, head string, cells func(T) []any) error {
	var raw json.RawMessage
	if err := cl.do(ctx, http.MethodGet, path, nil, nil, &raw); err != nil {
		return err
	}
	type page struct {
		Data    []T    `json:"data"`
		LastID  string `json:"last_id"`
		HasMore bool   `json:"has_more"`
	}
	return show(w, format, raw, func(w io.Writer, p page) error {
		if err := Table(w, head, p.Data, cells); err != nil || !p.HasMore {
			return err
		}
		_, err := fmt.Fprintf(w, "more: %s --after %s\n", command, p.LastID)
		return err
	})
}

// Table prints a line for each row, in columns below head, whose names are parted by tabs.
func Table[T any](w io.Writer, head string, rows []T, cells func(T) []any) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, head)
	for _, r := range rows {
		gap := "\n"
		for _, c := range cells(r) {
			fmt.Fprint(t, gap, c)
			gap = "\t"
		}
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// printRows prints what is known, one fact a line.
func printRows(w io.Writer, rows [][2]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", r[0], r[1])
		}
	}
	return t.Flush()
}
