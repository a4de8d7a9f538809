package llama

import "lorry/engine/gguf"

// Sizes of a KV cache that nobody gives, in cells.
const (
	fewCells  = 8192 // on a CPU, and the least
	slotCells = 2048 // for each slot of an accelerator
)

// cells is the size of such a cache: on an accelerator what its slots are likely to want, within half of the memory that
// the weights leave. The other half is for adapters, calls and other processes.
func cells(c Config, dev device) int {
	if !dev.accelerated() {
		return fewCells
	}
	f, err := gguf.Open(c.File)
	if err != nil {
		return fewCells // loading it says what is wrong
	}
	each := f.TokenBytes(c.KVType)
	if each <= 0 {
		return fewCells
	}
	fit := min((dev.free-f.Size)/2/each, int64(c.Slots*slotCells))
	return max(fewCells, int(fit)/256*256)
}
