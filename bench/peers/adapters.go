package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"lorry/engine/enginetest"
)

// mostAdapters is how many a workload has at most.
const mostAdapters = 8

// makeAdapters writes adapters of random weights, each under its digest. They fit the demo's model.
func (o *options) makeAdapters() {
	for i := range mostAdapters {
		o.adapters = append(o.adapters, enginetest.LoRA{Seed: uint64(i + 1)}.Write(outside{}, o.dir))
	}
}

// adapterFiles are the first n, by commas.
func (o *options) adapterFiles(n int) string {
	files := make([]string, n)
	for i, digest := range o.adapters[:n] {
		files[i] = filepath.Join(o.dir, digest)
	}
	return strings.Join(files, ",")
}

// outside stands for a test where there is none.
type outside struct{ testing.TB }

func (outside) Helper()                           {}
func (outside) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (outside) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
