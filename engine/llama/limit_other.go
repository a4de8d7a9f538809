//go:build !linux

package llama

// limitMemory does nothing: other systems don't bound address space in a way that Go's runtime lives with.
func limitMemory(uint64) error { return nil }
