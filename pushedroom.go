package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"lorry/engine/gguf"
	"lorry/registry"
	"lorry/worker/gpu"
)

// room is the memory for engines of pushed models.
type room struct {
	most  int64        // that they may take together, in bytes
	free  func() int64 // what the device has left now
	close func()
}

// openRoom measures the device that engines would choose: half of it is theirs, where the settings don't say.
func (c *Config) openRoom() (room, error) {
	devices, err := gpu.Open(gpu.Config{Processor: !c.accelerated()})
	if err != nil {
		return room{}, fmt.Errorf("measure memory: %w", err)
	}
	memory := func() (total, free int64) {
		all, _ := devices.Sample()
		if len(all) == 0 {
			return 0, 0
		}
		d := all[min(c.deviceIndex(), len(all)-1)]
		return int64(d.MemoryTotal), int64(d.MemoryTotal - min(d.MemoryUsed, d.MemoryTotal))
	}
	total, _ := memory()
	return room{most: cmp.Or(int64(c.ModelMemory), total/2), free: func() int64 { _, free := memory(); return free }, close: devices.Close}, nil
}

// accelerated says whether llama would compute on a GPU, if there is one: its libraries for that are there.
func (c *Config) accelerated() bool {
	libs, _ := filepath.Glob(filepath.Join(c.runtimeDir(), "lib", "libggml-*"))
	for _, lib := range libs {
		kind := strings.TrimPrefix(filepath.Base(lib), "libggml-")
		if !strings.HasPrefix(kind, "cpu") && !strings.HasPrefix(kind, "base") {
			return c.Device != "cpu"
		}
	}
	return false
}

// deviceIndex is 1 for cuda:1: drivers and llama.cpp count alike, where nothing hides devices.
func (c *Config) deviceIndex() int {
	_, n, _ := strings.Cut(c.Device, ":")
	i, _ := strconv.Atoi(n)
	return max(0, i)
}

// spareMemory is what an engine takes beside weights and KV cache: numbers under way, and the beginnings of prompts.
const spareMemory = 512 << 20

const (
	// mostKV is more than a token's keys and values take in any model, in bytes: where a head says more it lies, and the
	// sums below would run over.
	mostKV = 1 << 30
	// tooMuch memory is what no machine has. Sums of several of it hold.
	tooMuch = 1 << 60
)

// need is what an engine of a pushed model takes, in bytes; the adapters that it loads (adapter_memory) come on top.
func (c *Config) need(m registry.Model) int64 {
	if m.KV < 0 || m.KV > mostKV {
		return tooMuch
	}
	kv := m.KV * int64(cmp.Or(c.Context, gguf.FewCells))
	if c.KVType == "q8_0" {
		kv = kv / 64 * 34
	}
	return m.Size + kv + spareMemory
}
