package llama

import (
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

// plan fills one call: a row for every sequence that is drawing, so that none waits for another's prompt; then as much
// of the prompts, oldest first, as there is room. So limit bounds a step's time, and with it the time between tokens.
func plan(running []*sequence, limit int) []row {
	rows := make([]row, 0, limit)
	for _, s := range running {
		if s.pending() == 1 && len(rows) < limit {
			rows = s.rows(rows, 1)
		}
	}
	for _, s := range running {
		if n := min(s.pending(), limit-len(rows)); s.pending() > 1 && n > 0 {
			rows = s.rows(rows, n)
		}
	}
	return rows
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

// pool is the slots and KV cells that sequences hold. Cells are counted here before a call needs them, since a call
// that finds none fails for everybody in it.
type pool struct {
	cells int   // free
	slots []int // free; the highest is taken last
}

func newPool(slots, cells int) *pool {
	p := &pool{cells: cells}
	for i := range slots {
		p.slots = append(p.slots, i)
	}
	return p
}

// take reserves cells, all or none.
func (p *pool) take(n int) bool {
	if n > p.cells {
		return false
	}
	p.cells -= n
	return true
}

// prefix is cells that several sequences share; the last one gives them back.
type prefix struct {
	cells int
	users int
}

// reserve is how many tokens of an answer are provided for when its sequence is admitted, and each time that these are
// used up. More makes preemption rarer, less lets more sequences run.
const reserve = 64

// admit gives a sequence a slot and cells for what it holds and a first piece of its answer. Cells of a donor's prompt
// are counted once.
func (p *pool) admit(s, donor *sequence) bool {
	shared := 0
	if donor != nil {
		shared = len(s.run.prompt) - 1 // the last one is computed for its logits
	}
	need := len(s.tokens) - shared + min(s.left(), reserve)
	if len(p.slots) == 0 || !p.take(need) {
		return false
	}
	s.slot, p.slots = p.slots[0], p.slots[1:]
	s.held, s.done = need, shared
	if shared > 0 {
		donor.lend(shared)
		s.prefix = donor.prefix
		s.prefix.users++
	}
	return true
}

// grow makes sure that a sequence has a cell for its next token.
func (p *pool) grow(s *sequence) bool {
	if s.done < s.room() {
		return true
	}
	for n := min(s.left()+1, reserve); n > 0; n /= 2 {
		if p.take(n) {
			s.held += n
			return true
		}
	}
	return false
}

// release takes back all that a sequence holds.
func (p *pool) release(s *sequence) {
	if s.slot < 0 {
		return
	}
	p.cells += s.held
	if s.prefix != nil {
		if s.prefix.users--; s.prefix.users == 0 {
			p.cells += s.prefix.cells
		}
	}
	at, _ := slices.BinarySearch(p.slots, s.slot)
	p.slots = slices.Insert(p.slots, at, s.slot)
	s.slot, s.held, s.done, s.prefix = -1, 0, 0, nil
}
