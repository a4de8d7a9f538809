package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"
)

// head reads a file's head. It takes memory only as bytes come, whatever counts promise.
type head struct {
	in   *bufio.Reader
	done int64 // bytes read
	left int64 // bytes that the head may still have
	// items of an array that are kept: of a longer one none is.
	items uint64
}

func newHead(r io.Reader, most int64, items uint64) *head {
	return &head{in: bufio.NewReaderSize(io.LimitReader(r, most), 64<<10), left: most, items: items}
}

// take notes n bytes that are to be read.
func (h *head) take(n uint64) error {
	if n > uint64(h.left) {
		return io.ErrUnexpectedEOF
	}
	h.left -= int64(n)
	h.done += int64(n)
	return nil
}

// bits reads a number of size bytes, the lowest first.
func (h *head) bits(size int) (uint64, error) {
	var b [8]byte
	if err := h.take(uint64(size)); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(h.in, b[:size])
	return binary.LittleEndian.Uint64(b[:]), err
}

func (h *head) u32() (uint32, error) {
	n, err := h.bits(4)
	return uint32(n), err
}

func (h *head) u64() (uint64, error) { return h.bits(8) }

// text reads a length and as many bytes.
func (h *head) text(most uint64) (string, error) {
	n, err := h.u64()
	if err != nil {
		return "", err
	}
	if n > most {
		return "", refuse("a text of %d bytes, where %d are allowed", n, most)
	}
	if err := h.take(n); err != nil {
		return "", err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(h.in, b)
	return string(b), err
}

func (h *head) skip(n uint64) error {
	if err := h.take(n); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, h.in, int64(n))
	return err
}

func (h *head) read(f *File) error {
	tensors, settings, err := h.counts(f)
	if err != nil {
		return err
	}
	for range settings {
		if err := h.setting(f); err != nil {
			return err
		}
	}
	if err := f.setAlignment(); err != nil {
		return err
	}
	for range tensors {
		if err := h.tensor(f); err != nil {
			return err
		}
	}
	return nil
}

// Magic is how many bytes tell a GGUF file from others.
const Magic = 4

// Begins refuses a file that begins with b, where that is no GGUF file's first bytes.
func Begins(b []byte) error {
	if string(b) != "GGUF" {
		return refuse("it is no GGUF file: it begins with %q", b)
	}
	return nil
}

func (h *head) counts(f *File) (tensors, settings uint64, err error) {
	magic := make([]byte, Magic)
	n, _ := io.ReadFull(h.in, magic)
	if err := Begins(magic[:n]); err != nil {
		return 0, 0, err
	}
	if err := h.take(4); err != nil {
		return 0, 0, err
	}
	if f.Version, err = h.u32(); err != nil {
		return 0, 0, err
	}
	if f.Version != 2 && f.Version != 3 {
		return 0, 0, refuse("it is damaged, or of a format that is not read: GGUF version %d, where 2 and 3 are known", f.Version)
	}
	if tensors, err = h.u64(); err != nil {
		return 0, 0, err
	}
	if settings, err = h.u64(); err != nil {
		return 0, 0, err
	}
	if tensors > maxTensors || settings > maxSettings {
		return 0, 0, refuse("it is damaged: %d tensors and %d settings, where %d and %d are allowed", tensors, settings, maxTensors, maxSettings)
	}
	return tensors, settings, nil
}

func (h *head) setting(f *File) error {
	key, err := h.text(maxKey)
	if err != nil {
		return err
	}
	if _, twice := f.settings[key]; twice || !named(key) {
		return refuse("the setting %q stands twice, or has no good name", key)
	}
	kind, err := h.u32()
	if err != nil {
		return err
	}
	s := Setting{Key: key, Kind: Kind(kind)}
	if s.Kind == Array {
		err = h.array(&s)
	} else {
		s.Value, err = h.value(s.Kind)
	}
	f.settings[key] = len(f.Settings)
	f.Settings = append(f.Settings, s)
	return err
}

// named refuses names that C would read otherwise: they end at a NUL there.
func named(s string) bool { return s != "" && !strings.ContainsRune(s, 0) }

func (h *head) value(k Kind) (any, error) {
	if k == String {
		return h.text(maxHead)
	}
	if k.size() == 0 {
		return nil, refuse("a setting of kind %d, which is not known", k)
	}
	n, err := h.bits(k.size())
	return k.decode(n), err
}

// array reads an array. Of a long one only its length is kept: a vocabulary has hundreds of thousands of words.
func (h *head) array(s *Setting) error {
	kind, err := h.u32()
	if err != nil {
		return err
	}
	n, err := h.u64()
	if err != nil {
		return err
	}
	s.Items = Kind(kind)
	if n > uint64(h.left) {
		return refuse("setting %q has %d items, more than the file has bytes", s.Key, n)
	}
	s.Len = int(n)
	if n > h.items {
		return h.skipItems(s.Items, n)
	}
	items := []any{}
	for range n {
		v, err := h.value(s.Items)
		if err != nil {
			return err
		}
		items = append(items, v)
	}
	s.Value = items
	return nil
}

func (h *head) skipItems(k Kind, n uint64) error {
	if size := k.size(); size > 0 {
		over, total := bits.Mul64(n, uint64(size))
		if over > 0 {
			return io.ErrUnexpectedEOF
		}
		return h.skip(total)
	}
	if k != String {
		return refuse("an array of kind %d, which is not known", k)
	}
	for range n {
		size, err := h.u64()
		if err == nil {
			err = h.skip(size)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *File) setAlignment() error {
	s, ok := f.Setting("general.alignment")
	if !ok {
		return nil
	}
	n, _ := s.number()
	if s.Kind != Uint32 || n < 1 || n > maxAlign || n&(n-1) != 0 {
		return refuse("general.alignment is %v: it must be a power of two up to %d", s.Value, maxAlign)
	}
	f.align = n
	return nil
}

func (h *head) tensor(f *File) error {
	name, err := h.text(maxName)
	if err != nil {
		return err
	}
	if _, twice := f.tensors[name]; twice || !named(name) {
		return refuse("the tensor %q stands twice, or has no good name", name)
	}
	t := Tensor{Name: name}
	if t.Shape, err = h.shape(name); err != nil {
		return err
	}
	kind, err := h.u32()
	if err != nil {
		return err
	}
	offset, err := h.u64()
	if err != nil {
		return err
	}
	t.Type, t.Offset = Type(kind), int64(offset)
	f.tensors[name] = len(f.Tensors)
	f.Tensors = append(f.Tensors, t)
	return t.check()
}

func (h *head) shape(name string) (shape [4]int64, err error) {
	n, err := h.u32()
	if err != nil {
		return shape, err
	}
	if n > uint32(len(shape)) {
		return shape, refuse("tensor %q has %d dimensions", name, n)
	}
	total := uint64(1)
	for i := range shape {
		size := uint64(1)
		if i < int(n) {
			if size, err = h.u64(); err != nil {
				return shape, err
			}
		}
		over, next := bits.Mul64(total, size)
		if size == 0 || over > 0 || next > math.MaxInt64/8 {
			return shape, refuse("tensor %q has an impossible shape: %d numbers in dimension %d", name, size, i)
		}
		total, shape[i] = next, int64(size)
	}
	return shape, nil
}

// check bounds the product that Bytes is: no type takes more than eight bytes a number.
func (t Tensor) check() error {
	switch {
	case !t.Type.known():
		return refuse("tensor %q has the type %d, which is not known", t.Name, t.Type)
	case t.Shape[0]%t.Type.block() != 0:
		return refuse("tensor %q has rows of %d numbers, where %s has blocks of %d", t.Name, t.Shape[0], t.Type, t.Type.block())
	case t.Offset < 0:
		return refuse("tensor %q is at an impossible place", t.Name)
	}
	return nil
}

// describe is a shape in words, as "576 × 1536".
func describe(shape [4]int64) string {
	s := fmt.Sprintf("%d × %d", shape[0], shape[1])
	if shape[2] > 1 || shape[3] > 1 {
		s += fmt.Sprintf(" × %d × %d", shape[2], shape[3])
	}
	return s
}
