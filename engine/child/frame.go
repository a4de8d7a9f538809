package child

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A frame is its length (four bytes, the highest first) and one message in JSON.

// maxFrame bounds a frame: far more than a request or an answer that a queue would carry.
const maxFrame = 64 << 20

// errTooLarge is a message that does not fit into a frame.
var errTooLarge = errors.New("engine/child: message is too large")

// encode makes a frame. It fails for what JSON can't hold (an infinite number, a broken raw value) and for its size.
func encode(m *message) ([]byte, error) {
	m.V = version
	var b bytes.Buffer
	b.Write(make([]byte, 4))
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // raw messages pass as the client wrote them
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("engine/child: encode %s: %w", m.Kind, err)
	}
	n := b.Len() - 4
	if n > maxFrame {
		return nil, fmt.Errorf("%w: %d bytes", errTooLarge, n)
	}
	binary.BigEndian.PutUint32(b.Bytes(), uint32(n))
	return b.Bytes(), nil
}

// frameReader reads messages off a pipe.
type frameReader struct {
	in  *bufio.Reader
	buf bytes.Buffer
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{in: bufio.NewReaderSize(r, 64<<10)}
}

// next is the next message. io.EOF is the pipe's end between two frames; after any error the pipe is of no more use.
func (f *frameReader) next() (*message, error) {
	var head [4]byte
	if _, err := io.ReadFull(f.in, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return nil, fmt.Errorf("engine/child: a frame of %d bytes", n)
	}
	if err := f.fill(int64(n)); err != nil {
		return nil, err
	}
	m := new(message)
	if err := json.Unmarshal(f.buf.Bytes(), m); err != nil {
		return nil, fmt.Errorf("engine/child: decode frame: %w", err)
	}
	return m, m.check()
}

// fill reads n bytes and takes memory only as they come, whatever the frame's head promises.
func (f *frameReader) fill(n int64) error {
	if f.buf.Cap() > 1<<20 {
		f.buf = bytes.Buffer{} // one large frame does not hold its memory for ever
	}
	f.buf.Reset()
	if _, err := io.CopyN(&f.buf, f.in, n); err != nil {
		return fmt.Errorf("engine/child: a frame of %d bytes broke off: %w", n, io.ErrUnexpectedEOF)
	}
	return nil
}
