package llama

// depth knows what a prompt's token takes in a call that is computed in blocks: the more, the more tokens are before it.
// It learns a straight line from the calls as they go.
type depth struct {
	first  float64 // seconds of a token that has none before it; 0: no call is known
	deeper float64 // seconds more for each thousand that are before it
}

const (
	// learning is the part of what the line is wrong by that a call corrects.
	learning = 0.4
	// outlier is how many times as long as expected a call counts at most: a busy neighbour's hiccup is soon forgotten.
	outlier = 2
)

// row is the seconds of a token with so many before it; 0: that is not known.
func (d *depth) row(before float64) float64 { return d.first + d.deeper*before/1000 }

// learn notes what a call's tokens took each, which have so many before them on average.
func (d *depth) learn(before, took float64) {
	if d.first == 0 {
		d.first = took
		return
	}
	x := before / 1000
	wrong := min(took, outlier*d.row(before)) - d.row(before)
	step := learning * wrong / (1 + x*x)
	d.deeper = max(0, d.deeper+step*x)
	d.first = max(d.first/outlier, d.first+step)
}

// atMost notes that a token takes no longer than this: in a call that is not computed in blocks it took as long.
func (d *depth) atMost(before, took float64) {
	if d.first > 0 && took < d.row(before) {
		d.learn(before, took)
	}
}

// meanDepth is the mean position of rows; 0 of none.
func meanDepth(rows []row) float64 {
	sum := 0
	for _, r := range rows {
		sum += r.pos
	}
	return float64(sum) / float64(max(1, len(rows)))
}
