package gguf

import "cmp"

// FewCells is the length of a KV cache that nobody sizes, in tokens: on a CPU, and the least on an accelerator.
const FewCells = 8192

// tooMany keys and values of a token are more than any model has. Products of what a head says stop there.
const tooMany = 1 << 50

// TokenBytes is what a token's keys and values take in all layers of a model, as numbers of kvType ("q8_0", else f16): at
// most, where layers differ; 0 where the file does not say.
func (f *File) TokenBytes(kvType string) int64 {
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
	if max(layers, groups, each) > 2*maxWidth || min(layers, groups, each) <= 0 { // more than any has
		return 0
	}
	all := min(layers*groups, tooMany/each) * each
	if kvType == "q8_0" {
		return all * 34 / 32
	}
	return all * 2
}
