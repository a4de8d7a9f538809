package llama

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// cores is held for every step that computes on the processors: by one loop of this process, and by one process of those
// that were given the same file. ggml's threads spin while they wait for each other, so two contexts that compute at one
// moment with all cores each are up to hundreds of times slower than one after the other.
type cores struct {
	mu    sync.Mutex
	files *coreFiles    // nil: there is no other process
	held  bool          // the files are
	late  chan struct{} // closed when a wait that was given up has ended; nil: there is none

	patience time.Duration // 0: coresPatience
}

// coreFiles are locked by flock, in this order, which the kernel gives up with the process. Whoever waits for turn holds
// next: who has just had its turn can't take it again before them.
type coreFiles struct{ next, turn *os.File }

// coresPatience is how long a step waits for another process, which then hangs, or computes one that takes very long.
const coresPatience = 5 * time.Second

// openCores shares the processors with those who open the same path. An empty one is nobody's.
func openCores(path string) (*coreFiles, error) {
	if path == "" {
		return nil, nil
	}
	next, err := os.OpenFile(path+".next", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("llama: share the processors: %w", err)
	}
	turn, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		_ = next.Close()
		return nil, fmt.Errorf("llama: share the processors: %w", err)
	}
	return &coreFiles{next, turn}, nil
}

// Lock waits for its turn. It goes on without one after coresPatience: slow, but another's fault does not stop this engine.
func (c *cores) Lock() {
	c.mu.Lock()
	if c.files == nil || c.waitsStill() {
		return
	}
	if c.held = c.files.lock(syscall.LOCK_NB); c.held {
		return
	}
	got := make(chan struct{})
	go func() {
		defer close(got)
		c.files.lock(0)
	}()
	patience := time.NewTimer(cmp.Or(c.patience, coresPatience))
	defer patience.Stop()
	select {
	case <-got:
		c.held = true
	case <-patience.C:
		c.late = got
	}
}

// waitsStill says that an earlier wait has not ended. One that has holds the files now.
func (c *cores) waitsStill() bool {
	if c.late == nil {
		return false
	}
	select {
	case <-c.late:
		c.late = nil
		c.files.unlock()
		return false
	default:
		return true
	}
}

// Unlock lets the next one compute.
func (c *cores) Unlock() {
	if c.held {
		c.held = false
		c.files.unlock()
	}
	c.mu.Unlock()
}

// lock says whether the turn is ours. Without LOCK_NB it waits. Where files can't be locked, the turn is everybody's.
func (f *coreFiles) lock(how int) bool {
	if !flock(f.next, syscall.LOCK_EX|how) {
		return false
	}
	got := flock(f.turn, syscall.LOCK_EX|how)
	flock(f.next, syscall.LOCK_UN)
	return got
}

func (f *coreFiles) unlock() { flock(f.turn, syscall.LOCK_UN) }

func flock(f *os.File, how int) bool {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return !errors.Is(err, syscall.EWOULDBLOCK)
		}
	}
}

// close is called when no loop is left.
func (c *cores) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil || c.waitsStill() { // a wait that goes on ends with the process
		return
	}
	_ = c.files.turn.Close()
	_ = c.files.next.Close()
	c.files = nil
}
