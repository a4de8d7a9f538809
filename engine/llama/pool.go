package llama

import (
	"sync"

	"github.com/hybridgroup/yzma/pkg/llama"
)

// poll is for how long a pool's threads spin before they sleep, in llama.cpp's unit of some 130,000 pauses: here 6 to 8 ms.
// That is longer than what lies between two calls, and short enough to leave the processors to others when there are none.
const poll = 1

// pools is held while one is made: the binding looks llama.cpp's function up at the first, without a lock.
var pools sync.Mutex

// newPool makes threads that stay, for contexts of which one computes at a time. Without a pool llama.cpp starts new ones
// for each call, and on a virtual machine the processor that they are given wakes late: BenchmarkPool. It is none (0) for
// one thread, which is the caller's, beside an accelerator, and where llama.cpp was built without pools.
func newPool(threads int, dev device) llama.Threadpool {
	if threads < 2 || dev.accelerated() {
		return 0
	}
	pools.Lock()
	defer pools.Unlock()
	p := llama.ThreadpoolParamsDefault(int32(threads))
	p.Poll = poll
	pool, err := llama.ThreadpoolNew(&p)
	if err != nil {
		return 0
	}
	return pool
}

// attach has a context compute with a pool's threads, if there is one.
func attach(ctx llama.Context, pool llama.Threadpool) {
	if pool != 0 {
		llama.AttachThreadpool(ctx, uintptr(pool), uintptr(pool))
	}
}
