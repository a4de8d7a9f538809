package batch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"lorry/blob"
	"lorry/queue"
	"lorry/watch"
)

// FilesConfig says where files are. JS and Blobs are required.
type FilesConfig struct {
	JS    jetstream.JetStream
	Blobs blob.Store
	// Replicas of the bucket; 0 is 1.
	Replicas int
	Log      zerolog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Files are the files of all tenants. Its methods may be called from many goroutines and processes; they ask the server.
type Files struct{ cfg FilesConfig }

// NewFiles makes a Files. It asks nobody anything.
func NewFiles(c FilesConfig) *Files {
	c.Replicas = cmp.Or(c.Replicas, 1)
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Files{cfg: c}
}

// markerTTL is how long the bucket remembers that a key was deleted: watchers see it, and it costs no room for ever.
const markerTTL = time.Hour

// Setup makes the bucket. It is an admin step; doing it again changes nothing.
func (f *Files) Setup(ctx context.Context) error {
	c := jetstream.KeyValueConfig{Bucket: FilesBucket, Description: "files' records", Storage: jetstream.FileStorage, Replicas: f.cfg.Replicas, LimitMarkerTTL: markerTTL}
	if _, err := f.cfg.JS.CreateOrUpdateKeyValue(ctx, c); err != nil {
		return fmt.Errorf("batch: set up bucket %s: %w", FilesBucket, err)
	}
	return nil
}

func (f *Files) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := f.cfg.JS.KeyValue(ctx, FilesBucket)
	if err != nil {
		return nil, fmt.Errorf("batch: bucket %s: %w", FilesBucket, err)
	}
	return kv, nil
}

// CreateFile is a wish for a file.
type CreateFile struct {
	Filename, Purpose string
	// ExpiresAfter its creation; 0: BatchExpiry for batches' files, never for others.
	ExpiresAfter time.Duration
	// MaxBytes it may have; 0: no bound but the stream's. Past it: blob.ErrTooLarge.
	MaxBytes int64
	// ID is the file's; empty: a new one. Where a file has it, Create fails with ErrExists.
	ID string
}

// Create keeps a file that is streamed from r, of at most max bytes. describe is called at r's end (what is said of an
// upload may come after its bytes) and may still refuse it. When Create returns, bytes and record are on disk; after an
// error there is neither.
func (f *Files) Create(ctx context.Context, tenant string, r io.Reader, max int64, describe func() (CreateFile, error)) (File, error) {
	kv, err := f.bucket(ctx)
	if err != nil {
		return File{}, err
	}
	file := File{V: V, Tenant: tenant, ID: queue.NewID(filePrefix), Status: Processed}
	claimed := false
	_, err = f.cfg.Blobs.Put(ctx, r, max, func(ref blob.Ref) error {
		wish, err := describe()
		if err != nil {
			return err
		}
		if wish.MaxBytes > 0 && ref.Size > wish.MaxBytes {
			return fmt.Errorf("batch: file of %d bytes: %w", ref.Size, blob.ErrTooLarge)
		}
		f.fill(&file, wish, ref)
		err = f.claim(ctx, kv, ref.Digest)
		claimed = err == nil
		return err
	})
	if err == nil {
		if err = f.write(ctx, kv, file); !errors.Is(err, ErrExists) {
			return file, err
		}
	}
	if claimed {
		err = errors.Join(err, f.release(ctx, kv, file.Digest))
	}
	return File{}, err
}

func (f *Files) fill(file *File, wish CreateFile, ref blob.Ref) {
	now := f.cfg.Now()
	file.ID = cmp.Or(wish.ID, file.ID)
	file.Filename, file.Purpose, file.Bytes, file.Digest, file.CreatedAt = wish.Filename, wish.Purpose, ref.Size, ref.Digest, now.Unix()
	after := wish.ExpiresAfter
	if after == 0 && (wish.Purpose == PurposeBatch || wish.Purpose == PurposeOutput) {
		after = BatchExpiry
	}
	if after > 0 {
		file.ExpiresAt = now.Add(after).Unix()
	}
}

// write makes the file be there. After an error nobody knows whether it is, so the count stays: the sweep looks.
func (f *Files) write(ctx context.Context, kv jetstream.KeyValue, file File) error {
	ctx, cancel := step(ctx)
	defer cancel()
	if _, err := kv.Create(ctx, file.key(), encode(file)); mismatch(err) {
		return fmt.Errorf("batch: write file %s: %w", file.ID, ErrExists)
	} else if err != nil {
		return fmt.Errorf("batch: write file %s: %w", file.ID, err)
	}
	return nil
}

// Get is a tenant's file. ErrNotFound says that this tenant has none of that ID.
func (f *Files) Get(ctx context.Context, tenant, id string) (File, error) {
	file, _, err := f.get(ctx, tenant, id)
	return file, err
}

func (f *Files) get(ctx context.Context, tenant, id string) (file File, revision uint64, err error) {
	if !validID(id) {
		return file, 0, fmt.Errorf("batch: file %.80q: %w", id, ErrNotFound)
	}
	return f.record(ctx, tenant, id)
}

func (f *Files) record(ctx context.Context, tenant, id string) (file File, revision uint64, err error) {
	missing := fmt.Errorf("batch: file %s: %w", id, ErrNotFound)
	kv, err := f.bucket(ctx)
	if err != nil {
		return file, 0, err
	}
	e, err := kv.Get(ctx, File{Tenant: tenant, ID: id}.key())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return file, 0, missing
	}
	if err != nil {
		return file, 0, fmt.Errorf("batch: read file %s: %w", id, err)
	}
	if err := json.Unmarshal(e.Value(), &file); err != nil {
		return file, 0, fmt.Errorf("batch: read file %s: %w", id, err)
	}
	if file.expired(f.cfg.Now()) {
		return file, 0, missing
	}
	return file, e.Revision(), nil
}

// Open reads a file's bytes until Close or ctx's end.
func (f *Files) Open(ctx context.Context, file File) (io.ReadSeekCloser, error) {
	r, err := f.cfg.Blobs.Open(ctx, file.Digest)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, fmt.Errorf("batch: file %s: %w", file.ID, errors.Join(ErrNotFound, err))
	}
	return r, err
}

// Delete forgets a tenant's file, and its bytes if no other file has the same.
func (f *Files) Delete(ctx context.Context, tenant, id string) error {
	file, revision, err := f.get(ctx, tenant, id)
	if err != nil {
		return err
	}
	return f.remove(ctx, file, revision)
}

// remove deletes a record at its revision; whoever does that counts down.
func (f *Files) remove(ctx context.Context, file File, revision uint64) error {
	kv, err := f.bucket(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := step(ctx)
	defer cancel()
	err = kv.Purge(ctx, file.key(), jetstream.LastRevision(revision), jetstream.PurgeTTL(markerTTL))
	if mismatch(err) {
		return fmt.Errorf("batch: file %s: %w", file.ID, ErrNotFound) // someone was quicker
	}
	if err != nil {
		return fmt.Errorf("batch: delete file %s: %w", file.ID, err)
	}
	return f.release(ctx, kv, file.Digest)
}

// FileFilter says which files List shows.
type FileFilter struct {
	// After is the last ID of the page before; empty: the first page. It need not exist any more.
	After   string
	Limit   int
	Purpose string // empty: all
	// Ascending begins with the oldest.
	Ascending bool
}

// List is a page of a tenant's files, the newest first, and whether there are more. Pages neither repeat nor miss a file
// that is there all the time, whatever comes and goes meanwhile: IDs are in the order of time.
func (f *Files) List(ctx context.Context, tenant string, q FileFilter) (page []File, more bool, err error) {
	if q.After != "" && !validID(q.After) {
		return nil, false, fmt.Errorf("batch: file %.80q: %w", q.After, ErrNotFound)
	}
	kv, err := f.bucket(ctx)
	if err != nil {
		return nil, false, err
	}
	now, all := f.cfg.Now(), []File(nil)
	err = scan(ctx, kv, tenant+".*", func(e jetstream.KeyValueEntry) {
		var file File
		if json.Unmarshal(e.Value(), &file) == nil && q.shows(file, now) {
			all = append(all, file)
		}
	})
	if err != nil {
		return nil, false, err
	}
	slices.SortFunc(all, func(a, b File) int { return q.compare(a.ID, b.ID) })
	if q.Limit > 0 && len(all) > q.Limit {
		return all[:q.Limit], true, nil
	}
	return all, false, nil
}

func (q FileFilter) shows(f File, now time.Time) bool {
	return (q.Purpose == "" || f.Purpose == q.Purpose) && (q.After == "" || q.compare(f.ID, q.After) > 0) && !f.expired(now)
}

// compare is the order of the pages.
func (q FileFilter) compare(a, b string) int {
	if q.Ascending {
		return strings.Compare(a, b)
	}
	return strings.Compare(b, a)
}

// scan calls f with each record of the keys.
func scan(ctx context.Context, kv jetstream.KeyValue, keys string, f func(jetstream.KeyValueEntry)) error {
	if err := watch.Each(ctx, kv, keys, f, jetstream.IgnoreDeletes()); err != nil {
		return fmt.Errorf("batch: list: %w", err)
	}
	return nil
}

// mismatch says whether someone else wrote the key first.
func mismatch(err error) bool {
	return errors.Is(err, jetstream.ErrKeyRevisionMismatch) || errors.Is(err, jetstream.ErrKeyExists)
}
