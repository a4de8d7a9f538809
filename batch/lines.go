package batch

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// offsets say where lines stand: a header, then eight bytes a line, its offset above its length's 24 bits.
type offsets []byte

const offsetsHeader = "lorrylo1"

func newOffsets() offsets { return offsets(offsetsHeader) }

func (o *offsets) add(at int64, length int) {
	*o = binary.LittleEndian.AppendUint64(*o, uint64(at)<<24|uint64(length))
}

func (o offsets) len() int { return len(o)/8 - 1 }

// of line n, from 1.
func (o offsets) of(n int) (at int64, length int) {
	x := binary.LittleEndian.Uint64(o[8*n:])
	return int64(x >> 24), int(x & MaxLine)
}

func readOffsets(r io.Reader) (offsets, error) {
	b, err := io.ReadAll(io.LimitReader(r, 8*(MaxLines+2)))
	if err != nil {
		return nil, err
	}
	if len(b)%8 != 0 || len(b) < 8 || string(b[:8]) != offsetsHeader {
		return nil, errors.New("not a file of line offsets")
	}
	return b, nil
}

// Lines reads a batch's lines. It is one goroutine's.
type Lines struct {
	offsets offsets
	f       io.ReadSeekCloser
	r       *bufio.Reader
	at      int64
	buf     []byte
}

// OpenLines opens the lines of a batch that was validated, until Close or ctx's end.
func (bs *Batches) OpenLines(ctx context.Context, b Batch) (*Lines, error) {
	o, err := bs.offsets(ctx, b)
	if err != nil {
		return nil, err
	}
	f, err := bs.cfg.Files.Open(ctx, b.Input)
	if err != nil {
		return nil, err
	}
	return &Lines{offsets: o, f: f, r: bufio.NewReaderSize(f, 128<<10)}, nil
}

func (bs *Batches) offsets(ctx context.Context, b Batch) (offsets, error) {
	f, err := bs.cfg.Files.Open(ctx, File{ID: b.ID + linesSuffix, Digest: b.Lines})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	o, err := readOffsets(f)
	if err == nil && o.len() != b.Counts.Total {
		err = fmt.Errorf("%d lines of %d", o.len(), b.Counts.Total)
	}
	if err != nil {
		return nil, fmt.Errorf("batch: line offsets of %s: %w", b.ID, err)
	}
	return o, nil
}

// Close lets go of the file.
func (l *Lines) Close() error { return l.f.Close() }

// Line is line n, from 1, until the next call. In order is cheap; backwards, an object store reads from the start.
func (l *Lines) Line(n int) ([]byte, error) {
	at, length := l.offsets.of(n)
	if err := l.seek(at); err != nil {
		return nil, fmt.Errorf("batch: seek line %d: %w", n, err)
	}
	if cap(l.buf) < length {
		l.buf = make([]byte, length)
	}
	k, err := io.ReadFull(l.r, l.buf[:length])
	l.at += int64(k)
	if err != nil {
		return nil, fmt.Errorf("batch: read line %d: %w", n, err)
	}
	return l.buf[:length], nil
}

func (l *Lines) seek(at int64) error {
	if ahead := at - l.at; ahead >= 0 && ahead < MaxLine {
		k, err := l.r.Discard(int(ahead))
		l.at += int64(k)
		return err
	}
	if _, err := l.f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	l.r.Reset(l.f)
	l.at = at
	return nil
}
