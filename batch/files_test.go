package batch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"lorry/blob"
	"lorry/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is Files over a real server and a folder, and a clock that can be put forward.
type shelf struct {
	*Files
	t     *testing.T
	kv    jetstream.KeyValue
	blobs *blob.Dir
	mu    sync.Mutex
	ahead time.Duration
}

func open(t *testing.T) *shelf {
	t.Helper()
	js, err := jetstream.New(queuetest.Connect(t, queuetest.Server(t)))
	ok(t, err)
	blobs, err := blob.OpenDir(blob.DirConfig{Dir: t.TempDir(), MinFree: 1})
	ok(t, err)
	t.Cleanup(func() { _ = blobs.Close() })
	s := &shelf{t: t, blobs: blobs}
	s.Files = NewFiles(FilesConfig{JS: js, Blobs: blobs, Log: zerolog.Nop(), Now: s.now})
	ok(t, s.Setup(t.Context()))
	ok(t, s.Setup(t.Context()))
	s.kv, err = s.bucket(t.Context())
	ok(t, err)
	return s
}

func (s *shelf) now() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return time.Now().Add(s.ahead) }

func (s *shelf) forward(d time.Duration) { s.mu.Lock(); defer s.mu.Unlock(); s.ahead += d }

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *shelf) put(tenant, text string, wish CreateFile) File {
	s.t.Helper()
	f, err := s.Create(s.t.Context(), tenant, strings.NewReader(text), MaxFile, func() (CreateFile, error) { return wish, nil })
	ok(s.t, err)
	return f
}

// blobsThere is how many blobs are kept.
func (s *shelf) blobsThere() (n int) {
	for _, err := range s.blobs.List(s.t.Context()) {
		ok(s.t, err)
		n++
	}
	return n
}

func (s *shelf) sweep() Swept {
	s.t.Helper()
	done, err := s.Sweep(s.t.Context())
	ok(s.t, err)
	return done
}

func TestFileComesAndGoes(t *testing.T) {
	s := open(t)
	f := s.put("acme", "line\n", CreateFile{Filename: "in.jsonl", Purpose: PurposeBatch})
	if f.Bytes != 5 || f.Filename != "in.jsonl" || f.Status != Processed || f.ExpiresAt-f.CreatedAt != 30*24*3600 {
		t.Errorf("got %+v", f)
	}
	got, err := s.Get(t.Context(), "acme", f.ID)
	if ok(t, err); got != f {
		t.Errorf("got %+v, want %+v", got, f)
	}
	r, err := s.Open(t.Context(), f)
	ok(t, err)
	b, err := io.ReadAll(r)
	_ = r.Close()
	if ok(t, err); string(b) != "line\n" {
		t.Errorf("got %q", b)
	}
	ok(t, s.Delete(t.Context(), "acme", f.ID))
	for what, err := range map[string]error{"delete again": s.Delete(t.Context(), "acme", f.ID), "get": second(s.Get(t.Context(), "acme", f.ID))} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := s.blobsThere(); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
}

func second(_ File, err error) error { return err }

func TestTenantsSeeTheirOwn(t *testing.T) {
	s := open(t)
	f := s.put("acme", "x", CreateFile{Purpose: "assistants"})
	if f.ExpiresAt != 0 {
		t.Error("it expires")
	}
	for _, id := range []string{f.ID, "*", ">", "", "file-*", filePrefix + strings.Repeat("*", 26)} {
		if _, err := s.Get(t.Context(), "rival", id); !errors.Is(err, ErrNotFound) {
			t.Errorf("get %q: %v", id, err)
		}
		if err := s.Delete(t.Context(), "rival", id); !errors.Is(err, ErrNotFound) {
			t.Errorf("delete %q: %v", id, err)
		}
	}
	if l, _, err := s.List(t.Context(), "rival", FileFilter{}); err != nil || len(l) != 0 {
		t.Errorf("list: %v, %v", l, err)
	}
}

// Equal bytes are kept once, and go with the last file, whoever's it is.
func TestEqualFiles(t *testing.T) {
	s := open(t)
	a, b, c := s.put("acme", "same", CreateFile{}), s.put("acme", "same", CreateFile{}), s.put("rival", "same", CreateFile{})
	for left, f := range []File{c, a, b} {
		if n := s.blobsThere(); n != 1 {
			t.Errorf("before %d: %d blobs", left, n)
		}
		ok(t, s.Delete(t.Context(), f.Tenant, f.ID))
	}
	if n := s.blobsThere(); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
	keys, err := s.kv.Keys(t.Context())
	if !errors.Is(err, jetstream.ErrNoKeysFound) {
		t.Errorf("left in the bucket: %v, %v", keys, err)
	}
}

// Uploads and deletions of equal files at the same moment: no file may lose its bytes.
func TestEqualFilesAtOnce(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for range 8 {
				f, err := s.Create(t.Context(), fmt.Sprint("t", i), strings.NewReader("same"), 0, func() (CreateFile, error) { return CreateFile{}, nil })
				if err != nil {
					t.Error(err)
					return
				}
				r, err := s.Open(t.Context(), f)
				if err != nil {
					t.Error(err)
					return
				}
				_ = r.Close()
				if err := s.Delete(t.Context(), f.Tenant, f.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := s.blobsThere(); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
}

// A file is deleted once, also when many ask.
func TestDeletedOnce(t *testing.T) {
	s := open(t)
	s.put("acme", "same", CreateFile{})
	f := s.put("acme", "same", CreateFile{})
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = s.Delete(t.Context(), "acme", f.ID) })
	}
	wg.Wait()
	fine := 0
	for _, err := range errs {
		if err == nil {
			fine++
		} else if !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
	if fine != 1 || s.blobsThere() != 1 {
		t.Errorf("%d deletions, %d blobs", fine, s.blobsThere())
	}
}

func TestPages(t *testing.T) {
	s := open(t)
	var ids []string
	for i := range 7 {
		ids = append(ids, s.put("acme", fmt.Sprint(i), CreateFile{Purpose: Purposes[i%2]}).ID)
	}
	newest := slices.Clone(ids)
	slices.Reverse(newest)
	cases := map[string]struct {
		q    FileFilter
		want []string
		more bool
	}{
		"all":              {FileFilter{}, newest, false},
		"first page":       {FileFilter{Limit: 3}, newest[:3], true},
		"second page":      {FileFilter{Limit: 3, After: newest[2]}, newest[3:6], true},
		"last page":        {FileFilter{Limit: 3, After: newest[5]}, newest[6:], false},
		"exactly the rest": {FileFilter{Limit: 3, After: newest[3]}, newest[4:], false},
		"behind the end":   {FileFilter{Limit: 3, After: newest[6]}, nil, false},
		"oldest first":     {FileFilter{Limit: 2, Ascending: true, After: ids[0]}, ids[1:3], true},
		"one purpose":      {FileFilter{Limit: 2, Ascending: true, Purpose: Purposes[1]}, []string{ids[1], ids[3]}, true},
		"no such purpose":  {FileFilter{Purpose: "evals"}, nil, false},
	}
	for name, tc := range cases {
		got, more, err := s.List(t.Context(), "acme", tc.q)
		if ok(t, err); more != tc.more || !slices.EqualFunc(got, tc.want, func(f File, id string) bool { return f.ID == id }) {
			t.Errorf("%s: got %v, %v; want %v, %v", name, got, more, tc.want, tc.more)
		}
	}
	if _, _, err := s.List(t.Context(), "acme", FileFilter{After: "nonsense"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("after nonsense: %v", err)
	}
	ok(t, s.Delete(t.Context(), "acme", newest[2]))
	if got, _, err := s.List(t.Context(), "acme", FileFilter{Limit: 1, After: newest[2]}); err != nil || got[0].ID != newest[3] {
		t.Errorf("behind a deleted one: %v, %v", got, err)
	}
}

func TestRefused(t *testing.T) {
	s := open(t)
	errMine := errors.New("mine")
	cases := map[string]struct {
		max  int64
		wish CreateFile
		err  error
		want error
	}{
		"too large":                  {max: 3, want: blob.ErrTooLarge},
		"too large for what it's of": {wish: CreateFile{MaxBytes: 3}, want: blob.ErrTooLarge},
		"description refused":        {err: errMine, want: errMine},
	}
	for name, tc := range cases {
		_, err := s.Create(t.Context(), "acme", strings.NewReader("four"), tc.max, func() (CreateFile, error) { return tc.wish, tc.err })
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if keys, err := s.kv.Keys(t.Context()); !errors.Is(err, jetstream.ErrNoKeysFound) || s.blobsThere() > 0 {
		t.Errorf("left: %v, %v, %d blobs", keys, err, s.blobsThere())
	}
}

func TestExpiry(t *testing.T) {
	s := open(t)
	f := s.put("acme", "a", CreateFile{ExpiresAfter: time.Hour})
	stays := s.put("acme", "b", CreateFile{})
	s.forward(59 * time.Minute)
	if done := s.sweep(); done != (Swept{}) {
		t.Errorf("swept %+v", done)
	}
	s.forward(2 * time.Minute)
	if _, err := s.Get(t.Context(), "acme", f.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if l, _, err := s.List(t.Context(), "acme", FileFilter{}); err != nil || len(l) != 1 || l[0] != stays {
		t.Errorf("list: %v, %v", l, err)
	}
	if done := s.sweep(); done.Expired != 1 || s.blobsThere() != 1 {
		t.Errorf("swept %+v, %d blobs are left", done, s.blobsThere())
	}
}

// What a process that died at any step leaves is put right.
func TestDeadProcess(t *testing.T) {
	die := map[string]func(s *shelf, f File){
		"counted in, no bytes, no record": func(s *shelf, f File) { ok(s.t, s.claim(s.t.Context(), s.kv, f.Digest)) },
		"record gone, not counted out": func(s *shelf, f File) {
			g := s.put("rival", "same", CreateFile{})
			ok(s.t, s.kv.Purge(s.t.Context(), g.key()))
		},
	}
	for name, f := range die {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			file := s.put("acme", "same", CreateFile{})
			f(s, file)
			mended := 0
			for range 4 {
				mended += s.sweep().Mended
				s.forward(settleTime)
			}
			ok(t, s.Delete(t.Context(), "acme", file.ID))
			if mended != 1 || s.blobsThere() != 0 {
				t.Errorf("mended %d, %d blobs are left", mended, s.blobsThere())
			}
		})
	}
}

// One that died while it deleted bytes holds nobody up for long, and is finished.
func TestDiedDeleting(t *testing.T) {
	s := open(t)
	f := s.put("acme", "same", CreateFile{})
	ok(t, s.kv.Purge(t.Context(), f.key()))
	c, err := getCount(t.Context(), s.kv, f.Digest)
	ok(t, err)
	c.Files = 0
	_, err = c.put(t.Context(), s.kv, f.Digest)
	ok(t, err)
	if done := s.sweep(); done.Mended != 0 || s.blobsThere() != 1 {
		t.Error("another one's deletion was not left alone")
	}
	s.forward(settleTime)
	again := s.put("acme", "same", CreateFile{})
	if done := s.sweep(); done.Mended != 0 || s.blobsThere() != 1 {
		t.Errorf("the new file's bytes are gone: %+v", done)
	}
	ok(t, s.Delete(t.Context(), "acme", again.ID))
	if s.blobsThere() != 0 {
		t.Error("bytes are left")
	}
}

// A count must not be taken down twice: by a sweep and by the deletion that it saw half of.
func TestSweepWithinDeletion(t *testing.T) {
	s := open(t)
	a, b := s.put("acme", "same", CreateFile{}), s.put("acme", "same", CreateFile{})
	ok(t, s.kv.Purge(t.Context(), a.key()))
	s.forward(time.Hour) // the count is old
	s.sweep()
	s.forward(-time.Hour) // the doubt is young
	s.sweep()
	ok(t, s.release(t.Context(), s.kv, a.Digest))
	if r, err := s.Open(t.Context(), b); err != nil {
		t.Error("a file lost its bytes")
	} else {
		_ = r.Close()
	}
}

// The record's bytes are a promise to other versions.
func TestGolden(t *testing.T) {
	f := File{V, "file-01k0000000000000000000000a", "acme", "in.jsonl", 12, "batch", 1700000000, 1702592000, strings.Repeat("ab", 32), Processed}
	path := filepath.Join("testdata", "file.json")
	want, err := os.ReadFile(path)
	ok(t, err)
	if got := encode(f); !bytes.Equal(got, bytes.TrimSpace(want)) {
		t.Errorf("%s: got %s", path, got)
	}
	var back File
	if ok(t, json.Unmarshal(want, &back)); back != f {
		t.Errorf("read back: %+v", back)
	}
}

// An upload whose client goes in the middle leaves nothing.
func TestHungUp(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() { _, _ = w.Write([]byte("half")); cancel(); _ = w.CloseWithError(io.ErrUnexpectedEOF) }()
	_, err := s.Create(ctx, "acme", r, 0, func() (CreateFile, error) { return CreateFile{}, nil })
	if err == nil || s.blobsThere() != 0 {
		t.Errorf("%v, %d blobs", err, s.blobsThere())
	}
}
