package gguf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Write writes a file of version 3. Tensors get their places in the order given, whatever their Offset; numbers gives
// each one's bytes.
func Write(w io.Writer, settings []Setting, tensors []Tensor, numbers func(i int) []byte) error {
	var b bytes.Buffer
	b.WriteString("GGUF")
	put(&b, uint32(3), uint64(len(tensors)), uint64(len(settings)))
	align := int64(defAlign)
	for _, s := range settings {
		writeSetting(&b, s)
		if n, ok := s.number(); ok && s.Key == "general.alignment" {
			align = n
		}
	}
	at := int64(0)
	for _, t := range tensors {
		putText(&b, t.Name)
		put(&b, uint32(len(t.Shape)), t.Shape, uint32(t.Type), uint64(at))
		at = pad(at+t.Bytes(), align)
	}
	out := &padded{w: bufio.NewWriter(w), align: align}
	out.write(b.Bytes())
	for i, t := range tensors {
		data := numbers(i)
		if int64(len(data)) != t.Bytes() {
			return fmt.Errorf("gguf: tensor %q has %d bytes, where its shape takes %d", t.Name, len(data), t.Bytes())
		}
		out.write(data)
	}
	return out.flush()
}

// padded writes blocks that begin at multiples of the alignment.
type padded struct {
	w     *bufio.Writer
	align int64
	at    int64
}

// write keeps errors for flush, as bufio does.
func (p *padded) write(b []byte) {
	_, _ = p.w.Write(b)
	p.at += int64(len(b))
	end := pad(p.at, p.align)
	_, _ = p.w.Write(make([]byte, end-p.at))
	p.at = end
}

func (p *padded) flush() error {
	if err := p.w.Flush(); err != nil {
		return fmt.Errorf("gguf: write: %w", err)
	}
	return nil
}

// put writes numbers, the lowest byte first. Writing to a buffer does not fail.
func put(b *bytes.Buffer, numbers ...any) {
	for _, n := range numbers {
		_ = binary.Write(b, binary.LittleEndian, n)
	}
}

func putText(b *bytes.Buffer, s string) {
	put(b, uint64(len(s)))
	b.WriteString(s)
}

func writeSetting(b *bytes.Buffer, s Setting) {
	putText(b, s.Key)
	put(b, uint32(s.Kind))
	if s.Kind != Array {
		writeValue(b, s.Kind, s.Value)
		return
	}
	items, _ := s.Value.([]any)
	put(b, uint32(s.Items), uint64(len(items)))
	for _, v := range items {
		writeValue(b, s.Items, v)
	}
}

func writeValue(b *bytes.Buffer, k Kind, value any) {
	if text, ok := value.(string); ok {
		putText(b, text)
		return
	}
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], k.encode(value))
	b.Write(n[:k.size()])
}
