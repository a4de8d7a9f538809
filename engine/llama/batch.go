package llama

import (
	"cmp"
	"slices"
)

// badRows is our own code for rows that llama.cpp would abort on; its codes are larger.
const badRows = -100

// row is one token of one sequence in one native call.
type row struct {
	seq    *sequence
	token  int32
	pos    int
	output bool // logits are wanted: the sequence's last token
}

// fill is the rows of one call: one for every sequence that is drawing, so that none waits for another's prompt; then as
// much of the prompts, in order, as there is room. So limit bounds a step's time, and with it the time between tokens.
func fill(drawing, prompts []*sequence, limit int) []row {
	rows := make([]row, 0, limit)
	for _, s := range slices.Concat(drawing, prompts) {
		rows = s.rows(rows, min(s.pending(), limit-len(rows)))
	}
	return rows
}

// byDeadline is the sequences whose prompts are to be computed, the one that is wanted first before all.
func byDeadline(running []*sequence) (out []*sequence) {
	for _, s := range running {
		if s.pending() > 1 {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b *sequence) int { return cmp.Compare(a.wanted(), b.wanted()) })
	return out
}

// split cuts a call's rows into one part for each sequence. A sequence's rows are neighbours.
func split(rows []row) (parts [][]row) {
	for len(rows) > 0 {
		n := slices.IndexFunc(rows, func(r row) bool { return r.seq != rows[0].seq })
		if n < 0 {
			n = len(rows)
		}
		parts = append(parts, rows[:n])
		rows = rows[n:]
	}
	return parts
}

// requests is the IDs of the requests in a call, each once, in order.
func requests(rows []row) (ids []string) {
	for _, part := range split(rows) {
		if id := part[0].seq.run.request.ID; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}
