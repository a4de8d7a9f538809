// Package gguf reads the head of GGUF files, which hold models and adapters, and believes none of it.
//
// llama.cpp trusts what it loads: counts that it was told to allocate, shapes that it computes with, settings that it
// asserts about. [Open] and [Read] bound every count and length by the file, and place every tensor inside of it, one
// after the other. [CheckModel] and [CheckAdapter] then hold what the file says against what llama.cpp would trip over.
// The tensors' numbers are not looked at, but by [Finite].
package gguf

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
)

// Limits on a head. They are far above what any model has.
const (
	maxHead     = 100 << 20 // bytes, most of them the vocabulary's
	maxSettings = 10_000
	maxTensors  = 20_000 // llama.cpp compares each name with all before it
	maxKey      = 1 << 16
	maxName     = 63
	maxItems    = 1024 // of an array that Open and Read keep
	maxAlign    = 1 << 16
	defAlign    = 32
)

// ErrInvalid is any file that is refused for what is in it. Other errors are of reading.
var ErrInvalid = errors.New("no good GGUF file")

// invalid is an ErrInvalid that says why.
type invalid struct{ reason string }

func (e invalid) Error() string   { return "gguf: " + e.reason }
func (e invalid) Is(t error) bool { return t == ErrInvalid }

func refuse(format string, args ...any) error { return invalid{fmt.Sprintf(format, args...)} }

// File is a file's head.
type File struct {
	Version  uint32
	Size     int64 // of the whole file
	Settings []Setting
	Tensors  []Tensor
	Data     int64 // where the tensors' numbers begin

	align    int64
	settings map[string]int
	tensors  map[string]int
}

// Setting is a key and its value.
type Setting struct {
	Key  string
	Kind Kind
	// Value is an uint64, int64, float64, bool or string, by Kind. Of an array it is a []any of these, or nil where it is
	// longer than 1,024.
	Value any
	Items Kind // of an array
	Len   int  // of an array
}

// Tensor is a named array of numbers.
type Tensor struct {
	Name   string
	Shape  [4]int64 // the length of a row first; 1 where there are fewer dimensions
	Type   Type
	Offset int64 // from File.Data
}

// Elements is how many numbers it holds.
func (t Tensor) Elements() int64 { return t.Shape[0] * t.Shape[1] * t.Shape[2] * t.Shape[3] }

// Bytes is its size in the file.
func (t Tensor) Bytes() int64 { return t.Elements() / t.Type.block() * t.Type.bytes() }

// Open reads a file's head. An error that is no [ErrInvalid] is of reading the file.
func Open(path string) (*File, error) { return open(path, maxItems) }

// OpenWhole is Open that keeps arrays of any length, as who copies a vocabulary needs them: tens of megabytes.
func OpenWhole(path string) (*File, error) { return open(path, math.MaxInt64) }

func open(path string, items uint64) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("gguf: %w", err)
	}
	defer r.Close()
	st, err := r.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("gguf: %w", err)
	case st.IsDir():
		return nil, fmt.Errorf("gguf: %s is a directory", path)
	}
	return readHead(r, st.Size(), items)
}

// Read reads the head of a file of size bytes from its beginning.
func Read(r io.Reader, size int64) (*File, error) { return readHead(r, size, maxItems) }

func readHead(r io.Reader, size int64, items uint64) (*File, error) {
	f := &File{Size: size, align: defAlign, settings: map[string]int{}, tensors: map[string]int{}}
	h := newHead(r, min(size, maxHead), items)
	err := h.read(f)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = refuse("its head does not end within %d bytes: it is cut off, or damaged", min(size, maxHead))
	}
	if err == nil {
		err = f.place(h.done)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// place lays the tensors out, as llama.cpp wants them: each begins where the one before ends, at a multiple of the
// alignment. So none overlaps another, and none reaches out of the file.
func (f *File) place(head int64) error {
	f.Data = pad(head, f.align)
	at := int64(0)
	for _, t := range f.Tensors {
		if t.Offset != at {
			return refuse("tensor %q is at %d, where %d is next", t.Name, t.Offset, at)
		}
		if t.Bytes() > f.Size-f.Data-at {
			return refuse("tensor %q is not within the file bounds: it ends at %d of %d bytes: the file is cut off", t.Name, f.Data+at+t.Bytes(), f.Size)
		}
		at = pad(at+t.Bytes(), f.align)
	}
	return nil
}

func pad(n, to int64) int64 { return (n + to - 1) / to * to }

// Setting is the setting of a key.
func (f *File) Setting(key string) (Setting, bool) {
	i, ok := f.settings[key]
	if !ok {
		return Setting{}, false
	}
	return f.Settings[i], true
}

// Tensor is the tensor of a name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.tensors[name]
	if !ok {
		return Tensor{}, false
	}
	return f.Tensors[i], true
}

// Text is a setting that is text; empty where it is not there, or none.
func (f *File) Text(key string) string {
	s, _ := f.Setting(key)
	text, _ := s.Value.(string)
	return text
}

// Number is a setting that is a whole number. ok is false where it is not there, or none.
func (f *File) Number(key string) (n int64, ok bool) {
	s, _ := f.Setting(key)
	return s.number()
}

// Format is the number format that most of the file's bytes are in, as "q4_k"; empty of a file without tensors.
func (f *File) Format() string {
	bytes, most := map[Type]int64{}, Type(0)
	for _, t := range f.Tensors {
		if bytes[t.Type] += t.Bytes(); bytes[t.Type] > bytes[most] {
			most = t.Type
		}
	}
	if len(f.Tensors) == 0 {
		return ""
	}
	return strings.ToLower(most.String())
}

// Architecture is the family of the model, or of an adapter's base, as "llama".
func (f *File) Architecture() string { return f.Text("general.architecture") }
