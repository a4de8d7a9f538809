package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"lorry/queue/queuetest"
)

func TestMain(m *testing.M) {
	// nats.go starts this one for each object that is put, and tells it to end before it has begun on a busy machine: it
	// then waits at a nil channel for ever (jetstream/publish.go of v1.55.0). It is not ours to end.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

// kept is a store under test, and how many things of any kind it holds: what a failed Put left would be one.
type kept struct {
	Store
	things func() int
}

var stores = map[string]func(t *testing.T) kept{"dir": openDir, "objects": openObjects, "s3": openS3}

func openDir(t *testing.T) kept {
	d, err := OpenDir(DirConfig{Dir: filepath.Join(t.TempDir(), "blobs"), MinFree: 1})
	ok(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return kept{d, func() (n int) {
		ok(t, filepath.WalkDir(d.cfg.Dir, func(_ string, e os.DirEntry, err error) error {
			if !e.IsDir() {
				n++
			}
			return err
		}))
		return n
	}}
}

func openObjects(t *testing.T) kept {
	js := queuetest.JetStream(t)
	o := NewObjects(ObjectsConfig{JS: js})
	ok(t, o.Setup(t.Context()))
	ok(t, o.Setup(t.Context()))
	return kept{o, func() int {
		s, err := js.Stream(t.Context(), "OBJ_"+DefaultBucket)
		ok(t, err)
		i, err := s.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		ok(t, err)
		return (len(i.State.Subjects) + 2) / 3 // a small blob's: a part's meta and chunks, a manifest
	}}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// conformance is what every store does.
var conformance = map[string]func(t *testing.T, s kept){
	"keeps bytes":             keepsBytes,
	"keeps the same once":     keepsOnce,
	"claims before it keeps":  claims,
	"failures leave nothing":  failures,
	"seeks":                   seeks,
	"what is not there":       notThere,
	"reads end with deletion": deletes,
	"clears what is half":     clears,
}

func TestStores(t *testing.T) {
	for kind, open := range stores {
		for name, f := range conformance {
			t.Run(kind+"/"+name, func(t *testing.T) { t.Parallel(); f(t, open(t)) })
		}
	}
}

// noise is n bytes.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b)
	return b
}

func sum(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }

func read(t *testing.T, s Store, digest string) []byte {
	t.Helper()
	f, err := s.Open(t.Context(), digest)
	ok(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	ok(t, err)
	return b
}

func keepsBytes(t *testing.T, s kept) {
	seen := map[string]int64{}
	for _, n := range []int{0, 1, 1000, 128 << 10, 1<<20 + 7, partSize, 2*partSize + 1} {
		b := noise(n)
		ref, err := s.Put(t.Context(), iotest.HalfReader(bytes.NewReader(b)), int64(n), nil)
		ok(t, err)
		if want := (Ref{sum(b), int64(n)}); ref != want {
			t.Errorf("%d bytes: got %v, want %v", n, ref, want)
		}
		if !bytes.Equal(read(t, s, ref.Digest), b) {
			t.Errorf("%d bytes came back changed", n)
		}
		i, err := s.Stat(t.Context(), ref.Digest)
		if ok(t, err); i.Ref != ref || time.Since(i.Modified) > time.Minute {
			t.Errorf("stat says %v", i)
		}
		seen[ref.Digest] = ref.Size
	}
	for i, err := range s.List(t.Context()) {
		if ok(t, err); seen[i.Digest] != i.Size {
			t.Errorf("listed %v", i)
		}
		delete(seen, i.Digest)
	}
	if len(seen) > 0 {
		t.Errorf("not listed: %v", seen)
	}
}

func keepsOnce(t *testing.T, s kept) {
	for range 3 {
		_, err := s.Put(t.Context(), strings.NewReader("same"), 0, nil)
		ok(t, err)
	}
	if n := s.things(); n != 1 {
		t.Errorf("%d things are kept", n)
	}
	if got := string(read(t, s, sum([]byte("same")))); got != "same" {
		t.Errorf("got %q", got)
	}
}

func claims(t *testing.T, s kept) {
	b := noise(300_000)
	var claimed []Ref
	ref, err := s.Put(t.Context(), bytes.NewReader(b), 0, func(r Ref) error {
		claimed = append(claimed, r)
		if _, err := s.Stat(t.Context(), r.Digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("the bytes are there before the claim: %v", err)
		}
		return nil
	})
	if ok(t, err); len(claimed) != 1 || claimed[0] != ref {
		t.Errorf("claimed %v, want %v once", claimed, ref)
	}
}

func failures(t *testing.T, s kept) {
	gone, cancel := context.WithCancel(t.Context())
	errMine := errors.New("mine")
	b := noise(partSize + 400_000)
	cases := map[string]struct {
		ctx   context.Context
		r     io.Reader
		max   int64
		claim func(Ref) error
		want  error
	}{
		"too large":       {t.Context(), bytes.NewReader(b), int64(len(b)) - 1, nil, ErrTooLarge},
		"cut off":         {t.Context(), io.MultiReader(bytes.NewReader(b), iotest.ErrReader(io.ErrUnexpectedEOF)), 0, nil, io.ErrUnexpectedEOF},
		"claim refused":   {t.Context(), bytes.NewReader(b), 0, func(Ref) error { return errMine }, errMine},
		"nobody waits":    {gone, io.MultiReader(bytes.NewReader(b), hangUp(cancel), bytes.NewReader(b)), 0, nil, context.Canceled},
		"nothing and cut": {t.Context(), iotest.ErrReader(io.ErrUnexpectedEOF), 0, nil, io.ErrUnexpectedEOF},
	}
	for name, tc := range cases {
		if _, err := s.Put(tc.ctx, tc.r, tc.max, tc.claim); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
		if n := s.things(); n != 0 {
			t.Errorf("%s: %d things were left", name, n)
		}
	}
}

// hangUp is a reader of one byte that ends a context.
type hangUp context.CancelFunc

func (h hangUp) Read(p []byte) (int, error) { h(); return 1, io.EOF }

func seeks(t *testing.T, s kept) {
	const size = 2*partSize + 500_000
	b := noise(size)
	ref, err := s.Put(t.Context(), bytes.NewReader(b), 0, nil)
	ok(t, err)
	f, err := s.Open(t.Context(), ref.Digest)
	ok(t, err)
	defer f.Close()
	for _, at := range []int64{400_000, 10, partSize - 500, partSize, 2*partSize + 7, size - 1, 0, size} {
		_, err := f.Seek(at, io.SeekStart)
		ok(t, err)
		got, err := io.ReadAll(io.LimitReader(f, 1000))
		if ok(t, err); !bytes.Equal(got, b[at:min(at+1000, size)]) {
			t.Errorf("at %d: wrong bytes", at)
		}
	}
	if n, err := f.Seek(-7, io.SeekEnd); err != nil || n != size-7 {
		t.Errorf("seek from the end: %d, %v", n, err)
	}
	if n, err := f.Seek(-3, io.SeekCurrent); err != nil || n != size-10 {
		t.Errorf("seek from here: %d, %v", n, err)
	}
	if _, err := f.Seek(-1, io.SeekStart); err == nil {
		t.Error("seek before the start")
	}
}

func notThere(t *testing.T, s kept) {
	for _, d := range []string{"", "..", "../../etc/passwd", strings.Repeat("a", 64), strings.Repeat("A", 64), strings.Repeat("/", 64), "*", ">"} {
		if _, err := s.Open(t.Context(), d); !errors.Is(err, ErrNotFound) {
			t.Errorf("open %q: %v", d, err)
		}
		if _, err := s.Stat(t.Context(), d); !errors.Is(err, ErrNotFound) {
			t.Errorf("stat %q: %v", d, err)
		}
		ok(t, s.Delete(t.Context(), d))
	}
	for i, err := range s.List(t.Context()) {
		t.Errorf("listed %v, %v", i, err)
	}
}

func deletes(t *testing.T, s kept) {
	ref, err := s.Put(t.Context(), strings.NewReader("soon gone"), 0, nil)
	ok(t, err)
	ok(t, s.Delete(t.Context(), ref.Digest))
	ok(t, s.Delete(t.Context(), ref.Digest))
	if _, err := s.Open(t.Context(), ref.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("open: %v", err)
	}
	if n := s.things(); n != 0 {
		t.Errorf("%d things were left", n)
	}
	_, err = s.Put(t.Context(), strings.NewReader("soon gone"), 0, nil)
	if ok(t, err); string(read(t, s, ref.Digest)) != "soon gone" {
		t.Error("it did not come back")
	}
}

func TestFullDisk(t *testing.T) {
	d, err := OpenDir(DirConfig{Dir: t.TempDir(), MinFree: math.MaxInt64})
	ok(t, err)
	defer d.Close()
	if _, err := d.Put(t.Context(), strings.NewReader("x"), 0, nil); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
}

func TestFullBucket(t *testing.T) {
	js := queuetest.JetStream(t)
	o := NewObjects(ObjectsConfig{JS: js, MaxBytes: partSize + 1<<20})
	ok(t, o.Setup(t.Context()))
	if _, err := o.Put(t.Context(), bytes.NewReader(noise(2*partSize)), 0, nil); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	s, err := js.Stream(t.Context(), "OBJ_"+DefaultBucket)
	ok(t, err)
	if n := s.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages were left", n)
	}
}

// A process that died leaves its half; a later one clears it, but not what is under way.
func TestDeadProcess(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.Mkdir(filepath.Join(dir, tmpDir), 0o700))
	old, young := filepath.Join(dir, tmpDir, "OLD"), filepath.Join(dir, tmpDir, "YOUNG")
	for _, p := range []string{old, young} {
		ok(t, os.WriteFile(p, []byte("half"), 0o600))
	}
	ok(t, os.Chtimes(old, time.Time{}, time.Now().Add(-25*time.Hour)))
	d, err := OpenDir(DirConfig{Dir: dir})
	ok(t, err)
	defer d.Close()
	if _, err := os.Stat(old); err == nil {
		t.Error("the dead one's half is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
}

// TestRoom: what is asked about is added to what must stay free.
func TestRoom(t *testing.T) {
	dir := t.TempDir()
	if err := Room(dir, 1<<60); !errors.Is(err, ErrFull) {
		t.Errorf("an exabyte fits: %v", err)
	}
	if err := room(dir, 1, 0); err != nil {
		t.Errorf("nothing does not fit: %v", err)
	}
}
