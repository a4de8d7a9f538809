package blob

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/nats-io/nats.go/jetstream"

	"lorry/queue/queuetest"
)

// fakeS3 is a store that speaks S3, with a bucket in it.
func fakeS3(t *testing.T) S3Config {
	t.Helper()
	backend := s3mem.New()
	ok(t, backend.CreateBucket("lorry"))
	srv := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(srv.Close)
	return S3Config{Bucket: "lorry", Prefix: "blobs/", Endpoint: srv.URL, Region: "us-east-1", Credentials: credentials.NewStaticV4("key", "secret", "")}
}

func openS3(t *testing.T) kept {
	s, err := OpenS3(t.Context(), fakeS3(t))
	ok(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return kept{s, func() (n int) {
		for _, err := range s.objects(t.Context(), "") {
			ok(t, err)
			n++
		}
		for _, err := range s.unfinished(t.Context()) {
			ok(t, err)
			n++
		}
		return n
	}}
}

// clears: nothing that is whole is ever half.
func clears(t *testing.T, s kept) {
	ref, err := s.Put(t.Context(), bytes.NewReader(noise(300_000)), 0, nil)
	ok(t, err)
	if n, err := s.Clear(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	if len(read(t, s, ref.Digest)) != 300_000 {
		t.Error("a blob was cleared")
	}
}

// What a process that died left is cleared, once it is old enough.
func TestClear(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "blobs")
	d, err := OpenDir(DirConfig{Dir: dir, MinFree: 1})
	ok(t, err)
	defer d.Close()
	ok(t, os.WriteFile(filepath.Join(dir, tmpDir, "HALF"), []byte("half"), 0o600))
	js := queuetest.JetStream(t)
	o := NewObjects(ObjectsConfig{JS: js})
	ok(t, o.Setup(t.Context()))
	bucket, err := js.ObjectStore(t.Context(), DefaultBucket)
	ok(t, err)
	_, err = bucket.Put(t.Context(), jetstream.ObjectMeta{Name: tmpDir + ".HALF.0"}, strings.NewReader("half"))
	ok(t, err)
	s, err := OpenS3(t.Context(), fakeS3(t))
	ok(t, err)
	defer s.Close()
	_, err = s.client.Client.PutObject(t.Context(), "lorry", s.tmp()+"HALF", strings.NewReader("half"), 4, minio.PutObjectOptions{})
	ok(t, err)
	_, err = s.client.NewMultipartUpload(t.Context(), "lorry", s.tmp()+"BEGUN", minio.PutObjectOptions{})
	ok(t, err)
	for name, c := range map[string]struct {
		Store
		half int
	}{"dir": {d, 1}, "objects": {o, 1}, "s3": {s, 2}} {
		for _, step := range []struct {
			before time.Time
			want   int
		}{{time.Now().Add(-time.Hour), 0}, {time.Now().Add(time.Hour), c.half}, {time.Now().Add(time.Hour), 0}} {
			if n, err := c.Clear(t.Context(), step.before); err != nil || n != step.want {
				t.Errorf("%s: cleared %d, %v, want %d", name, n, err, step.want)
			}
		}
	}
}

func TestParseS3(t *testing.T) {
	for s, want := range map[string]*S3Config{
		"s3://lorry": {Bucket: "lorry"},
		"s3://lorry/a/b/?endpoint=http://10.0.0.1:9000&region=eu": {Bucket: "lorry", Prefix: "a/b/", Endpoint: "http://10.0.0.1:9000", Region: "eu"},
		"s3:lorry": nil, "s3://": nil, "s3://key:secret@lorry": nil, "s3://lorry?endpoint=lorry": nil, "s3://lorry?endpoint=http://h/path": nil, "s3://lorry?secret=x": nil, "http://lorry": nil, "s3://lorry#x": nil,
	} {
		got, err := ParseS3(s)
		if (err == nil) != (want != nil) || want != nil && got != *want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret@") {
			t.Errorf("the error tells a password: %v", err)
		}
	}
}

// A blob of several parts comes in by parts, and goes out whole.
func TestS3Parts(t *testing.T) {
	s := openS3(t)
	b := noise(s3Part + 1<<20)
	ref, err := s.Put(t.Context(), bytes.NewReader(b), 0, nil)
	ok(t, err)
	if !bytes.Equal(read(t, s, ref.Digest), b) || s.things() != 1 {
		t.Errorf("it came back changed, or left something: %d things", s.things())
	}
	if _, err := s.Put(t.Context(), io.MultiReader(bytes.NewReader(b), iotest.ErrReader(io.ErrUnexpectedEOF)), 0, nil); !errors.Is(err, io.ErrUnexpectedEOF) || s.things() != 1 {
		t.Errorf("cut off: %v, %d things", err, s.things())
	}
}

func TestNoBucket(t *testing.T) {
	c := fakeS3(t)
	c.Bucket = "other"
	if _, err := OpenS3(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no bucket other") {
		t.Errorf("%v", err)
	}
}
