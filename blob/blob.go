// Package blob keeps bytes by their digest: in a folder (Dir), a JetStream object store (Objects) or a bucket of an S3-compatible
// store (S3).
//
// The same bytes are kept once. Whoever keeps a digest in a record of its own is to know when the last such record goes,
// and calls Delete then: a store counts nothing. Put's claim is there for that count: it runs once the digest is known
// and before the bytes can be seen under it, so a crash in between leaves a count without bytes (a sweep finds it), never
// bytes that nobody knows of.
package blob

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// Sentinels for errors.Is.
var (
	// ErrNotFound is a digest that is not here, or no digest at all.
	ErrNotFound = errors.New("no such blob")
	// ErrTooLarge is a Put of more bytes than it allowed. Nothing is kept.
	ErrTooLarge = errors.New("more bytes than allowed")
	// ErrFull is a store without room. Nothing is kept; the same Put may do once something was deleted.
	ErrFull = errors.New("no room left")
)

// Ref names bytes.
type Ref struct {
	// Digest is their SHA-256, as 64 lower-case hex digits.
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// Info is a Ref that is kept, and since when.
type Info struct {
	Ref
	Modified time.Time
}

// Store keeps blobs. Its methods may be called from many goroutines and processes.
type Store interface {
	// Put keeps what r holds, streamed, once all of it is on disk. More than max bytes (0: no bound) are ErrTooLarge.
	// claim, unless nil, is called at r's end, before the bytes are kept: its error is Put's. After an error, r's or
	// ctx's too, nothing of this Put stays; what stood under the digest before stays as it was.
	Put(ctx context.Context, r io.Reader, max int64, claim func(Ref) error) (Ref, error)
	// Open reads a blob until Close or ctx's end. Seeking is cheap in a folder; an object store reads up to the place.
	Open(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	// Stat says whether a blob is here.
	Stat(ctx context.Context, digest string) (Info, error)
	// Delete forgets a blob. Deleting what is not here is fine. Who reads it may fail.
	Delete(ctx context.Context, digest string) error
	// List walks over all blobs, in no order that means anything.
	List(ctx context.Context) iter.Seq2[Info, error]
	// Clear removes what Puts that began before a time left half-way, since their process died, and says how much it was.
	Clear(ctx context.Context, before time.Time) (n int, err error)
}

// StaleAfter is how old something half-way is that nobody is writing any more.
const StaleAfter = 24 * time.Hour

// seek moves a reader's place without reading anything yet.
func seek(next *int64, size, offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += *next
	case io.SeekEnd:
		offset += size
	}
	if offset < 0 {
		return 0, errors.New("blob: seek before the start")
	}
	*next = offset
	return offset, nil
}

// digestLen is a SHA-256 in hex.
const digestLen = 64

// Valid says whether s has a digest's form. It keeps "..", "/" and wildcards out of paths and subjects.
func Valid(s string) bool {
	if len(s) != digestLen {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func notFound(digest string) error { return fmt.Errorf("blob: %.80q: %w", digest, ErrNotFound) }

// source reads at most max bytes, and stops with its context: the stores' own writers know neither.
type source struct {
	ctx  context.Context
	r    io.Reader
	max  int64
	size int64
	hash hasher
	// ended says that r came to its end by itself: io.ErrUnexpectedEOF alone may also be r's own.
	ended bool
}

// hasher is the part of hash.Hash that is used.
type hasher interface {
	io.Writer
	Sum(b []byte) []byte
}

func (s *source) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	n, err := s.r.Read(p)
	s.size += int64(n)
	s.ended = s.ended || err == io.EOF
	_, _ = s.hash.Write(p[:n]) // never fails
	if s.max > 0 && s.size > s.max {
		return n, fmt.Errorf("blob: over %d bytes: %w", s.max, ErrTooLarge)
	}
	return n, err
}

// ref is what was read.
func (s *source) ref() Ref { return Ref{Digest: hex.EncodeToString(s.hash.Sum(nil)), Size: s.size} }
