package blob

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

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

// Objects is a JetStream object store of blobs: for fleets without a common disk.
//
// A blob is parts of 4 MiB, objects of their own, and a manifest under its digest, which comes last. Parts bound what is
// under way to the server: nats.go sends an object of any size with up to 4,000 messages unacknowledged, and an embedded
// server drops the stream's messages past 128 MiB of them. They also bound what a seek reads in vain.
type Objects struct{ cfg ObjectsConfig }

const (
	partSize = 4 << 20
	// partTime bounds the writing of one part: 32 messages.
	partTime = time.Minute
	// crowded is JetStream's code for more messages at once than a stream takes in.
	crowded jetstream.ErrorCode = 10167
	// crowdTries and crowdWait are for its ebbing away.
	crowdTries, crowdWait = 20, 250 * time.Millisecond
)

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
func (o *Objects) Put(ctx context.Context, r io.Reader, max int64, claim func(Ref) error) (_ Ref, err error) {
	s, err := o.bucket(ctx)
	if err != nil {
		return Ref{}, err
	}
	src := &source{ctx: ctx, r: r, max: max, hash: sha256.New()}
	m := manifest{prefix: tmpDir + "." + rand.Text()}
	if err = o.putParts(ctx, s, &m, src); err == nil && claim != nil {
		err = claim(src.ref())
	}
	if err == nil {
		m.Ref = src.ref()
		err = o.publish(ctx, s, m)
	}
	if err != nil {
		o.dropParts(ctx, s, m)
		return Ref{}, objectError(err)
	}
	return m.Ref, nil
}

// manifest says where a blob's parts are.
type manifest struct {
	Ref
	prefix string
	parts  int
}

func (m manifest) part(n int) string { return m.prefix + "." + strconv.Itoa(n) }

// Metadata of a manifest's object.
const (
	metaPrefix = "parts"
	metaCount  = "count"
	metaSize   = "size"
)

func (m manifest) meta() jetstream.ObjectMeta {
	return jetstream.ObjectMeta{Name: m.Digest, Metadata: map[string]string{
		metaPrefix: m.prefix, metaCount: strconv.Itoa(m.parts), metaSize: strconv.FormatInt(m.Size, 10)}}
}

func readManifest(i *jetstream.ObjectInfo) (m manifest, err error) {
	size, err1 := strconv.ParseInt(i.Metadata[metaSize], 10, 64)
	parts, err2 := strconv.Atoi(i.Metadata[metaCount])
	return manifest{Ref{i.Name, size}, i.Metadata[metaPrefix], parts}, errors.Join(err1, err2)
}

// putParts reads a part, then writes it: a slow client holds up no write.
func (o *Objects) putParts(ctx context.Context, s jetstream.ObjectStore, m *manifest, src *source) error {
	buf := make([]byte, partSize)
	for {
		n, err := io.ReadFull(src, buf)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && src.ended
		if err != nil && !end {
			return err
		}
		if n > 0 {
			m.parts++
			if err := o.putPart(ctx, s, m.part(m.parts-1), buf[:n]); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

func (o *Objects) putPart(ctx context.Context, s jetstream.ObjectStore, name string, b []byte) (err error) {
	// Not given up with ctx: the client could then not take back what it sent.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), partTime)
	defer cancel()
	for range crowdTries {
		_, err = s.Put(ctx, jetstream.ObjectMeta{Name: name}, bytes.NewReader(b))
		if e, ok := errors.AsType[*jetstream.APIError](err); !ok || e.ErrorCode != crowded {
			return err
		}
		select {
		case <-time.After(crowdWait):
		case <-ctx.Done():
		}
	}
	return err
}

// publish makes the blob be there. Where it was already, that one stays, and these parts go.
func (o *Objects) publish(ctx context.Context, s jetstream.ObjectStore, m manifest) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), partTime)
	defer cancel()
	if _, err := s.GetInfo(ctx, m.Digest); err == nil {
		o.dropParts(ctx, s, m)
		return nil
	}
	_, err := s.Put(ctx, m.meta(), bytes.NewReader(nil))
	return err
}

// dropParts deletes the parts that were written, as far as that works.
func (o *Objects) dropParts(ctx context.Context, s jetstream.ObjectStore, m manifest) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), partTime)
	defer cancel()
	for n := range m.parts {
		_ = o.drop(ctx, s, m.part(n))
	}
}

// drop takes an object out of the stream. The client's own Delete writes a mark first, which a full stream refuses, and
// which would stay for ever.
func (o *Objects) drop(ctx context.Context, s jetstream.ObjectStore, name string) error {
	i, err := s.GetInfo(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	stream, err := o.cfg.JS.Stream(ctx, "OBJ_"+o.cfg.Bucket)
	if err != nil {
		return err
	}
	subject := "$O." + o.cfg.Bucket
	for _, s := range []string{subject + ".M." + base64.URLEncoding.EncodeToString([]byte(name)), subject + ".C." + i.NUID} {
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(s)); err != nil {
			return err
		}
	}
	return nil
}

// Codes of JetStream that say that there is no room.
var fullCodes = map[jetstream.ErrorCode]bool{10023: true, 10047: true, 10077: true, 10028: true, 10002: true}

func objectError(err error) error {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && fullCodes[e.ErrorCode] {
		err = errors.Join(ErrFull, err)
	}
	return fmt.Errorf("blob: put: %w", err)
}

// Open implements Store.
func (o *Objects) Open(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	s, m, _, err := o.find(ctx, digest)
	if err != nil {
		return nil, err
	}
	return &object{ctx: ctx, store: s, manifest: m}, nil
}

func (o *Objects) find(ctx context.Context, digest string) (s jetstream.ObjectStore, m manifest, since time.Time, err error) {
	if !Valid(digest) {
		return nil, m, since, notFound(digest)
	}
	if s, err = o.bucket(ctx); err != nil {
		return nil, m, since, err
	}
	i, err := s.GetInfo(ctx, digest)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, m, since, notFound(digest)
	}
	if err == nil {
		m, err = readManifest(i)
	}
	if err != nil {
		return nil, m, since, fmt.Errorf("blob: stat %s: %w", digest, err)
	}
	return s, m, i.ModTime, nil
}

// Stat implements Store.
func (o *Objects) Stat(ctx context.Context, digest string) (Info, error) {
	_, m, since, err := o.find(ctx, digest)
	return Info{m.Ref, since}, err
}

// Delete implements Store. The manifest goes first: what has none is not there.
func (o *Objects) Delete(ctx context.Context, digest string) error {
	s, m, _, err := o.find(ctx, digest)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := o.drop(ctx, s, digest); err != nil {
		return fmt.Errorf("blob: delete %s: %w", digest, err)
	}
	o.dropParts(ctx, s, m)
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
			if !Valid(i.Name) {
				continue // a part
			}
			if m, err := readManifest(i); !yield(Info{m.Ref, i.ModTime}, err) {
				return
			}
		}
	}
}

// Clear implements Store: it drops the parts that no manifest names.
func (o *Objects) Clear(ctx context.Context, before time.Time) (n int, err error) {
	s, err := o.bucket(ctx)
	if err != nil {
		return 0, err
	}
	all, err := s.List(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		return 0, fmt.Errorf("blob: clear: %w", err)
	}
	whole := map[string]bool{}
	for _, i := range all {
		whole[i.Metadata[metaPrefix]] = true
	}
	var errs []error
	for _, i := range all {
		prefix, ok := partOf(i.Name)
		if !ok || whole[prefix] || !i.ModTime.Before(before) {
			continue
		}
		n++
		errs = append(errs, o.drop(ctx, s, i.Name))
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("blob: clear: %w", err)
	}
	return n, nil
}

// partOf is what a part's name begins with; ok is false for what is no part.
func partOf(name string) (prefix string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 || !strings.HasPrefix(name, tmpDir+".") {
		return "", false
	}
	return name[:i], true
}

// object reads a blob's parts one after the other. A seek reads from the start of the part that it leads to.
type object struct {
	manifest
	ctx      context.Context
	store    jetstream.ObjectStore
	at, next int64 // where body is, where Read goes on
	body     io.ReadCloser
}

func (o *object) Read(p []byte) (int, error) {
	if o.next >= o.Size {
		return 0, io.EOF
	}
	if err := o.reach(); err != nil {
		return 0, fmt.Errorf("blob: read %s: %w", o.Digest, err)
	}
	n, err := o.body.Read(p)
	o.at += int64(n)
	o.next = o.at
	if errors.Is(err, io.EOF) {
		err = o.partEnded()
	}
	return n, err
}

// partEnded is no end of the blob, unless it is; a part that was shorter than it should be was deleted under our hands.
func (o *object) partEnded() error {
	_ = o.Close()
	switch {
	case o.at == o.Size:
		return io.EOF
	case o.at%partSize == 0:
		return nil
	}
	return io.ErrUnexpectedEOF
}

// reach brings body to where Read goes on.
func (o *object) reach() error {
	if o.body == nil || o.at > o.next || o.at/partSize != o.next/partSize {
		_ = o.Close()
		n := o.next / partSize
		body, err := o.store.Get(o.ctx, o.part(int(n)))
		if err != nil {
			return err
		}
		o.body, o.at = body, n*partSize
	}
	n, err := io.CopyN(io.Discard, o.body, o.next-o.at)
	o.at += n
	return err
}

// Seek moves without reading anything yet.
func (o *object) Seek(offset int64, whence int) (int64, error) {
	return seek(&o.next, o.Size, offset, whence)
}

func (o *object) Close() error {
	if o.body == nil {
		return nil
	}
	err := o.body.Close()
	o.body = nil
	return err
}
