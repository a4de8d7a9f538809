package scheduler

import (
	"math/rand/v2"
	"sync"
	"time"

	"lorry/webhook"
)

const (
	// hostShare is how many attempts a receiver may hold at once, ailingShare how many one whose last attempt failed or
	// was slow: a receiver that hangs must not hold up the others' events.
	hostShare   = concurrency / 2
	ailingShare = 2
	slowHost    = 2 * time.Second
	// manyHosts is from how many on those with nothing under way are forgotten.
	manyHosts = 4096
)

// hosts shares the workers between receivers. The zero value is ready.
type hosts struct {
	mu sync.Mutex
	m  map[string]*host
}

type host struct {
	busy   int
	ailing bool
}

func (h *host) full() bool {
	if h.ailing {
		return h.busy >= ailingShare
	}
	return h.busy >= hostShare
}

// enter takes a place at a receiver; release gives it back with what came of it. Without a free place release is nil,
// and wait says when to ask again.
func (hs *hosts) enter(name string) (release func(webhook.Outcome), wait time.Duration) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.m == nil {
		hs.m = map[string]*host{}
	}
	h := hs.m[name]
	if h == nil {
		hs.forget()
		h = &host{}
		hs.m[name] = h
	}
	switch {
	case !h.full():
		h.busy++
		return func(o webhook.Outcome) { hs.leave(h, o) }, 0
	case h.ailing:
		return nil, 5*time.Second + rand.N(5*time.Second)
	}
	return nil, time.Second
}

func (hs *hosts) leave(h *host, o webhook.Outcome) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h.busy--
	h.ailing = o.Kind == webhook.Retry && o.Status == 0 || o.Took > slowHost
}

func (hs *hosts) forget() {
	if len(hs.m) < manyHosts {
		return
	}
	for name, h := range hs.m {
		if h.busy == 0 {
			delete(hs.m, name)
		}
	}
}
