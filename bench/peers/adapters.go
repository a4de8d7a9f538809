package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorry/engine/enginetest"
)

// mostAdapters is how many a workload has at most.
const mostAdapters = 8

// makeAdapters writes adapters of random weights: each under its digest, as ours wants it, and under a name that Kronk
// takes. They fit the demo's model.
func (o *options) makeAdapters() error {
	for i := range mostAdapters {
		digest := enginetest.LoRA{Seed: uint64(i + 1)}.Write(outside{}, o.dir)
		o.adapters = append(o.adapters, digest)
		if err := os.Symlink(filepath.Join(o.dir, digest), o.adapterFile(i)); err != nil {
			return err
		}
	}
	return nil
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
