package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lorry/engine"
	"lorry/engine/child"
	"lorry/engine/echo"
	"lorry/engine/remote"
)

// demoModel is what `make runtime` brings.
const demoModel = "smollm2"

// opened is a worker's engine, and what is to be said of it.
type opened struct {
	engine.Engine
	kind    string // "llama", "echo" or "remote"
	file    string
	pushed  bool // to the fleet, not named by the settings
	crashes func() int
}

// checkEngine finds what is missing before anything is started.
func checkEngine(c *Config) error {
	if c.Engine != "llama" || c.Workers == 0 {
		return nil
	}
	if _, err := engineExe(); err != nil {
		return err
	}
	if _, err := libDir(c); err != nil {
		return err
	}
	if err := c.Adapter.check(); err != nil {
		return err
	}
	if !c.ownModel() {
		return nil
	}
	_, _, err := modelOf(c)
	return err
}

// openEngine opens the engine that the settings name.
func openEngine(ctx context.Context, c *Config, log logger) (*opened, error) {
	switch c.Engine {
	case "echo":
		e, err := echo.New(echo.Config{Delay: c.EchoDelay, Journal: c.EchoJournal, Slots: c.Slots, Name: c.ModelName, Context: c.Context})
		if err != nil {
			return nil, err
		}
		return &opened{Engine: e, kind: "echo"}, nil
	case "llama":
		return openLlama(ctx, c, log)
	}
	r := remote.Config{URL: c.Engine, Key: c.EngineKey, MaxConcurrent: c.Slots}
	if c.ModelName != "" {
		r.Models = strings.Split(c.ModelName, ",")
	}
	e, err := remote.New(r)
	if err != nil {
		return nil, err
	}
	return &opened{Engine: e, kind: "remote"}, nil
}

// openLlama starts lorry-engine, the process that holds llama.cpp.
func openLlama(ctx context.Context, c *Config, log logger) (*opened, error) {
	exe, err := engineExe()
	if err != nil {
		return nil, err
	}
	lib, err := libDir(c)
	if err != nil {
		return nil, err
	}
	file, name, err := modelOf(c)
	if err != nil {
		return nil, err
	}
	base, err := c.digestOfModel(file)
	if err != nil {
		return nil, err
	}
	args := []string{"--lib", lib, "--model", file, "--name", name, "--base", base, "--fd", strconv.Itoa(child.FD)}
	pins, err := c.pins()
	if err != nil {
		return nil, err
	}
	args = append(args, "--adapters", c.adaptersDir(), "--pin", pins, "--cores", filepath.Join(runDir(c.Data), "cores"))
	for flag, n := range map[string]int{"--slots": c.Slots, "--threads": c.threads(), "--context": c.Context, "--rows": c.Rows, "--adapter-memory": int(c.AdapterMemory)} {
		if n > 0 {
			args = append(args, flag, strconv.Itoa(n))
		}
	}
	args = append(args, "--pause", c.Pause.String(), "--stretch", fmt.Sprint(c.Stretch), "--tenure", c.Tenure.String())
	args = append(args, "--device", c.Device, "--kv-type", c.KVType, fmt.Sprintf("--no-flash=%t", !c.Flash))
	var crashes atomic.Int64
	log.Info().Str("model", name).Str("file", file).Msg("loading")
	e, err := child.Start(ctx, child.Config{Path: exe, Args: args, Hang: c.EngineHang, Log: log, OnCrash: func(x child.Crash) {
		crashes.Add(1)
		log.Error().Err(x.Err).Int("pid", x.PID).Strs("suspects", x.Suspects).Dur("uptime", x.Uptime).Str("stderr", x.Stderr).Msg("the engine's process ended, starting it again")
	}})
	if err != nil {
		return nil, err
	}
	return &opened{Engine: e, kind: "llama", file: file, pushed: c.base != "", crashes: func() int { return int(crashes.Load()) }}, nil
}

// engineExe is lorry-engine, beside this program.
func engineExe() (string, error) {
	exe := filepath.Join(exeDir(), "lorry-engine")
	if _, err := os.Stat(exe); err != nil {
		return "", fmt.Errorf("%s is missing: run `make build`, or use another engine with --engine echo or --engine URL", exe)
	}
	return exe, nil
}

// libDir is the folder of llama.cpp's libraries.
func libDir(c *Config) (string, error) {
	lib := filepath.Join(c.runtimeDir(), "lib")
	if found, _ := filepath.Glob(filepath.Join(lib, "libllama*")); len(found) == 0 {
		return "", fmt.Errorf("llama.cpp's libraries are missing in %s: run `make runtime`, or name their folder with LORRY_RUNTIME", lib)
	}
	return filepath.Abs(lib)
}

// modelOf is the file that llama serves, and its name.
func modelOf(c *Config) (file, name string, err error) {
	file, name = c.ModelFile, cmp.Or(c.ModelName, fileModel(c.ModelFile))
	fix := "name a GGUF file with --model-file"
	if file == "" {
		file = demoFile(c)
		fix = "run `make runtime`, or " + fix + " (none: pushed models only)"
	}
	st, err := os.Stat(file)
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", file)
	}
	if err != nil {
		return "", "", fmt.Errorf("the model %s can't be read: %w: %s", name, err, fix)
	}
	file, err = filepath.Abs(file)
	return file, name, err
}

func demoFile(c *Config) string { return filepath.Join(c.runtimeDir(), "models", demoModel+".gguf") }

// fileModel is a model's name from its file's.
func fileModel(file string) string {
	if file == "" {
		return demoModel
	}
	return strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
}

// digests remembers files' digests in DIR/digests.json, by path, size and time: hashing a large model takes seconds.
type digests map[string]digest

type digest struct {
	Size   int64     `json:"size"`
	MTime  time.Time `json:"mtime"`
	SHA256 string    `json:"sha256"`
}

var digestMu sync.Mutex

// digestOfModel is the digest of the file that llama serves, which is known of pushed ones.
func (c *Config) digestOfModel(file string) (string, error) {
	if c.base != "" {
		return c.base, nil
	}
	return digestOf(c.Data, file)
}

// digestOf is a file's SHA-256 in hex.
func digestOf(data, file string) (string, error) {
	digestMu.Lock()
	defer digestMu.Unlock()
	st, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	path := filepath.Join(data, "digests.json")
	known := digests{}
	if b, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(b, &known) // a broken one is made again
	}
	if d := known[file]; d.SHA256 != "" && d.Size == st.Size() && d.MTime.Equal(st.ModTime()) {
		return d.SHA256, nil
	}
	sum, err := hashFile(file)
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", file, err)
	}
	known[file] = digest{st.Size(), st.ModTime(), sum}
	b, err := json.MarshalIndent(known, "", "  ")
	if err == nil {
		err = writeFile(path, b)
	}
	if err != nil {
		return "", fmt.Errorf("remember digests: %w", err)
	}
	return sum, nil
}

func hashFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
