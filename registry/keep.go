package registry

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/blob"
	"lorry/engine/gguf"
)

// kept is a file in the store that a name may be given to now.
type kept struct {
	blob.Ref
	mark mark
	old  bool // it was there before: jobs may need it
}

// upload is a file on its way into the store.
type upload struct {
	file io.Reader
	most int64                // bytes
	good func(blob.Ref) error // asked when all of it is there
	bad  error                // what a file is that package gguf refuses
}

// keep puts a file into store, if it is good. After an error nothing of it stays.
func (r *Registry) keep(ctx context.Context, store blob.Store, u upload) (f kept, err error) {
	kv, err := r.bucket(ctx)
	if err != nil {
		return f, err
	}
	from := &ggufReader{Reader: bufio.NewReader(u.file)}
	f.Ref, err = store.Put(ctx, from, u.most, func(ref blob.Ref) (err error) {
		if f.mark, err = claim(ctx, kv, ref.Digest); err == nil {
			_, there := store.Stat(ctx, ref.Digest)
			f.old = !errors.Is(there, blob.ErrNotFound)
		}
		return err
	})
	if err != nil {
		return f, u.fault(cmp.Or(from.refused, err))
	}
	if err = u.good(f.Ref); err == nil {
		f.mark, err = stillThere(ctx, kv, store, f.Digest)
	}
	if err != nil {
		r.forget(ctx, store, f)
	}
	return f, u.fault(err)
}

func (u upload) fault(err error) error {
	if errors.Is(err, gguf.ErrInvalid) {
		return fmt.Errorf("%w: %w", u.bad, err)
	}
	return err
}

// ggufReader fails at once where a file is none: nobody wants to send gigabytes first.
type ggufReader struct {
	*bufio.Reader
	looked  bool
	refused error
}

func (r *ggufReader) Read(p []byte) (int, error) {
	if !r.looked {
		r.looked = true
		if b, err := r.Peek(gguf.Magic); err == nil || errors.Is(err, io.EOF) {
			r.refused = gguf.Begins(b)
		}
	}
	if r.refused != nil {
		return 0, r.refused
	}
	return r.Reader.Read(p)
}

// readHead reads the head of a file in the store.
func readHead(ctx context.Context, store blob.Store, ref blob.Ref) (*gguf.File, error) {
	f, err := store.Open(ctx, ref.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return gguf.Read(f, ref.Size)
}

// stillThere claims the bytes once more, for their name: another push of the same file may have been refused meanwhile, and
// taken them away. From here on that can't happen.
func stillThere(ctx context.Context, kv jetstream.KeyValue, store blob.Store, digest string) (mark, error) {
	m, err := claim(ctx, kv, digest)
	if err != nil {
		return m, err
	}
	_, err = store.Stat(ctx, digest)
	if errors.Is(err, blob.ErrNotFound) {
		return m, ErrGoing
	}
	return m, err
}

// forget deletes bytes that were refused, or have served, unless a name stands for them, or they were pushed again
// meanwhile. Those that were there before may be needed by jobs: they, and what else stays, are Sweep's.
func (r *Registry) forget(ctx context.Context, store blob.Store, f kept) {
	ctx = context.WithoutCancel(ctx)
	kv, err := r.bucket(ctx)
	switch {
	case err != nil:
	case f.old:
		err = r.found(ctx, kv, f.Digest, f.mark)
	default:
		_, err = r.remove(ctx, kv, store, f.Digest, f.mark)
	}
	if err != nil {
		r.cfg.Log.Warn().Err(err).Str("file", f.Digest).Msg("a pushed file that nothing needs was not deleted")
	}
}
