package llama

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// temporary has a temporary file written for llama.cpp to load. Where the system lets it be opened without a name, it has
// none, and is gone with this process however that ends. done must be called when it is loaded.
func temporary(write func(io.Writer) error) (path string, done func(), err error) {
	f, err := os.CreateTemp("", "lorry-engine-*")
	if err != nil {
		return "", nil, fmt.Errorf("make a file in the temporary folder (TMPDIR): %w", err)
	}
	path, done = f.Name(), func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }
	if nameless := fmt.Sprintf("/proc/self/fd/%d", f.Fd()); exists(nameless) && os.Remove(path) == nil {
		path, done = nameless, func() { _ = f.Close() }
	}
	if err := write(f); err != nil {
		done()
		return "", nil, fmt.Errorf("write a file in the temporary folder (TMPDIR): %w", err)
	}
	return path, done, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
