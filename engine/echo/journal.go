package echo

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// journal is a file of one line a run. A nil journal takes all and keeps nothing.
type journal struct {
	mu   sync.Mutex
	file *os.File
}

func openJournal(path string) (*journal, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("engine/echo: open journal: %w", err)
	}
	return &journal{file: f}, nil
}

var oneLine = strings.NewReplacer("\n", " ", "\r", " ")

// add appends one line and syncs it: what is answered is in the file, even after a power cut. It costs an fsync.
func (j *journal) add(id string) error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.WriteString(oneLine.Replace(id) + "\n"); err != nil {
		return fmt.Errorf("engine/echo: write journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("engine/echo: sync journal: %w", err)
	}
	return nil
}

func (j *journal) close() error {
	if j == nil {
		return nil
	}
	return j.file.Close()
}
