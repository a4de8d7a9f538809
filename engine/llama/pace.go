package llama

import (
	"cmp"
	"time"
)

// pace divides steps between those who draw and prompts. It learns what steps and rows cost as they go, since that
// differs a hundredfold between devices and models.
//
//   - On a CPU (apart) prompts have calls of their own: llama.cpp's attention computes calls of at least fullCall rows in
//     blocks, in half the time of smaller ones where there are some hundred cells to look at, and in a third where there
//     are a thousand; but then all rows of a block look at what any of them does, which answers of other sequences would
//     spoil. And once all prompts are there, all slots draw in each step. Who draws waits no longer than about target.
//   - Where somebody watches, that wait is hidden (credit): tokens are drawn as fast as ever, but shown so far apart as
//     stretch allows, and a call of prompts is made as soon as enough of them are in hand to be shown meanwhile. So answers
//     go on steadily, some tenths of a second late.
//   - What is too little for a call of its own, or takes too long to be hidden, comes in small pieces beside the answers. A
//     step with one takes at most stretch times as long as one without, unless the least piece takes more.
//   - On an accelerator both share each step, of about target at most. Beside watched answers a step has one of few sizes
//     (fit), since CUDA's graph of it is captured anew when the size changes, which takes as long as the step.
type pace struct {
	target  time.Duration // negative: none, and calls are as full as may be
	stretch float64       // 0: watched or not is the same
	apart   bool

	row   float64         // seconds of a prompt's token in a call without answers, smoothed; 0: not known yet
	piece float64         // the same beside answers
	calm  map[int]float64 // seconds of a step without a prompt, smoothed, by how many draw
	depth depth           // what a prompt's token takes in a full call, by how much is before it

	hidden bool    // the last step was planned so that a call of prompts is hidden from who watches
	credit float64 // seconds for which they have tokens in hand
	gap    float64 // seconds between two tokens that they are shown, at least

	sizes map[int]float64 // an accelerator's seconds of a step with answers and a prompt, smoothed, by its rows
	last  int             // rows of the step before
	same  int             // steps before of that size
}

const (
	// leastPiece of a prompt is computed in a step however long it takes, so that a prompt always gets on; leastWatched is
	// the same beside answers that are watched.
	leastPiece   = 8
	leastWatched = 4
	// block is how many rows a CPU's repacked weights are multiplied with at a time: what is left over costs as much.
	block = 4
	// fullCall is how many rows llama.cpp's attention on a CPU computes in blocks.
	fullCall = 64
	// longStep bounds a step in which nobody draws: how long a cancel or a newcomer waits.
	longStep = time.Second
	// spare is how much more than a call is expected to take is held in hand before it is made.
	spare = 1.25
	// margin is the part of what is allowed beside watched answers that is aimed at: steps vary.
	margin = 0.8
	// filling is the part of what remains that hidden calls hold tokens back by: with the prompt's cells the answers' own
	// steps take longer than those that were learned from.
	filling = 0.8
	// leastFit is the least size of an accelerator's step beside watched answers; others are twice, four times… as large.
	leastFit = 8
	// settled is how many steps of a size come before those whose time counts: a graph is captured in the second.
	settled = 2
	// growth is the part of the time that is aimed at below which a step of twice the size is tried.
	growth = 0.8
	// smoothing is the weight of the newest step: a busy neighbour's hiccup fades within some steps.
	smoothing = 0.2
)

// demand is what a step could compute.
type demand struct {
	drawing int           // sequences that need a row each
	prompt  int           // tokens of prompts
	watched bool          // somebody looks at one of the answers that are drawn as it comes, or it must hurry
	hurried bool          // the same of a prompt's
	waited  time.Duration // since those who draw last did
	depth   float64       // mean position of the prompts' next tokens, of a full call
}

// share is how many rows the next step may have, of most, and whether they are for prompts alone. Those who draw have one
// each, before all, where it says no.
func (p *pace) share(d demand, most int) (limit int, alone bool) {
	p.begin(d, most)
	switch {
	case p.target <= 0:
		return most, false
	case d.drawing == 0:
		return p.full(longStep, most), false
	case p.hidden && p.credit < spare*p.call(d):
		return d.drawing, false
	case p.hidden:
		return min(most, part(d)), true
	case p.stretch > 0 && d.watched && p.apart:
		return p.bounded(blocks(d.drawing, p.watched(d)), most), false
	case p.stretch > 0 && d.watched:
		return min(most, p.fit(d)), false
	case p.apart && d.prompt >= fullCall && d.waited < p.target:
		return p.full(p.target, most), true
	case p.apart && d.prompt >= fullCall:
		return d.drawing, false
	}
	n := p.rows(p.target.Seconds()-p.without(d.drawing), cmp.Or(p.piece, p.row), most)
	return p.bounded(d.drawing+max(leastPiece, n), most), false
}

// begin decides whether the next calls of prompts are hidden: where somebody watches, and tokens can be held back for as
// long as one takes. Where there is nothing to hide any more, what was held back is shown twice as fast as it was drawn.
func (p *pace) begin(d demand, most int) {
	calm, call := p.without(d.drawing), p.call(d)
	p.hidden = p.apart && p.stretch > 0 && d.watched && d.prompt >= fullCall && most >= fullCall &&
		calm > 0 && p.longer(d) > 0 && call > 0 && call < p.target.Seconds()
	switch {
	case p.hidden:
		p.gap = calm + filling*p.longer(d)
	case p.apart && p.stretch > 0:
		p.gap, p.credit = calm/2, 0
	}
}

// part is how many tokens of prompts a hidden call has: the fewest that are computed in blocks, and none are left that
// would not be.
func part(d demand) int {
	if d.prompt < 2*fullCall {
		return d.prompt
	}
	return fullCall
}

// call is how many seconds a hidden call takes; before there was one, as long as a smaller one by its rows; 0: that is not
// known either.
func (p *pace) call(d demand) float64 {
	return float64(part(d)) * cmp.Or(p.depth.row(d.depth), p.row, p.piece)
}

// full is the rows of a call without answers.
func (p *pace) full(long time.Duration, most int) int {
	return min(most, max(fullCall, p.rows(long.Seconds(), p.row, most)))
}

// bounded keeps a call that has answers below those that are computed in blocks.
func (p *pace) bounded(n, most int) int {
	if p.apart {
		most = min(most, max(fullCall-1, leastPiece))
	}
	return min(most, n)
}

// watched is how many of a prompt's tokens a step has beside answers that are watched. A prompt whose own answer is
// waited for has twice as many.
func (p *pace) watched(d demand) int {
	return max(leastWatched, p.rows(p.longer(d), cmp.Or(p.piece, p.row), fullCall))
}

// longer is how many seconds more than one without a step with a piece of a prompt may take.
func (p *pace) longer(d demand) float64 {
	calm := p.without(d.drawing)
	longest := margin * (p.stretch - 1) * calm
	if d.hurried {
		longest *= 2
	}
	return min(longest, p.target.Seconds()-calm)
}

// fit is the largest size of a step whose time is known to be short enough, or the next one where that is much shorter.
func (p *pace) fit(d demand) int {
	aim := p.without(d.drawing) + p.longer(d)
	rows := leastFit
	for rows < d.drawing+leastWatched {
		rows *= 2
	}
	for took := p.sizes[rows]; took > 0 && took < growth*aim; took = p.sizes[rows] {
		rows *= 2
	}
	if least := rows / 2; least >= d.drawing+leastWatched && p.sizes[rows] > aim {
		return least
	}
	return rows
}

// blocks is a call's rows for a piece of about n rows beside those who draw: whole blocks.
func blocks(drawing, n int) int {
	rows := (drawing + n) / block * block
	if rows < drawing+block/2 {
		rows += block
	}
	return rows
}

// rows is how many rows take so many seconds, at most as many as given; none where it is not known what one takes.
func (p *pace) rows(seconds, row float64, most int) int {
	if row == 0 {
		return 0
	}
	return int(max(0, min(float64(most), seconds/row)))
}

// without is what a step takes in which so many draw and there is no prompt, by the nearest number known; 0: none is.
func (p *pace) without(drawing int) float64 {
	nearest := 0
	for n := range p.calm {
		if d, e := distance(n, drawing), distance(nearest, drawing); nearest == 0 || d < e || d == e && n < nearest {
			nearest = n
		}
	}
	return p.calm[nearest]
}

func distance(a, b int) int { return max(a-b, b-a) }

// note learns from a step that computed rows, among them drawing ones. depth is the mean position of the others.
func (p *pace) note(rows, drawing int, depth float64, took time.Duration) {
	if p.hidden && rows > 0 {
		earned := 0.0
		if drawing > 0 {
			earned = p.gap
		}
		p.credit = max(0, p.credit+earned-took.Seconds())
	}
	steady := p.steady(rows)
	if steady && drawing > 0 && rows > drawing {
		p.noteSize(rows, took)
	}
	piece := rows - drawing
	switch {
	case rows == 0:
	case piece <= 0 && !steady && len(p.calm) > 0:
	case piece <= 0:
		if p.calm == nil {
			p.calm = map[int]float64{}
		}
		p.calm[drawing] = smooth(p.calm[drawing], took.Seconds())
	case drawing == 0 && rows >= leastPiece:
		p.row = smooth(p.row, took.Seconds()/float64(rows))
		if rows >= fullCall {
			p.depth.learn(depth, took.Seconds()/float64(rows))
		}
	case drawing > 0:
		// What those who draw take is known only roughly. A piece costs a part of the step in any case.
		whole := took.Seconds()
		each := max((whole-p.without(drawing))/float64(piece), whole/float64(2*rows))
		p.piece = smooth(p.piece, each)
		p.depth.atMost(depth, each)
	}
}

// steady says that steps of so many rows follow each other, so that what one takes counts. A CPU's all do.
func (p *pace) steady(rows int) bool {
	if p.same++; rows != p.last {
		p.last, p.same = rows, 0
	}
	return p.apart || p.same >= settled
}

// noteSize learns what an accelerator's step with answers and a piece of a prompt takes, if it has one of fit's sizes.
func (p *pace) noteSize(rows int, took time.Duration) {
	if p.apart || rows < leastFit || rows&(rows-1) != 0 {
		return
	}
	if p.sizes == nil {
		p.sizes = map[int]float64{}
	}
	p.sizes[rows] = smooth(p.sizes[rows], took.Seconds())
}

// smooth is the moving mean after one more value; 0 is none yet.
func smooth(mean, x float64) float64 {
	if mean == 0 {
		return x
	}
	return mean + smoothing*(x-mean)
}

// due is when a token is shown that is drawn now, behind one that was due then.
func (p *pace) due(then, now time.Time) time.Time {
	due := then.Add(time.Duration(p.gap * float64(time.Second)))
	if latest := now.Add(p.target); due.After(latest) {
		due = latest
	}
	if due.Before(now) {
		return now
	}
	return due
}

// drawing is the sequences that need one row each.
func drawing(running []*sequence) (out []*sequence) {
	for _, s := range running {
		if s.pending() == 1 {
			out = append(out, s)
		}
	}
	return out
}

// urgent says that a run's tokens are waited for: its answer is streamed, or its deadline is near.
func (u *run) urgent(now time.Time) bool {
	d := u.deadline()
	return u.outbox.stream || !d.IsZero() && d.Sub(now) < soon
}
