package producer

import (
	"sync"
	"time"

	"lorry/engine"
)

const (
	// recentFor is how long an answer read from the cache is taken for granted: the most by which this process can lag
	// behind the cache's own end of an answer.
	recentFor = 5 * time.Second
	// recentBytes bounds them, roughly.
	recentBytes = 16 << 20
)

// recent holds answers that the cache gave a moment ago, by their key (which has the tenant in it): the same prompt
// asked again and again costs a trip to Redis each few seconds. An answer never changes, so there is nothing to
// invalidate.
type recent struct {
	mu    sync.Mutex
	kept  map[string]kept
	bytes int
}

type kept struct {
	completion *engine.Completion // shared: nobody writes to it
	size       int
	until      time.Time
}

// get is an answer of late; nil where there is none.
func (r *recent) get(key string, now time.Time) *engine.Completion {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.kept[key]
	if ok && now.After(k.until) {
		delete(r.kept, key)
		r.bytes -= k.size
		return nil
	}
	return k.completion
}

// put keeps an answer. When the room is used up, all are dropped: each costs one look into Redis.
func (r *recent) put(key string, c *engine.Completion, now time.Time) {
	size := weigh(c)
	if size > recentBytes/16 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, again := r.kept[key]
	if again {
		r.bytes -= old.size
	}
	if r.kept == nil || r.bytes+size > recentBytes {
		r.kept, r.bytes = map[string]kept{}, 0
	}
	r.kept[key] = kept{c, size, now.Add(recentFor)}
	r.bytes += size
}

// weigh is about how much memory an answer takes.
func weigh(c *engine.Completion) int {
	n := 512 // the key, the maps' share, the structs
	for _, ch := range c.Choices {
		n += 128 + len(ch.Text) + len(ch.ToolCalls)
		for _, l := range ch.Logprobs {
			n += 128 + 96*len(l.Top)
		}
	}
	return n
}
