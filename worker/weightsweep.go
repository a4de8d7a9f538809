package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lorry/blob"
)

// unusedFor is how long a file that nothing names stays in the folder after its last request. The engine opens it
// soon after that, if at all.
const unusedFor = 24 * time.Hour

// Sweep removes the files that named does not know of and no request needed for a day, and says how many these were.
// One that is needed again is fetched again.
func (a *Weights) Sweep(named func(digest string) bool) (n int, err error) {
	unlock, err := a.lock(syscall.LOCK_EX)
	if err != nil {
		return 0, err
	}
	defer unlock()
	files, err := os.ReadDir(a.cfg.Dir)
	if err != nil {
		return 0, fmt.Errorf("worker: sweep %s: %w", a.cfg.Dir, err)
	}
	var errs []error
	for _, f := range files {
		st, err := f.Info()
		if err != nil || time.Since(st.ModTime()) < unusedFor || !unneeded(f.Name(), named) {
			continue
		}
		if err = os.Remove(filepath.Join(a.cfg.Dir, f.Name())); err == nil {
			n++
		}
		errs = append(errs, err)
	}
	return n, errors.Join(errs...)
}

// Drop removes a file at once that named does not know of. One that is needed again is fetched again.
func (a *Weights) Drop(digest string, named func(digest string) bool) error {
	unlock, err := a.lock(syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if !blob.Valid(digest) || named(digest) {
		return nil
	}
	err = os.Remove(filepath.Join(a.cfg.Dir, digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// unneeded are files without a name, and what a process that died was fetching.
func unneeded(file string, named func(string) bool) bool {
	return blob.Valid(file) && !named(file) || strings.HasPrefix(file, fetching)
}

// use says whether a file is in the folder, and has Sweep stay away from it: its time is when it was needed last.
func (a *Weights) use(digest string) (there bool, err error) {
	unlock, err := a.lock(syscall.LOCK_SH)
	if err != nil {
		return false, err
	}
	defer unlock()
	err = os.Chtimes(filepath.Join(a.cfg.Dir, digest), time.Time{}, time.Now())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("worker: use %s %s: %w", a.cfg.What, digest, err)
	}
	return true, nil
}

// lock keeps those who use the folder and who sweep it apart, also in different processes.
func (a *Weights) lock(how int) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(a.cfg.Dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		if err = syscall.Flock(int(f.Fd()), how); err == nil {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
	}
	return nil, fmt.Errorf("worker: lock %s: %w", a.cfg.Dir, err)
}
