// Package e2e tests the real program as its users meet it: processes, HTTP, and the faults of a bad day. It knows no
// package of Lorry's; what it looks into beside the API (RESULTS, Redis) it reaches as an operator would.
package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// root is the repository.
const root = ".."

// built is a file that make build leaves, or the end of the test.
func built(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v; run: make build", err)
	}
	return path
}

// shortDir is a folder whose path leaves room for a Unix socket in it, which t.TempDir's does not.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lorry-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
