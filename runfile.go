package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

// places says where the servers of a fleet are.
type places struct {
	NATS  string `json:"nats"`
	Token string `json:"token,omitempty"`
	Redis string `json:"redis"`
	// Blobs is the setting of that name: where the fleet's files and adapters are.
	Blobs string `json:"blobs,omitempty"`
	// inside is the NATS server where it runs in this process: its connections need no socket.
	inside nats.InProcessConnProvider
}

// runFile is DIR/run/lorry.json, what a running `lorry up` tells other processes of its user: who reads it owns the
// fleet, therefore 0600.
type runFile struct {
	V       int       `json:"v"`
	PID     int       `json:"pid"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	places
	// HTTP is set once the listener is open.
	HTTP string `json:"http,omitempty"`
}

func runDir(data string) string      { return filepath.Join(data, "run") }
func runFilePath(data string) string { return filepath.Join(runDir(data), "lorry.json") }

// readRunFile is the last run's file, zero where there is none.
func readRunFile(data string) (r runFile, err error) {
	b, err := os.ReadFile(runFilePath(data))
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return runFile{}, fmt.Errorf("read %s: %w", runFilePath(data), err)
	}
	return r, nil
}

func (r runFile) write(data string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(runFilePath(data), append(b, '\n'))
}

// writeFile replaces a private file whole, or not at all.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// makeData makes the data folder, private, and says what to do where it can't.
func makeData(data string) error {
	if err := os.MkdirAll(runDir(data), 0o700); err != nil {
		return fmt.Errorf("data folder: %w (name another one with --data)", err)
	}
	return nil
}

// errLocked means that a `lorry up` runs on the folder (or, for a moment, a `lorry key`).
var errLocked = errors.New("in use")

// lockData makes this process the one that runs on the folder, until release.
func lockData(data string) (release func(), err error) {
	if err := makeData(data); err != nil {
		return nil, err
	}
	release, err = lockFile(filepath.Join(runDir(data), "lock"), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, errLocked
	case err != nil:
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return release, nil
}

// lockFile takes flock's lock on a file, which it makes. The kernel releases it with the process.
func lockFile(path string, how int) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

// lockUp is lockData for `lorry up`, with an error that says who is there.
func lockUp(data string) (release func(), err error) {
	for range 20 { // a `lorry key` or a look from another process holds it for a moment
		release, err = lockData(data)
		if !errors.Is(err, errLocked) {
			return release, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	r, _ := readRunFile(data)
	return nil, fmt.Errorf("another lorry runs on %s (pid %d, %s): stop it, or give this one a folder of its own with --data", data, r.PID, cmp.Or(r.HTTP, "starting"))
}

// running is the run file of the `lorry up` that runs on the folder now; ok is false where none does.
func running(data string) (r runFile, ok bool, err error) {
	if _, err := os.Stat(runFilePath(data)); err != nil {
		return r, false, nil
	}
	release, err := lockData(data)
	if err == nil {
		release()
		return r, false, nil
	}
	if !errors.Is(err, errLocked) {
		return r, false, err
	}
	r, err = readRunFile(data)
	return r, err == nil && r.NATS != "", err
}

// findPlaces is where the settings say that the servers are, else where the `lorry up` of the data folder has them.
func findPlaces(c *Config) (places, error) {
	p := places{NATS: c.NATS, Redis: c.Redis, Blobs: c.Blobs}
	if p.NATS != "" && p.Redis != "" {
		return p, nil
	}
	r, ok, err := running(c.Data)
	if err != nil {
		return p, err
	}
	if !ok {
		return p, fmt.Errorf("no lorry runs on %s: start it with `lorry up --data %s`, or name the servers with --nats and --redis", c.Data, c.Data)
	}
	if p.NATS == "" {
		p.NATS, p.Token = r.NATS, r.Token
	}
	p.Redis, p.Blobs = cmp.Or(p.Redis, r.Redis), cmp.Or(p.Blobs, r.Blobs)
	return p, nil
}
