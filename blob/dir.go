package blob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// DirConfig says where the folder is. Dir is required.
type DirConfig struct {
	Dir string
	// MinFree is what must stay free on its disk: others on it (JetStream) stop when it is full. 0: 1 GiB, or a
	// twentieth of a smaller disk.
	MinFree int64
}

// Dir is a folder of blobs: DIR/<first two digits>/<digest>, and DIR/tmp for what is on its way in. A blob appears by
// rename, after its bytes and before its folder's entry were synced: two or three fsyncs each.
type Dir struct {
	cfg  DirConfig
	root *os.Root
}

var _ Store = (*Dir)(nil)

const (
	tmpDir = "tmp"
	// checkEvery is after how many bytes the disk is asked again.
	checkEvery  = 16 << 20
	defaultFree = 1 << 30
)

// OpenDir makes the folder where it is missing, and clears what dead processes left half-way.
func OpenDir(c DirConfig) (*Dir, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("blob: make folder: %w", err)
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("blob: open folder: %w", err)
	}
	d := &Dir{cfg: c, root: root}
	if err := d.makeFolder(tmpDir); err != nil {
		_ = root.Close()
		return nil, err
	}
	_, err = d.Clear(context.Background(), time.Now().Add(-StaleAfter))
	return d, err
}

// Close lets go of the folder.
func (d *Dir) Close() error { return d.root.Close() }

// Clear implements Store.
func (d *Dir) Clear(_ context.Context, before time.Time) (n int, err error) {
	entries, err := fs.ReadDir(d.root.FS(), tmpDir)
	if err != nil {
		return 0, fmt.Errorf("blob: clear: %w", err)
	}
	for _, e := range entries {
		if i, err := e.Info(); err == nil && i.ModTime().Before(before) && d.root.Remove(tmpDir+"/"+e.Name()) == nil {
			n++
		}
	}
	return n, nil
}

// Put implements Store.
func (d *Dir) Put(ctx context.Context, r io.Reader, max int64, claim func(Ref) error) (_ Ref, err error) {
	name := tmpDir + "/" + rand.Text()
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Ref{}, putError(err)
	}
	defer func() {
		_ = f.Close() // the second time after success
		if err != nil {
			_ = d.root.Remove(name)
		}
	}()
	src := &source{ctx: ctx, r: r, max: max, hash: sha256.New()}
	if err := d.fill(f, src); err != nil {
		return Ref{}, putError(err)
	}
	if claim != nil {
		if err := claim(src.ref()); err != nil {
			return Ref{}, err
		}
	}
	return src.ref(), d.publish(name, src.ref().Digest)
}

// fill copies all of src to disk, looking at the room that is left as it goes.
func (d *Dir) fill(f *os.File, src *source) error {
	for {
		if err := d.room(); err != nil {
			return err
		}
		_, err := io.CopyN(f, src, checkEvery)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// publish gives the bytes their name. What is there already has the same bytes: it is replaced, which also mends it.
func (d *Dir) publish(tmp, digest string) error {
	if err := d.makeFolder(digest[:2]); err != nil {
		return putError(err)
	}
	if err := d.root.Rename(tmp, place(digest)); err != nil {
		return putError(err)
	}
	return d.sync(digest[:2])
}

// makeFolder makes a folder that lasts.
func (d *Dir) makeFolder(name string) error {
	err := d.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("blob: make folder: %w", err)
	}
	return d.sync(".")
}

// sync makes a folder's entries last.
func (d *Dir) sync(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return fmt.Errorf("blob: sync folder: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("blob: sync folder: %w", err)
	}
	return nil
}

// room is ErrFull when too little of the disk is free.
func (d *Dir) room() error { return room(d.cfg.Dir, d.cfg.MinFree, 0) }

// Room is ErrFull when too little of a folder's disk would be free beside so many bytes more.
func Room(dir string, bytes int64) error { return room(dir, 0, bytes) }

// room takes a disk that does not say for empty. least is DirConfig's MinFree.
func room(dir string, least, more int64) error {
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) != nil {
		return nil
	}
	if least == 0 {
		least = min(defaultFree, int64(st.Blocks)*int64(st.Bsize)/20)
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free-more < least {
		return fmt.Errorf("blob: %d bytes are free beside %d more, of %d that must be: %w", free-more, more, least, ErrFull)
	}
	return nil
}

// Link gives a blob's file a second name, on the same disk. It stays when the blob is deleted.
func (d *Dir) Link(digest, path string) error {
	if !Valid(digest) {
		return notFound(digest)
	}
	if err := os.Link(filepath.Join(d.cfg.Dir, place(digest)), path); err != nil {
		return fmt.Errorf("blob: link %s: %w", digest, err)
	}
	return nil
}

// putError tells a full disk from what else may go wrong.
func putError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = errors.Join(ErrFull, err)
	}
	return fmt.Errorf("blob: put: %w", err)
}

func place(digest string) string { return digest[:2] + "/" + digest }

// Open implements Store. Deleting a blob that is open does not disturb its reader.
func (d *Dir) Open(_ context.Context, digest string) (io.ReadSeekCloser, error) {
	if !Valid(digest) {
		return nil, notFound(digest)
	}
	f, err := d.root.Open(place(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound(digest)
	}
	if err != nil {
		return nil, fmt.Errorf("blob: open %s: %w", digest, err)
	}
	return f, nil
}

// Stat implements Store.
func (d *Dir) Stat(_ context.Context, digest string) (Info, error) {
	if !Valid(digest) {
		return Info{}, notFound(digest)
	}
	i, err := d.root.Stat(place(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, notFound(digest)
	}
	if err != nil {
		return Info{}, fmt.Errorf("blob: stat %s: %w", digest, err)
	}
	return Info{Ref{digest, i.Size()}, i.ModTime()}, nil
}

// Delete implements Store.
func (d *Dir) Delete(_ context.Context, digest string) error {
	if !Valid(digest) {
		return nil
	}
	err := d.root.Remove(place(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("blob: delete %s: %w", digest, err)
	}
	return d.sync(digest[:2])
}

// List implements Store.
func (d *Dir) List(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		err := fs.WalkDir(d.root.FS(), ".", func(_ string, e fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil || e.IsDir() || !Valid(e.Name()) {
				return err
			}
			i, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil // deleted meanwhile
			}
			if err == nil && !yield(Info{Ref{e.Name(), i.Size()}, i.ModTime()}, nil) {
				return fs.SkipAll
			}
			return err
		})
		if err != nil {
			yield(Info{}, fmt.Errorf("blob: list: %w", err))
		}
	}
}
