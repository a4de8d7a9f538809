package llama

import (
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// sharing is what a process of its own has of the processors.
func sharing(t *testing.T, path string) *cores {
	t.Helper()
	f, err := openCores(path)
	if err != nil {
		t.Fatal(err)
	}
	c := &cores{files: f}
	t.Cleanup(c.close)
	return c
}

// TestCoresTakeTurns: one computes at a time, and all come to their turn while none pauses.
func TestCoresTakeTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cores")
	var inside, most atomic.Int32
	var all sync.WaitGroup
	begin := make(chan struct{})
	for range 3 {
		c := sharing(t, path)
		all.Go(func() {
			<-begin
			for range 300 {
				c.Lock()
				n := inside.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				inside.Add(-1)
				c.Unlock()
			}
		})
	}
	close(begin)
	all.Wait()
	if most.Load() != 1 {
		t.Errorf("%d computed at the same moment", most.Load())
	}
}

// TestCoresWaitersGoFirst: who has just had its turn comes behind who waits.
func TestCoresWaitersGoFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cores")
	a, b := sharing(t, path), sharing(t, path)
	a.Lock()
	order := make(chan string, 2)
	var other sync.WaitGroup
	other.Go(func() { b.files.lock(0); order <- "b"; b.files.unlock() })
	for flock(a.files.next, syscall.LOCK_EX|syscall.LOCK_NB) { // until b waits
		flock(a.files.next, syscall.LOCK_UN)
	}
	a.Unlock()
	a.Lock()
	order <- "a"
	a.Unlock()
	other.Wait()
	if first := <-order; first != "b" {
		t.Error("it had two turns, one after the other, while another waited")
	}
}

// TestCoresOfOneThatHangs: its fault holds the others up for a moment, and not for ever; what they waited for is not lost.
func TestCoresOfOneThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cores")
	hangs, works := sharing(t, path), sharing(t, path)
	works.patience = time.Millisecond
	hangs.Lock()
	for range 3 {
		works.Lock()
		if works.held {
			t.Fatal("two have the turn")
		}
		works.Unlock()
	}
	hangs.Unlock()
	<-works.late
	for range 2 {
		works.Lock()
		if !works.held {
			t.Error("it has no turn though nobody else computes")
		}
		works.Unlock()
	}
	hangs.Lock()
	if !hangs.held {
		t.Error("the turn that nobody took is held for ever")
	}
	hangs.Unlock()
}

func TestCoresAlone(t *testing.T) {
	if f, err := openCores(""); f != nil || err != nil {
		t.Error(f, err)
	}
	if _, err := openCores(filepath.Join(t.TempDir(), "no", "such")); err == nil {
		t.Error("a folder that is not there was taken")
	}
	var c cores
	c.Lock()
	if c.held {
		t.Error("it has a turn where there are none")
	}
	c.Unlock()
	c.close()
}
