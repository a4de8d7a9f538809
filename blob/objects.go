package blob

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/nats-io/nats.go/jetstream"
)

// DefaultBucket is the object store's name.
const DefaultBucket = "blobs"

// ObjectsConfig says where the object store is. JS is required.
type ObjectsConfig struct {
	JS jetstream.JetStream
	// Bucket's name; empty: DefaultBucket.
	Bucket string
	// Replicas of it; 0 is 1.
	Replicas int
	// MaxBytes bounds it; past it Put is ErrFull. 0: the server's bound.
	MaxBytes int64
}

// Objects is a JetStream object store of blobs: for fleets without a common disk. An object is written under a name of
// its own and gets its digest's at the end.
type Objects struct{ cfg ObjectsConfig }

var _ Store = (*Objects)(nil)

// NewObjects makes a view of the store. It asks the server nothing.
func NewObjects(c ObjectsConfig) *Objects {
	c.Bucket = cmp.Or(c.Bucket, DefaultBucket)
	c.Replicas = cmp.Or(c.Replicas, 1)
	return &Objects{cfg: c}
}

// Setup makes the bucket. It is an admin step; doing it again changes nothing.
func (o *Objects) Setup(ctx context.Context) error {
	c := jetstream.ObjectStoreConfig{Bucket: o.cfg.Bucket, Description: "bytes by digest", Storage: jetstream.FileStorage, Replicas: o.cfg.Replicas, MaxBytes: o.cfg.MaxBytes}
	if _, err := o.cfg.JS.CreateOrUpdateObjectStore(ctx, c); err != nil {
		return fmt.Errorf("blob: set up bucket %s: %w", o.cfg.Bucket, err)
	}
	return nil
}

func (o *Objects) bucket(ctx context.Context) (jetstream.ObjectStore, error) {
	s, err := o.cfg.JS.ObjectStore(ctx, o.cfg.Bucket)
	if err != nil {
		return nil, fmt.Errorf("blob: bucket %s: %w", o.cfg.Bucket, err)
	}
	return s, nil
}

// Put implements Store.
func (o *Objects) Put(ctx context.Context, r io.Reader, max int64, claim func(Ref) error) (Ref, error) {
	s, err := o.bucket(ctx)
	if err != nil {
		return Ref{}, err
	}
	src := &upload{source: &source{ctx: ctx, r: r, max: max, hash: sha256.New()}, claim: claim}
	tmp := tmpDir + "." + rand.Text()
	// The client takes back what it sent when src fails, but not once ctx is over: src ends with ctx instead.
	last := context.WithoutCancel(ctx)
	if _, err := s.Put(last, jetstream.ObjectMeta{Name: tmp}, src); err != nil {
		return Ref{}, objectError(src, err)
	}
	return src.ref(), o.rename(last, s, tmp, src.ref().Digest)
}

// rename gives an object its digest's name, or drops it where that is taken: by the same bytes.
func (o *Objects) rename(ctx context.Context, s jetstream.ObjectStore, tmp, digest string) error {
	err := s.UpdateMeta(ctx, tmp, jetstream.ObjectMeta{Name: digest})
	if err == nil {
		return nil
	}
	// Also when it is unknown whether the name was given: deleting the first name would then take the bytes away.
	if _, there := s.GetInfo(ctx, digest); there != nil {
		return fmt.Errorf("blob: put %s: %w", digest, err)
	}
	if errors.Is(err, jetstream.ErrObjectAlreadyExists) {
		_ = s.Delete(ctx, tmp)
	}
	return nil
}

// upload claims at the end of what it reads, where failing still undoes all. It fills each buffer: a read is a message.
type upload struct {
	*source
	claim  func(Ref) error
	failed error // what is not the store's fault
}

func (u *upload) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = u.source.Read(p[n:])
		n += m
	}
	if errors.Is(err, io.EOF) && u.claim != nil {
		if e := u.claim(u.ref()); e != nil {
			err = e
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		u.failed = err
	}
	return n, err
}

// Codes of JetStream that say that there is no room.
var fullCodes = map[jetstream.ErrorCode]bool{10023: true, 10047: true, 10077: true, 10028: true, 10002: true}

func objectError(u *upload, err error) error {
	if u.failed != nil {
		return fmt.Errorf("blob: put: %w", u.failed)
	}
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && fullCodes[e.ErrorCode] {
		err = errors.Join(ErrFull, err)
	}
	return fmt.Errorf("blob: put: %w", err)
}

// Open implements Store.
func (o *Objects) Open(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	s, i, err := o.find(ctx, digest)
	if err != nil {
		return nil, err
	}
	return &object{ctx: ctx, store: s, digest: digest, size: int64(i.Size)}, nil
}

func (o *Objects) find(ctx context.Context, digest string) (jetstream.ObjectStore, *jetstream.ObjectInfo, error) {
	if !Valid(digest) {
		return nil, nil, notFound(digest)
	}
	s, err := o.bucket(ctx)
	if err != nil {
		return nil, nil, err
	}
	i, err := s.GetInfo(ctx, digest)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, nil, notFound(digest)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("blob: stat %s: %w", digest, err)
	}
	return s, i, nil
}

// Stat implements Store.
func (o *Objects) Stat(ctx context.Context, digest string) (Info, error) {
	_, i, err := o.find(ctx, digest)
	if err != nil {
		return Info{}, err
	}
	return info(i), nil
}

func info(i *jetstream.ObjectInfo) Info { return Info{Ref{i.Name, int64(i.Size)}, i.ModTime} }

// Delete implements Store.
func (o *Objects) Delete(ctx context.Context, digest string) error {
	s, _, err := o.find(ctx, digest)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.Delete(ctx, digest); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return fmt.Errorf("blob: delete %s: %w", digest, err)
	}
	return nil
}

// List implements Store.
func (o *Objects) List(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		s, err := o.bucket(ctx)
		if err != nil {
			yield(Info{}, err)
			return
		}
		all, err := s.List(ctx)
		if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
			yield(Info{}, fmt.Errorf("blob: list: %w", err))
		}
		for _, i := range all {
			if Valid(i.Name) && !yield(info(i), nil) {
				return
			}
		}
	}
}

// object reads a blob by the stream behind it, which only goes forward: a seek back reads from the start again.
type object struct {
	ctx      context.Context
	store    jetstream.ObjectStore
	digest   string
	size     int64
	at, next int64 // where the stream is, where Read goes on
	body     io.ReadCloser
}

func (o *object) Read(p []byte) (int, error) {
	if o.next >= o.size {
		return 0, io.EOF
	}
	if err := o.reach(); err != nil {
		return 0, fmt.Errorf("blob: read %s: %w", o.digest, err)
	}
	n, err := o.body.Read(p)
	o.at += int64(n)
	o.next = o.at
	if errors.Is(err, io.EOF) && o.at < o.size {
		err = io.ErrUnexpectedEOF // deleted under our hands
	}
	return n, err
}

// reach brings the stream to where Read goes on.
func (o *object) reach() error {
	if o.body == nil || o.at > o.next {
		_ = o.Close()
		body, err := o.store.Get(o.ctx, o.digest)
		if err != nil {
			return err
		}
		o.body, o.at = body, 0
	}
	n, err := io.CopyN(io.Discard, o.body, o.next-o.at)
	o.at += n
	return err
}

// Seek moves without reading anything yet.
func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.next
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, errors.New("blob: seek before the start")
	}
	o.next = offset
	return offset, nil
}

func (o *object) Close() error {
	if o.body == nil {
		return nil
	}
	err := o.body.Close()
	o.body = nil
	return err
}
