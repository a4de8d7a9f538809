package child

import (
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"
)

// looks is how often guard looks at a child before it takes it for hung. It counts looks, not time: where this process
// or the whole machine stood still, messages may lie in the pipe unread, and one look is all that is missed.
const looks = 8

// guard ends a child that has calls and gives no sign of life.
func (p *process) guard() {
	tick := time.NewTicker(p.cfg.Hang / looks)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.gone:
			return
		}
		if p.silent() {
			p.kill()
			return
		}
	}
}

// alive notes a sign of life.
func (p *process) alive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = 0
}

// silent is one look. Who is to blame is settled with the last one: those in the native call, or where there is none,
// all that are under way, since a text may keep the tokenizer or a template for ever as well.
func (p *process) silent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.calls) == 0 {
		p.quiet = 0
		return false
	}
	if p.quiet++; p.quiet <= looks {
		return false
	}
	p.hung = fmt.Errorf("it made no step for %v", p.cfg.Hang)
	if len(p.decoding) == 0 {
		p.decoding = p.names()
	}
	return true
}

// names are the IDs of the calls under way.
func (p *process) names() (ids []string) {
	for _, n := range slices.Sorted(maps.Keys(p.calls)) {
		ids = append(ids, p.calls[n].id)
	}
	return ids
}

// kill has the child say where it stands, as Go does on SIGQUIT, and ends it.
func (p *process) kill() {
	p.cmd.Process.Signal(syscall.SIGQUIT)
	timer := time.NewTimer(briefly)
	defer timer.Stop()
	select {
	case <-p.gone:
	case <-timer.C:
		p.cmd.Process.Kill()
	}
}

// hangs is why guard ended the child; nil if it did not.
func (p *process) hangs() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hung
}
