package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
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
	Rounds  int            `json:"rounds"`
	Formats []formatReport `json:"formats"`
}

// formatReport is everything measured on one file of weights.
type formatReport struct {
	Format    string  `json:"format"`
	Workloads []row   `json:"workloads"`
	Extras    []extra `json:"extras"`
}

// row is a workload's outcome. Rates are tokens made a second, of each round.
type row struct {
	Name    string    `json:"name"`
	Goal    float64   `json:"goal"`
	Skipped string    `json:"skipped,omitempty"`
	Ours    string    `json:"ours_command,omitempty"`
	Theirs  string    `json:"llama_server_command,omitempty"`
	Tried   []trial   `json:"llama_server_tried,omitempty"`
	Mine    []float64 `json:"ours"`
	Peer    []float64 `json:"llama_server"`
	Ratios  []float64 `json:"ratios"`
	// Same of All answers are the same text on both sides.
	Same int `json:"same_answers"`
	All  int `json:"answers"`
}

// trial is one setting of llama-server's, before the rounds that count.
type trial struct {
	Command string  `json:"command"`
	Rate    float64 `json:"tokens_per_second"`
}

func (r *row) add(ours, theirs turn) {
	r.Mine, r.Peer = append(r.Mine, ours.rate), append(r.Peer, theirs.rate)
	r.Ratios = append(r.Ratios, ours.rate/theirs.rate)
	for i, a := range ours.answers {
		r.All++
		if a == theirs.answers[i] {
			r.Same++
		}
	}
}

// print writes the table of one format.
func (f formatReport) print(out io.Writer, o *options) error {
	fmt.Fprintf(out, "\n%s, %d slots, %d threads, %d cells; tokens made a second, medians of %d rounds\n\n", f.Format, o.slots, o.threads, o.context, o.rounds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WORKLOAD\tLORRY\tLLAMA-SERVER\tRATIO\tLEAST–MOST\tGOAL\t\tSAME ANSWERS\tLLAMA-SERVER'S BEST SETTINGS")
	for _, r := range f.Workloads {
		if r.Skipped != "" {
			fmt.Fprintf(w, "%s\t–\t–\t–\t–\t≥ %g\t\t\tskipped: %s\n", r.Name, r.Goal, r.Skipped)
			continue
		}
		m := median(r.Ratios)
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.2f\t%.2f–%.2f\t≥ %g\t%s\t%d of %d\t%s\n", r.Name, median(r.Mine), median(r.Peer), m, slices.Min(r.Ratios), slices.Max(r.Ratios),
			r.Goal, met(m >= r.Goal), r.Same, r.All, r.Theirs)
	}
	for _, x := range f.Extras {
		m, sign := median(x.Ratios), "≥"
		ok := m >= x.Goal
		if x.AtMost {
			sign, ok = "≤", m <= x.Goal
		}
		peer := ""
		if len(x.Peer) > 0 {
			peer = fmt.Sprintf("(ratio %.2f)", median(x.Peer))
		}
		fmt.Fprintf(w, "%s\t\t%s\t%.2f\t%.2f–%.2f\t%s %g\t%s\t\t%s\n", x.Name, peer, m, slices.Min(x.Ratios), slices.Max(x.Ratios), sign, x.Goal, met(ok), x.Note)
	}
	return w.Flush()
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "missed"
}

func median(xs []float64) float64 {
	s := slices.Sorted(slices.Values(xs))
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}
