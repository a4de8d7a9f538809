package llama

import "time"

// pace sizes the pieces of prompts, so that those who draw meanwhile get their tokens at a steady rate: a step that
// holds both is to take about target. It learns what a row costs from such steps as they go, since that differs a
// hundredfold between devices and models.
type pace struct {
	target time.Duration
	row    float64 // seconds, smoothed; 0: not known yet
}

const (
	// leastPiece of a prompt is computed in a step however long it takes, so that a prompt always gets on.
	leastPiece = 8
	// smoothing is the weight of the newest step: a busy neighbour's hiccup fades within some steps.
	smoothing = 0.2
)

// limit is how many rows the next step may have, of most. drawing sequences have one each.
func (p *pace) limit(drawing, most int) int {
	if p.target <= 0 || p.row == 0 || drawing == 0 {
		return most
	}
	return min(most, max(drawing+leastPiece, int(p.target.Seconds()/p.row)))
}

// note learns from a step that computed rows, among them drawing ones. One without a prompt says nothing of what a
// prompt's rows cost.
func (p *pace) note(rows, drawing int, took time.Duration) {
	if rows < drawing+leastPiece {
		return
	}
	cost := took.Seconds() / float64(rows)
	if p.row == 0 {
		p.row = cost
	}
	p.row += smoothing * (cost - p.row)
}

// drawing is how many sequences need one row each.
func drawing(running []*sequence) (n int) {
	for _, s := range running {
		if s.pending() == 1 {
			n++
		}
	}
	return n
}
