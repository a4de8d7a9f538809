package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// report is the JSON file.
type report struct {
	Begun   time.Time      `json:"begun"`
	Machine string         `json:"machine"`
	Model   string         `json:"model"`
	Threads int            `json:"threads"`
	Slots   int            `json:"slots"`
	Context int            `json:"context"`
	Formats []formatReport `json:"formats"`
}

// formatReport is everything measured on one file of weights.
type formatReport struct {
	Format    string  `json:"format"`
	Workloads []row   `json:"workloads"`
	Extras    []extra `json:"extras"`
}

// row is a workload's outcome.
type row struct {
	Key     string  `json:"key"`
	Name    string  `json:"name"`
	Goal    float64 `json:"goal"`
	Skipped string  `json:"skipped,omitempty"`
	Answers int     `json:"answers"` // of each side, over all rounds
	Ours    outcome `json:"lorry"`
	Server  outcome `json:"llama_server"`
	Kronk   outcome `json:"kronk"`
}

// outcome is one side's. Rates are tokens made a second and ratios ours ÷ its own, of each round.
type outcome struct {
	Missing string    `json:"missing,omitempty"` // why there is none
	Command string    `json:"command,omitempty"`
	Tried   []trial   `json:"tried,omitempty"`
	Rates   []float64 `json:"tokens_per_second"`
	Ratios  []float64 `json:"ratios"`
	Same    int       `json:"same_answers"` // that are the same text as ours
}

// trial is one of a side's settings, before the rounds that count.
type trial struct {
	Command string  `json:"command"`
	Rate    float64 `json:"tokens_per_second_or_ms"`
}

func (o *outcome) add(ours, its turn) {
	o.Rates, o.Ratios = append(o.Rates, its.rate), append(o.Ratios, ours.rate/its.rate)
	for i, a := range ours.answers {
		if i < len(its.answers) && a == its.answers[i] {
			o.Same++
		}
	}
}

// keyed is what stands once in a table.
type keyed interface{ key() string }

func (r row) key() string          { return r.Key }
func (x extra) key() string        { return x.Key }
func (f formatReport) key() string { return f.Format }

// put adds a row, in place of the one of its key.
func put[T keyed](all []T, one T) []T {
	if i := slices.IndexFunc(all, func(x T) bool { return x.key() == one.key() }); i >= 0 {
		all[i] = one
		return all
	}
	return append(all, one)
}

// format is what is there of a format so far.
func (r *report) format(name string) formatReport {
	for _, f := range r.Formats {
		if f.Format == name {
			return f
		}
	}
	return formatReport{Format: name}
}

// save writes what is there so far: a run that is ended half-way has measured something all the same.
func (r *report) save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// join takes the rows of an earlier run, which must have been measured on the same terms.
func (r *report) join(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var before report
	if err == nil {
		err = json.Unmarshal(b, &before)
	}
	if err != nil {
		return err
	}
	if then, now := before.terms(), r.terms(); then != now {
		return fmt.Errorf("%s was measured with %s, this is %s: leave out -join, or name another -out", path, then, now)
	}
	r.Begun, r.Formats = before.Begun, before.Formats
	return nil
}

// terms are what the rows of one table have in common.
func (r *report) terms() string {
	return fmt.Sprintf("%s, %d slots, %d threads, %d cells on %s", r.Model, r.Slots, r.Threads, r.Context, r.Machine)
}

// print writes a table in Markdown for each format.
func (r *report) print(out io.Writer) error {
	for _, f := range r.Formats {
		if _, err := io.WriteString(out, r.table(f)); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) table(f formatReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s as %s: %s, %s. Tokens made a second, median of the rounds (least to most). "+
		"Each row alone: `make bench-engine ROW=… WEIGHTS=%s`.\n\n", strings.TrimSuffix(r.Model, ".gguf"), strings.ToUpper(f.Format),
		strings.TrimPrefix(r.terms(), r.Model+", "), r.Begun.Format("2 January 2006"), f.Format)
	if len(f.Workloads) > 0 {
		b.WriteString("| row | workload | rounds | Lorry | llama-server | Lorry ÷ llama-server | goal | Kronk | Lorry ÷ Kronk | same answers |\n|---|---|---|---|---|---|---|---|---|---|\n")
	}
	var n notes
	for _, w := range inOrder(f.Workloads) {
		b.WriteString(w.line())
		w.explain(&n)
	}
	if len(f.Extras) > 0 {
		b.WriteString("\n| row | measure | rounds | ratio | goal | of llama-server | in detail (last round) |\n|---|---|---|---|---|---|---|\n")
	}
	for _, x := range inOrder(f.Extras) {
		b.WriteString(x.line())
		n.add(x.Key, "`"+x.Peers+"`")
	}
	b.WriteString("\n")
	for i, text := range n.texts {
		fmt.Fprintf(&b, "- %s: %s\n", strings.Join(n.rows[i], ", "), text)
	}
	return b.String()
}

// notes are what is to be said of rows, once for all of which it is true.
type notes struct {
	texts []string
	rows  [][]string
}

func (n *notes) add(row, text string) {
	i := slices.Index(n.texts, text)
	if i < 0 {
		i, n.texts, n.rows = len(n.texts), append(n.texts, text), append(n.rows, nil)
	}
	n.rows[i] = append(n.rows[i], row)
}

// inOrder sorts rows as the program has them, whenever they were measured.
func inOrder[T keyed](all []T) []T {
	return slices.SortedFunc(slices.Values(all), func(a, b T) int { return slices.Index(rowKeys, a.key()) - slices.Index(rowKeys, b.key()) })
}

func (r row) line() string {
	if r.Skipped != "" {
		return fmt.Sprintf("| %s | %s | | — | — | %s | %g | — | — | |\n", r.Key, r.Name, r.Skipped, r.Goal)
	}
	same := fmt.Sprintf("%d of %d", r.Server.Same, r.Answers)
	kronk, ratio := "—", "—"
	if r.Kronk.Missing == "" {
		kronk, ratio = spread(r.Kronk.Rates, "%.1f"), spread(r.Kronk.Ratios, "%.2f")
		same += fmt.Sprintf("; %d", r.Kronk.Same)
	}
	return fmt.Sprintf("| %s | %s | %d | %s | %s | %s | %s | %s | %s | %s |\n", r.Key, r.Name, len(r.Ours.Rates), spread(r.Ours.Rates, "%.1f"),
		spread(r.Server.Rates, "%.1f"), spread(r.Server.Ratios, "%.2f"), goal(r.Goal, median(r.Server.Ratios) >= r.Goal), kronk, ratio, same)
}

// explain notes the commands that were measured, and why one was not.
func (r row) explain(n *notes) {
	for _, o := range []outcome{r.Ours, r.Server, r.Kronk} {
		switch {
		case o.Missing != "":
			n.add(r.Key, "no Kronk: "+o.Missing)
		case len(o.Tried) > 1:
			n.add(r.Key, fmt.Sprintf("the fastest of %d settings, `%s`", len(o.Tried), o.Command))
		case o.Command != "":
			n.add(r.Key, "`"+o.Command+"`")
		}
	}
}

func (x extra) line() string {
	m := median(x.Ratios)
	ok := m >= x.Goal
	sign := ""
	if x.AtMost {
		ok, sign = m <= x.Goal, "≤ "
	}
	peer := "—"
	if len(x.Peer) > 0 {
		peer = spread(x.Peer, "%.2f")
	}
	var detail []string
	for name, v := range x.Detail {
		detail = append(detail, fmt.Sprintf("%s: %.4g", name, v))
	}
	slices.Sort(detail)
	return fmt.Sprintf("| %s | %s | %d | %s | %s%s | %s | %s |\n", x.Key, x.Name, len(x.Ratios), spread(x.Ratios, "%.2f"), sign, goal(x.Goal, ok), peer, strings.Join(detail, "; "))
}

func goal(g float64, met bool) string {
	if met {
		return fmt.Sprintf("%g, met", g)
	}
	return fmt.Sprintf("%g, missed", g)
}

// spread is a median with the least and the most, where these say more.
func spread(xs []float64, format string) string {
	m := fmt.Sprintf(format, median(xs))
	if len(xs) < 2 {
		return m
	}
	return m + fmt.Sprintf(" ("+format+" to "+format+")", slices.Min(xs), slices.Max(xs))
}

func median(xs []float64) float64 {
	s := slices.Sorted(slices.Values(xs))
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}
