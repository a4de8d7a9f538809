package llama

import (
	"os"
	"runtime"
	"testing"

	"github.com/hybridgroup/yzma/pkg/llama"
)

// strangers are the threads that Go may start or end while a test counts them.
const strangers = 6

// TestPool: a pool's threads stay until it is freed.
func TestPool(t *testing.T) {
	before := tasks(t)
	open(t, config(t)) // loads the library
	pool := newPool(24, processor)
	if n := tasks(t) - before; n < 23 {
		t.Errorf("%d threads are there", n)
	}
	llama.ThreadpoolFree(pool)
	if n := tasks(t) - before; n > strangers {
		t.Errorf("%d threads are left", n)
	}
	if newPool(1, processor) != 0 || newPool(24, device{index: 0}) != 0 {
		t.Error("a pool is made where it is of no use")
	}
}

// TestPoolGoesWithItsEngine: all contexts of an engine compute with its pool, and it ends with the engine.
func TestPoolGoesWithItsEngine(t *testing.T) {
	c := quickly(t)
	c.Threads = 2
	before := tasks(t)
	e := open(t, c)
	if e.model.pool == 0 {
		t.Fatal("an engine of two threads has no pool")
	}
	for _, deterministic := range []bool{false, true} {
		q := ask("One, two,", 2)
		q.Deterministic = deterministic
		answer(t, e, q)
	}
	if _, err := e.Run(t.Context(), embedRequest("One"), nil); err != nil {
		t.Error(err)
	}
	if e.exact.model.pool != e.model.pool {
		t.Error("the deterministic context has a pool of its own")
	}
	e.Close()
	for range strangers + 2 {
		open(t, c).Close()
	}
	if n := tasks(t) - before; n > strangers {
		t.Errorf("%d threads are left", n)
	}
}

func tasks(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("threads are counted in /proc")
	}
	list, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
