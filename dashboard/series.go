package dashboard

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"lorry/access"
)

// kept is how many points of the curves are kept: ten minutes of seconds.
const kept = 600

// point is one second of the curves.
type point struct {
	at      int64 // unix seconds
	tokens  float64
	waiting uint64
}

// series is the last ten minutes.
type series struct {
	mu     sync.Mutex
	points []point
}

func (s *series) add(p point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.points) >= 2*kept { // moving them once in ten minutes is cheaper than a ring is to read
		s.points = append(s.points[:0], s.points[len(s.points)-kept:]...)
	}
	s.points = append(s.points, p)
}

func (s *series) last() (p point, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.points) == 0 {
		return p, false
	}
	return s.points[len(s.points)-1], true
}

// curves is what app.js draws. Waiting is left out for those who may not know of others' backlogs.
type curves struct {
	T       []int64   `json:"t"`
	Tokens  []float64 `json:"tokens"`
	Waiting []uint64  `json:"waiting,omitempty"`
}

func (s *series) curves(admin bool) curves {
	s.mu.Lock()
	defer s.mu.Unlock()
	ps := s.points[max(0, len(s.points)-kept):]
	c := curves{T: make([]int64, 0, len(ps)), Tokens: make([]float64, 0, len(ps))}
	for _, p := range ps {
		c.T, c.Tokens = append(c.T, p.at), append(c.Tokens, p.tokens)
		if admin {
			c.Waiting = append(c.Waiting, p.waiting)
		}
	}
	return c
}

// tick adds a point. Unwatched, NATS is asked for the depths every tenth second only.
func (d *Dashboard) tick(ctx context.Context, watched bool) {
	if d.ticks++; watched || d.ticks%10 == 1 {
		d.fleet(ctx)
	}
	d.look.Lock()
	s := d.facts
	d.look.Unlock()
	s.workers = d.cfg.Fleet.Workers()
	t := s.tiles(scope{admin: true})
	d.curves.add(point{time.Now().Unix(), t.Tokens, t.Waiting})
}

// series answers with the curves so far; the stream's "tick" goes on from there.
func (d *Dashboard) series(w http.ResponseWriter, _ *http.Request, p access.Principal) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(d.curves.curves(p.Admin))
}

// tickEvent is the newest point as the stream carries it.
func (d *Dashboard) tickEvent(admin bool) []byte {
	p, ok := d.curves.last()
	if !ok {
		return nil
	}
	m := map[string]any{"t": p.at, "tokens": p.tokens}
	if admin {
		m["waiting"] = p.waiting
	}
	b, _ := json.Marshal(m)
	return b
}
