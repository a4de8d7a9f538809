package main

import (
	"fmt"
	"testing"

	"lorry/engine/enginetest"
)

// makeAdapters writes n adapters of random weights, each under its digest, and returns these. They fit the demo's model.
func (o *options) makeAdapters(n int) (digests []string) {
	for i := range n {
		digests = append(digests, enginetest.LoRA{Seed: uint64(i + 1)}.Write(outside{}, o.adapterDir))
	}
	return digests
}

// outside stands for a test where there is none.
type outside struct{ testing.TB }

func (outside) Helper()                           {}
func (outside) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (outside) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
