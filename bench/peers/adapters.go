package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorry/engine/enginetest"
	"lorry/engine/gguf"
)

// mostAdapters is how many a workload has at most.
const mostAdapters = 8

// makeAdapters writes adapters of random weights: each under its digest, as ours wants it, and under a name that Kronk
// takes. Where none fits the model it says why.
func (o *options) makeAdapters() error {
	lora, err := o.fitting()
	if err != nil || o.noAdapters != "" {
		return err
	}
	for i := range mostAdapters {
		lora.Seed = uint64(i + 1)
		digest := lora.Write(outside{}, o.dir)
		o.adapters = append(o.adapters, digest)
		if err := os.Symlink(filepath.Join(o.dir, digest), o.adapterFile(i)); err != nil {
			return err
		}
	}
	return nil
}

// fitting is an adapter that fits the model.
func (o *options) fitting() (l enginetest.LoRA, err error) {
	if s, ok := shapes[o.shape]; ok {
		return enginetest.LoRA{Layers: s.layers, Width: s.width, KV: s.width / s.heads * s.groups}, nil
	}
	f, err := gguf.Open(o.model)
	if err != nil {
		return l, err
	}
	l.Arch = f.Architecture()
	layers, _ := f.Number(l.Arch + ".block_count")
	q, _ := f.Tensor("blk.0.attn_q.weight")
	v, _ := f.Tensor("blk.0.attn_v.weight")
	if q.Shape[0] != q.Shape[1] || v.Shape[0] != q.Shape[0] || v.Shape[1] == 0 {
		o.noAdapters = "no adapters can be made for this model: its attention's queries are not as wide as its embedding"
	}
	l.Layers, l.Width, l.KV = int(layers), int(q.Shape[0]), int(v.Shape[1])
	return l, nil
}

func (o *options) adapterFile(i int) string {
	return filepath.Join(o.dir, fmt.Sprintf("adapter-%d.gguf", i+1))
}

// adapterFiles are the first n, by commas.
func (o *options) adapterFiles(n int) string {
	files := make([]string, n)
	for i := range files {
		files[i] = o.adapterFile(i)
	}
	return strings.Join(files, ",")
}

// outside stands for a test where there is none.
type outside struct{ testing.TB }

func (outside) Helper()                           {}
func (outside) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (outside) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
