package blob

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Config says where a bucket of an S3-compatible store is. Bucket is required; the bucket must be there.
type S3Config struct {
	Bucket string
	// Prefix stands before all keys; empty, or with a slash at its end.
	Prefix string
	// Endpoint is the store's URL. Empty: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else Amazon's.
	Endpoint string
	// Region of the bucket; empty: AWS_REGION, else the store is asked.
	Region string
	// Credentials; nil: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN), the shared file of AWS_PROFILE,
	// or the role of the machine.
	Credentials *credentials.Credentials
}

// S3 is a bucket of blobs: for fleets without a common disk, and files too large for JetStream.
//
// A blob is an object under PREFIX<first two digits>/<digest>. Its bytes come in under PREFIXtmp/, in parts, and are
// copied by the store itself once all are there: what is under a digest is whole.
type S3 struct {
	cfg       S3Config
	client    minio.Core
	transport *http.Transport
}

var _ Store = (*S3)(nil)

const (
	s3Scheme = "s3://"
	// s3Part is how much of an upload is in memory at a time, and the size of its parts: 10,000 of them are 156 GiB.
	s3Part = 16 << 20
	// s3CopyMax is what the store copies in one request.
	s3CopyMax = 5 << 30
	// s3Step bounds a request that carries no bytes.
	s3Step = time.Minute
)

// ParseS3 reads s3://BUCKET/PREFIX?endpoint=URL&region=NAME.
func ParseS3(s string) (c S3Config, err error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme+"://" != s3Scheme || u.Host == "" || u.User != nil || u.Fragment != "" {
		return c, fmt.Errorf("blob: %q is no s3://BUCKET/PREFIX?endpoint=URL&region=NAME (credentials are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)", redacted(u, s))
	}
	q := u.Query()
	for name := range q {
		if name != "endpoint" && name != "region" {
			return c, fmt.Errorf("blob: %q: unknown parameter %s: there are endpoint and region", s, name)
		}
	}
	c = S3Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: q.Get("endpoint"), Region: q.Get("region")}
	if c.Prefix != "" {
		c.Prefix += "/"
	}
	_, _, err = c.endpoint()
	return c, err
}

// redacted is the address without a password that has no business there.
func redacted(u *url.URL, s string) string {
	if u == nil {
		return s
	}
	return u.Redacted()
}

// endpoint is the store's host, and whether it speaks TLS.
func (c S3Config) endpoint() (host string, tls bool, err error) {
	s := cmp.Or(c.Endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"), "https://s3.amazonaws.com")
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return "", false, fmt.Errorf("blob: endpoint %q is no URL of a host, as https://s3.example.com:9000", redacted(u, s))
	}
	return u.Host, u.Scheme == "https", nil
}

// OpenS3 looks whether the bucket is there.
func OpenS3(ctx context.Context, c S3Config) (*S3, error) {
	host, tls, err := c.endpoint()
	if err != nil {
		return nil, err
	}
	if c.Credentials == nil {
		c.Credentials = credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{}})
	}
	transport, err := minio.DefaultTransport(tls)
	if err != nil {
		return nil, fmt.Errorf("blob: open bucket %s: %w", c.Bucket, err)
	}
	client, err := minio.NewCore(host, &minio.Options{Creds: c.Credentials, Secure: tls, Transport: transport, Region: cmp.Or(c.Region, os.Getenv("AWS_REGION"))})
	if err != nil {
		return nil, fmt.Errorf("blob: open bucket %s: %w", c.Bucket, err)
	}
	s := &S3{cfg: c, client: *client, transport: transport}
	ctx, cancel := context.WithTimeout(ctx, s3Step)
	defer cancel()
	there, err := client.BucketExists(ctx, c.Bucket)
	switch {
	case err != nil:
		return nil, fmt.Errorf("blob: open bucket %s at %s: %w (credentials are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)", c.Bucket, host, err)
	case !there:
		return nil, fmt.Errorf("blob: there is no bucket %s at %s: make it, or name another one", c.Bucket, host)
	}
	return s, nil
}

// Close ends idle connections.
func (s *S3) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

func (s *S3) key(digest string) string { return s.cfg.Prefix + place(digest) }

// tmp is where uploads come in.
func (s *S3) tmp() string { return s.cfg.Prefix + tmpDir + "/" }

// Put implements Store.
func (s *S3) Put(ctx context.Context, r io.Reader, max int64, claim func(Ref) error) (ref Ref, err error) {
	tmp := s.tmp() + rand.Text()
	defer s.drop(ctx, tmp)
	if ref, err = s.upload(ctx, tmp, r, max); err != nil {
		return Ref{}, s3Error(err)
	}
	if claim != nil {
		if err := claim(ref); err != nil {
			return Ref{}, err
		}
	}
	if err := s.publish(ctx, tmp, ref); err != nil {
		return Ref{}, s3Error(err)
	}
	return ref, nil
}

// upload brings the bytes in: what fits into a part in one request. The client ends what it began when it fails, and so
// does a source that fails.
func (s *S3) upload(ctx context.Context, tmp string, r io.Reader, max int64) (Ref, error) {
	src := &source{ctx: ctx, r: r, max: max, hash: sha256.New()}
	only := &onlyEOF{r: src}
	var head bytes.Buffer
	n, err := io.CopyN(&head, only, s3Part)
	size, whole := int64(-1), io.MultiReader(&head, only)
	if errors.Is(err, io.EOF) {
		size, whole = n, bytes.NewReader(head.Bytes())
	}
	if only.err == nil {
		// MD5 guards the bytes on their way; the store's own digest of them would want a copy read twice.
		_, err = s.client.Client.PutObject(ctx, s.cfg.Bucket, tmp, whole, size, minio.PutObjectOptions{PartSize: s3Part, SendContentMd5: true,
			DisableContentSha256: true, ContentType: "application/octet-stream"})
	}
	switch {
	case only.err != nil:
		return Ref{}, only.err
	case err != nil:
		return Ref{}, err
	case ctx.Err() != nil:
		return Ref{}, context.Cause(ctx)
	}
	return src.ref(), nil
}

// onlyEOF keeps the client from taking a source's own io.ErrUnexpectedEOF for its end.
type onlyEOF struct {
	r   io.Reader
	err error
}

var errS3Source = errors.New("blob: the source failed")

func (o *onlyEOF) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		o.err = err
		err = errS3Source
	}
	return n, err
}

// publish makes the blob be there. Where it was already, that one stays.
func (s *S3) publish(ctx context.Context, tmp string, ref Ref) error {
	if _, err := s.Stat(ctx, ref.Digest); err == nil {
		return nil
	}
	ctx = context.WithoutCancel(ctx) // the claim was made
	from, to := minio.CopySrcOptions{Bucket: s.cfg.Bucket, Object: tmp}, minio.CopyDestOptions{Bucket: s.cfg.Bucket, Object: s.key(ref.Digest)}
	var err error
	if ref.Size < s3CopyMax {
		_, err = s.client.Client.CopyObject(ctx, to, from)
	} else {
		_, err = s.client.ComposeObject(ctx, to, from)
	}
	return err
}

// drop deletes what came in, as far as that works: Clear finds the rest.
func (s *S3) drop(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s3Step)
	defer cancel()
	_ = s.client.Client.RemoveObject(ctx, s.cfg.Bucket, key, minio.RemoveObjectOptions{})
}

// s3Full are codes of stores that have no room.
var s3Full = []string{"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "EntityTooLarge"}

func s3Error(err error) error {
	if e, ok := errors.AsType[minio.ErrorResponse](err); ok && (slices.Contains(s3Full, e.Code) || e.StatusCode == http.StatusInsufficientStorage) {
		err = errors.Join(ErrFull, err)
	}
	return fmt.Errorf("blob: put: %w", err)
}

func s3Missing(err error) bool {
	e, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && (e.Code == minio.NoSuchKey || e.StatusCode == http.StatusNotFound)
}

// Open implements Store.
func (s *S3) Open(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	i, err := s.Stat(ctx, digest)
	if err != nil {
		return nil, err
	}
	return &s3Reader{ctx: ctx, store: s, Ref: i.Ref}, nil
}

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, digest string) (Info, error) {
	if !Valid(digest) {
		return Info{}, notFound(digest)
	}
	i, err := s.client.StatObject(ctx, s.cfg.Bucket, s.key(digest), minio.StatObjectOptions{})
	if s3Missing(err) {
		return Info{}, notFound(digest)
	}
	if err != nil {
		return Info{}, fmt.Errorf("blob: stat %s: %w", digest, err)
	}
	return Info{Ref{digest, i.Size}, i.LastModified}, nil
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, digest string) error {
	if !Valid(digest) {
		return nil
	}
	err := s.client.Client.RemoveObject(ctx, s.cfg.Bucket, s.key(digest), minio.RemoveObjectOptions{})
	if err != nil && !s3Missing(err) {
		return fmt.Errorf("blob: delete %s: %w", digest, err)
	}
	return nil
}

// List implements Store.
func (s *S3) List(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for i, err := range s.objects(ctx, s.cfg.Prefix) {
			if err != nil {
				yield(Info{}, fmt.Errorf("blob: list: %w", err))
				return
			}
			digest := i.Key[strings.LastIndexByte(i.Key, '/')+1:]
			if Valid(digest) && i.Key == s.key(digest) && !yield(Info{Ref{digest, i.Size}, i.LastModified}, nil) {
				return
			}
		}
	}
}

// objects walks over all keys that begin so.
func (s *S3) objects(ctx context.Context, prefix string) iter.Seq2[minio.ObjectInfo, error] {
	return func(yield func(minio.ObjectInfo, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		ch := s.client.Client.ListObjects(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true})
		defer func() {
			cancel()
			for range ch { // the client's goroutine ends
			}
		}()
		for i := range ch {
			if !yield(i, i.Err) {
				return
			}
		}
	}
}

// Clear implements Store.
func (s *S3) Clear(ctx context.Context, before time.Time) (n int, err error) {
	var errs []error
	for i, err := range s.objects(ctx, s.tmp()) {
		if err == nil && i.LastModified.Before(before) {
			n++
			err = s.client.Client.RemoveObject(ctx, s.cfg.Bucket, i.Key, minio.RemoveObjectOptions{})
		}
		errs = append(errs, err)
	}
	for u, err := range s.unfinished(ctx) {
		if err == nil && u.Initiated.Before(before) {
			n++
			err = s.client.AbortMultipartUpload(ctx, s.cfg.Bucket, u.Key, u.UploadID)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("blob: clear: %w", err)
	}
	return n, nil
}

// unfinished walks over uploads that were begun. Some stores say that there is no such upload where there is none.
func (s *S3) unfinished(ctx context.Context) iter.Seq2[minio.ObjectMultipartInfo, error] {
	return func(yield func(minio.ObjectMultipartInfo, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		ch := s.client.ListIncompleteUploads(ctx, s.cfg.Bucket, s.tmp(), true)
		defer func() {
			cancel()
			for range ch { // the client's goroutine ends
			}
		}()
		for u := range ch {
			if e, ok := errors.AsType[minio.ErrorResponse](u.Err); ok && e.Code == minio.NoSuchUpload {
				return
			}
			if !yield(u, u.Err) {
				return
			}
		}
	}
}

// s3Reader reads a blob. A seek costs a request, when something is read behind it.
type s3Reader struct {
	Ref
	ctx      context.Context
	store    *S3
	at, next int64 // where body is, where Read goes on
	body     io.ReadCloser
}

func (r *s3Reader) Read(p []byte) (int, error) {
	if r.next >= r.Size {
		return 0, io.EOF
	}
	if err := r.reach(); err != nil {
		return 0, fmt.Errorf("blob: read %s: %w", r.Digest, err)
	}
	n, err := r.body.Read(p)
	r.at += int64(n)
	r.next = r.at
	if errors.Is(err, io.EOF) && r.at < r.Size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// reach brings body to where Read goes on.
func (r *s3Reader) reach() error {
	if r.body != nil && r.at == r.next {
		return nil
	}
	_ = r.Close()
	var opts minio.GetObjectOptions
	if err := opts.SetRange(r.next, r.Size-1); err != nil {
		return err
	}
	body, _, _, err := r.store.client.GetObject(r.ctx, r.store.cfg.Bucket, r.store.key(r.Digest), opts)
	if err != nil {
		return err
	}
	r.body, r.at = body, r.next
	return nil
}

// Seek moves without reading anything yet.
func (r *s3Reader) Seek(offset int64, whence int) (int64, error) {
	return seek(&r.next, r.Size, offset, whence)
}

func (r *s3Reader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
