package llama

import "lorry/engine/gguf"

// slotCells is how many cells each slot of an accelerator gets in a KV cache that nobody sizes.
const slotCells = 2048

// cells is the size of a KV cache that nobody sizes: on an accelerator what its slots are likely to want, within half of
// the memory that the weights leave. The other half is for adapters, calls and other processes.
func cells(c Config, dev device) int {
	if !dev.accelerated() {
		return gguf.FewCells
	}
	f, err := gguf.Open(c.File)
	if err != nil {
		return gguf.FewCells // loading it says what is wrong
	}
	each := f.TokenBytes(c.KVType)
	if each <= 0 {
		return gguf.FewCells
	}
	fit := min((dev.free-f.Size)/2/each, int64(c.Slots*slotCells))
	return max(gguf.FewCells, int(fit)/256*256)
}
