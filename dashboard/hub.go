package dashboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	clientsGauge = promauto.NewGauge(prometheus.GaugeOpts{Name: "lorry_dashboard_clients", Help: "Live dashboard pages that are open."})
	dropped      = promauto.NewCounterVec(prometheus.CounterOpts{Name: "lorry_dashboard_dropped_total",
		Help: "Live pages that were ended, by reason: slow, full (refused at the limit), signed_out."}, []string{"reason"})
)

const (
	// every is how often everything is looked at while a page is open.
	every = time.Second
	// gather is how long hints are collected before jobs are looked at again: a thousand changes cost one look.
	gather = 150 * time.Millisecond
	// patience is how long a page may take to read an update before it is dropped; a browser then connects again.
	patience = 10 * time.Second
	// alive is how often an idle stream says so, and its reader is asked for again.
	alive = 15 * time.Second
	// perKey bounds one key's share of the live pages.
	perKey = 64
)

// errFull is one live page too many.
var errFull = errors.New("too many live pages are open")

// hub renders what open pages show, once for all that show the same, and hands it to each.
type hub struct {
	limit    int
	patience time.Duration
	render   func(context.Context, scope, bool) sections
	hints    chan string // tenants whose jobs changed; a full channel loses them, and the next second finds out
	done     chan struct{}
	once     sync.Once

	mu      sync.Mutex
	clients map[*client]struct{}
}

// sections are pieces of a page by their event's name.
type sections map[string][]byte

// client is one live page: a mailbox of one piece a section, so that a slow reader misses states, never the last one,
// and holds no more than a page.
type client struct {
	scope scope
	key   string
	wake  chan struct{}

	mu   sync.Mutex
	mail sections
	last sections
}

func newHub(limit int, render func(context.Context, scope, bool) sections) *hub {
	return &hub{limit: limit, patience: patience, render: render, hints: make(chan string, 256), done: make(chan struct{}), clients: map[*client]struct{}{}}
}

// join adds a page. leave must follow.
func (h *hub) join(sc scope, key string) (*client, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	own := 0
	for c := range h.clients {
		if c.key == key {
			own++
		}
	}
	if len(h.clients) >= h.limit || own >= perKey {
		dropped.WithLabelValues("full").Inc()
		return nil, errFull
	}
	c := &client{scope: sc, key: key, wake: make(chan struct{}, 1), mail: sections{}, last: sections{}}
	h.clients[c] = struct{}{}
	clientsGauge.Inc()
	return c, nil
}

func (h *hub) leave(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, c)
	clientsGauge.Dec()
}

// hint says that a tenant's jobs changed. It never blocks.
func (h *hub) hint(tenant string) {
	select {
	case h.hints <- tenant:
	default:
	}
}

func (h *hub) stop() { h.once.Do(func() { close(h.done) }) }

// run looks each second, and sooner at jobs that are said to have changed, until ctx ends.
func (h *hub) run(ctx context.Context, tick func(context.Context, bool)) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			tick(ctx, h.watched())
			h.refresh(ctx, nil)
		case tenant := <-h.hints:
			h.refresh(ctx, h.collect(ctx, tenant))
		}
	}
}

func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.clients) > 0
}

// collect gathers the hints of a moment.
func (h *hub) collect(ctx context.Context, tenant string) map[string]bool {
	out := map[string]bool{tenant: true}
	t := time.NewTimer(gather)
	defer t.Stop()
	for {
		select {
		case tenant := <-h.hints:
			out[tenant] = true
		case <-t.C:
			return out
		case <-ctx.Done():
			return out
		}
	}
}

// refresh renders each scope once and puts it into its pages' mailboxes. tenants, if not nil, are the only ones whose
// jobs are looked at.
func (h *hub) refresh(ctx context.Context, tenants map[string]bool) {
	for sc, clients := range h.byScope() {
		if tenants != nil && !tenants[sc.tenant] {
			continue
		}
		s := h.render(ctx, sc, tenants != nil)
		for _, c := range clients {
			c.put(s)
		}
	}
}

func (h *hub) byScope() map[scope][]*client {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[scope][]*client{}
	for c := range h.clients {
		out[c.scope] = append(out[c.scope], c)
	}
	return out
}

// put leaves what has changed since the page last got it.
func (c *client) put(s sections) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, html := range s {
		if !bytes.Equal(c.last[name], html) {
			c.mail[name], c.last[name] = html, html
		}
	}
	if len(c.mail) == 0 {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *client) take() sections {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mail
	c.mail = sections{}
	return s
}

// serve writes a page's updates until it is gone, too slow, or may not look any more.
func (h *hub) serve(w http.ResponseWriter, r *http.Request, c *client, may func() bool) {
	h.serveEvery(w, r, c, alive, may)
}

func (h *hub) serveEvery(w http.ResponseWriter, r *http.Request, c *client, idle time.Duration, may func() bool) {
	out := http.NewResponseController(w)
	t := time.NewTicker(idle)
	defer t.Stop()
	text := []byte("retry: 2000\n\n")
	for {
		_ = out.SetWriteDeadline(time.Now().Add(h.patience))
		if _, err := w.Write(text); err != nil || out.Flush() != nil {
			if r.Context().Err() == nil {
				dropped.WithLabelValues("slow").Inc()
			}
			return
		}
		select {
		case <-c.wake:
			text = frame(c.take())
		case <-t.C:
			if !may() {
				dropped.WithLabelValues("signed_out").Inc()
				return
			}
			text = []byte(": alive\n\n")
		case <-r.Context().Done():
			return
		case <-h.done:
			return
		}
	}
}

// lines are the ends of lines that a server-sent event knows.
var lines = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// frame is sections as server-sent events, in the order of their names.
func frame(s sections) []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "event: %s\n", name)
		for line := range strings.SplitSeq(lines.Replace(string(s[name])), "\n") {
			fmt.Fprintf(&b, "data: %s\n", line)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
