package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/blob"
)

// holders stands for the tenant in the records that hold bytes for a batch: no tenant has "_" in its name, so no list
// shows them. They count like files do, so that the bytes stay when their file goes.
const holders = "_hold"

// linesSuffix ends the name of the record that holds a batch's line offsets.
const linesSuffix = ".lines"

// hold keeps a file's bytes for a batch until drop, whatever becomes of the file. ErrNotFound says that they are gone.
func (f *Files) hold(ctx context.Context, file File, batch string) (File, error) {
	kv, err := f.bucket(ctx)
	if err != nil {
		return file, err
	}
	held := file
	held.Tenant, held.ID, held.ExpiresAt, held.CreatedAt = holders, batch, 0, f.cfg.Now().Unix()
	if err := f.claim(ctx, kv, held.Digest); err != nil {
		return held, err
	}
	if _, err = f.cfg.Blobs.Stat(ctx, held.Digest); errors.Is(err, blob.ErrNotFound) { // deleted a moment before the claim
		err = fmt.Errorf("batch: file %s: %w", file.ID, ErrNotFound)
	}
	if err == nil {
		err = f.write(ctx, kv, held)
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrExists) { // else nobody knows: the sweep looks
		if rerr := f.release(ctx, kv, held.Digest); rerr != nil {
			return held, rerr
		}
	}
	if errors.Is(err, ErrExists) { // held before: a create that is tried again
		return held, nil
	}
	return held, err
}

// keep stores bytes for a batch. What was kept under the name before is let go.
func (f *Files) keep(ctx context.Context, batch string, r io.Reader) (File, error) {
	name := batch + linesSuffix
	if err := f.drop(ctx, name); err != nil {
		return File{}, err
	}
	return f.Create(ctx, holders, r, 0, func() (CreateFile, error) { return CreateFile{ID: name, Purpose: "lines"}, nil })
}

// drop lets go of what is held under a name. It is without effect the second time.
func (f *Files) drop(ctx context.Context, name string) error {
	file, revision, err := f.record(ctx, holders, name)
	if err == nil {
		err = f.remove(ctx, file, revision)
	}
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// dropAll lets go of all that is held for a batch.
func (f *Files) dropAll(ctx context.Context, batch string) error {
	return errors.Join(f.drop(ctx, batch), f.drop(ctx, batch+linesSuffix))
}

// held are the batches that bytes are held for, and since when.
func (f *Files) held(ctx context.Context) (map[string]time.Time, error) {
	kv, err := f.bucket(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]time.Time{}
	err = scan(ctx, kv, holders+".>", func(e jetstream.KeyValueEntry) {
		name := strings.TrimSuffix(strings.TrimPrefix(e.Key(), holders+"."), linesSuffix)
		out[name] = e.Created()
	})
	return out, err
}
