package llama

import (
	"cmp"

	"lorry/engine/gguf"
)

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
	each := cellBytes(f, c.KVType)
	if each <= 0 {
		return fewCells
	}
	fit := min((dev.free-f.Size)/2/each, int64(c.Slots*slotCells))
	return max(fewCells, int(fit)/256*256)
}

// cellBytes is what a token's keys and values take in all layers: at most, where layers differ; 0 where the file does
// not say.
func cellBytes(f *gguf.File, kvType string) int64 {
	number := func(key string) int64 {
		n, _ := f.Number(f.Architecture() + "." + key)
		return n
	}
	layers, width, heads := number("block_count"), number("embedding_length"), number("attention.head_count")
	if heads <= 0 {
		return 0
	}
	groups := cmp.Or(number("attention.head_count_kv"), heads)
	each := cmp.Or(number("attention.key_length"), width/heads) + cmp.Or(number("attention.value_length"), width/heads)
	if kvType == "q8_0" {
		return layers * groups * each * 34 / 32
	}
	return layers * groups * each * 2
}
