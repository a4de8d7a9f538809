package llama

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
	"github.com/hybridgroup/yzma/pkg/llama"
	"github.com/rs/zerolog"
)

// Version is the release of llama.cpp whose structs the binding knows. Another release may load all the same and then
// read its parameters from the wrong places, so nothing else is accepted.
const Version = "v0.5.0"

// library is what this process loaded. llama.cpp can't be unloaded, and a second folder would register every device
// twice: one folder, once.
var library struct {
	sync.Mutex
	dir string
	log nativeLog
}

// load brings the libraries in a folder into this process.
func load(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("llama: find libraries: %w", err)
	}
	library.Lock()
	defer library.Unlock()
	if library.dir != "" {
		if library.dir != dir {
			return fmt.Errorf("llama: load libraries from %s: this process runs those in %s", dir, library.dir)
		}
		return nil
	}
	if err := CheckLibrary(dir); err != nil {
		return err
	}
	if err := loadNative(dir); err != nil {
		return err
	}
	library.dir = dir
	return nil
}

func loadNative(dir string) error {
	// Without it a failed assertion lets gdb print this process, and takes thirty times as long to end.
	os.Setenv("GGML_NO_BACKTRACE", "1")
	if err := checkVersions(dir); err != nil {
		return err
	}
	if err := llama.Load(dir); err != nil {
		return fmt.Errorf("llama: load libraries from %s: %w", dir, err)
	}
	llama.LogSet(purego.NewCallback(library.log.receive)) // before Init: devices are found there
	llama.BackendInit()
	if err := llama.GGMLBackendLoadAllFromPath(dir); err != nil {
		return fmt.Errorf("llama: load backends from %s: %w", dir, err)
	}
	if llama.GGMLBackendDeviceCount() == 0 {
		return fmt.Errorf("llama: no device in %s: libggml-cpu-* of this machine's kind is missing there", dir)
	}
	return nil
}

// CheckLibrary says whether a folder holds the libraries that this package is made for, without loading them.
func CheckLibrary(dir string) error {
	files, _ := filepath.Glob(filepath.Join(dir, "libllama.*"))
	if len(files) == 0 {
		return fmt.Errorf("llama: no libllama in %s: run `make runtime`, or name the folder of llama.cpp %s", dir, Version)
	}
	switch got := libraryVersion(dir, files); got {
	case Version:
		return nil
	case "":
		return fmt.Errorf("llama: %s does not say which llama.cpp it holds: this build needs %s, run `make runtime`", dir, Version)
	default:
		return fmt.Errorf("llama: %s holds llama.cpp %s, this build needs %s: run `make runtime`", dir, got, Version)
	}
}

var (
	versionInName = regexp.MustCompile(`\.(v\d+\.\d+\.\d+)\.`)
	versionInText = regexp.MustCompile(`\bv\d+\.\d+\.\d+\b`)
)

// libraryVersion is found in the library's own name (libllama.v0.5.0.so), else in the folder's file VERSION.
func libraryVersion(dir string, files []string) string {
	for _, f := range files {
		if real, err := filepath.EvalSymlinks(f); err == nil {
			f = real
		}
		if m := versionInName.FindStringSubmatch(filepath.Base(f)); m != nil {
			return m[1]
		}
	}
	text, _ := os.ReadFile(filepath.Join(dir, "VERSION"))
	return versionInText.FindString(string(text))
}

// nativeLog receives llama.cpp's log. It remembers the last errors, which say why a call failed.
type nativeLog struct {
	mu   sync.Mutex
	to   zerolog.Logger
	errs []string
	tap  func(line string) // gets all lines; nil: nobody does
}

// Levels of ggml's log.
const (
	ggmlWarn  = 3
	ggmlError = 4
)

// receive is called by native code, maybe from its own threads.
func (l *nativeLog) receive(level int32, text, _ uintptr) uintptr {
	line := strings.TrimSpace(goString(text))
	l.heard(line)
	if level < ggmlWarn || level > ggmlError || line == "" {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if level == ggmlError {
		l.errs = append(l.errs[max(0, len(l.errs)-2):], line)
		l.to.Error().Msg(line)
	} else {
		l.to.Debug().Msg(line)
	}
	return 0
}

// heard hands a line to who listens to all of them.
func (l *nativeLog) heard(line string) {
	l.mu.Lock()
	tap := l.tap
	l.mu.Unlock()
	if tap != nil {
		tap(line)
	}
}

// listen has all lines go to tap, until it is called with nil.
func (l *nativeLog) listen(tap func(string)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tap = tap
}

// begin sends what follows to a logger and forgets the errors so far.
func (l *nativeLog) begin(to zerolog.Logger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to, l.errs = to, nil
}

// explain adds llama.cpp's last errors to one that says nothing.
func (l *nativeLog) explain(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.New(cmp.Or(strings.Join(l.errs, "; "), err.Error()))
}

// maxLine bounds a line of the log.
const maxLine = 4096

// goString copies a C string that lives until the callback returns.
func goString(at uintptr) string {
	if at == 0 {
		return ""
	}
	p := *(*unsafe.Pointer)(unsafe.Pointer(&at))
	n := 0
	for n < maxLine && *(*byte)(unsafe.Add(p, n)) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(p), n))
}
