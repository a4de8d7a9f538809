package producer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"lorry/access"
	"lorry/batch"
	"lorry/blob"
)

// shelve gives a road files in a folder.
func shelve(t *testing.T) (*road, *blob.Dir) {
	t.Helper()
	r := setup(t, Config{})
	blobs, err := blob.OpenDir(blob.DirConfig{Dir: t.TempDir(), MinFree: 1})
	ok(t, err)
	t.Cleanup(func() { _ = blobs.Close() })
	r.shelve(blobs)
	return r, blobs
}

func (r *road) shelve(blobs blob.Store) {
	files := batch.NewFiles(batch.FilesConfig{JS: r.queue.JS(), Blobs: blobs, Log: zerolog.Nop()})
	ok(r.t, files.Setup(r.t.Context()))
	r.batches = batch.NewBatches(batch.BatchesConfig{Queue: r.queue, Results: r.store, Files: files, Log: zerolog.Nop()})
	ok(r.t, r.batches.Setup(r.t.Context()))
	r.serve(Config{Files: files, Batches: r.batches})
}

const formType = "multipart/form-data; boundary=border"

// form is a body of parts: a file's has its filename behind the field's name.
func form(parts ...[3]string) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "--border\r\nContent-Disposition: form-data; name=%q", p[0])
		if p[1] != "" {
			fmt.Fprintf(&b, "; filename=\"%s\"", p[1])
		}
		fmt.Fprintf(&b, "\r\n\r\n%s\r\n", p[2])
	}
	return b.String() + "--border--\r\n"
}

var (
	lines   = [3]string{"file", "in.jsonl", "{\"a\":1}\n"}
	forB    = [3]string{"purpose", "", "batch"}
	forUser = [3]string{"purpose", "", "user_data"}
	anchor  = [3]string{"expires_after[anchor]", "", "created_at"}
	hour    = [3]string{"expires_after[seconds]", "", "3600"}
)

func (r *road) upload(parts ...[3]string) answer {
	r.t.Helper()
	return r.post("/v1/files", form(parts...), "Content-Type: "+formType)
}

func count(t *testing.T, blobs blob.Store) (n int) {
	t.Helper()
	for _, err := range blobs.List(t.Context()) {
		ok(t, err)
		n++
	}
	return n
}

func TestFileObject(t *testing.T) {
	r, blobs := shelve(t)
	cases := map[string]struct {
		parts  [][3]string
		expiry float64 // 0: never
	}{
		"purpose first":         {[][3]string{forB, lines}, 30 * 24 * 3600},
		"file first":            {[][3]string{lines, forB}, 30 * 24 * 3600},
		"expiry around it":      {[][3]string{hour, lines, anchor, forB}, 3600},
		"others stay":           {[][3]string{lines, forUser}, 0},
		"others may go as well": {[][3]string{anchor, hour, forUser, lines}, 3600},
		"upper case":            {[][3]string{{"file", "IN.JSONL", lines[2]}, forB}, 30 * 24 * 3600},
		"folders are dropped":   {[][3]string{forB, {"file", "../../in.jsonl", lines[2]}}, 30 * 24 * 3600},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := r.upload(tc.parts...).want(t, 200)
			id, _ := f["id"].(string)
			if !strings.HasPrefix(id, "file-") || f["object"] != "file" || f["bytes"] != 8.0 || !strings.EqualFold(f["filename"].(string), "in.jsonl") || f["status"] != "processed" {
				t.Errorf("got %v", f)
			}
			created, _ := f["created_at"].(float64)
			expires, _ := f["expires_at"].(float64)
			if tc.expiry == 0 && f["expires_at"] != nil || tc.expiry > 0 && expires-created != tc.expiry {
				t.Errorf("expires: %v", f)
			}
			if got := r.do("GET", "/v1/files/"+id, "").want(t, 200); fmt.Sprint(got) != fmt.Sprint(f) {
				t.Errorf("got %v, want %v", got, f)
			}
			if c := r.do("GET", "/v1/files/"+id+"/content", ""); c.status != 200 || string(c.body) != lines[2] {
				t.Errorf("content: %d %s", c.status, c.body)
			}
			gone := r.do("DELETE", "/v1/files/"+id, "").want(t, 200)
			if gone["id"] != id || gone["object"] != "file" || gone["deleted"] != true {
				t.Errorf("deleted: %v", gone)
			}
			r.do("GET", "/v1/files/"+id, "").refused(t, 404, "")
			r.do("GET", "/v1/files/"+id+"/content", "").refused(t, 404, "")
			r.do("DELETE", "/v1/files/"+id, "").refused(t, 404, "")
		})
	}
	if n := count(t, blobs); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
}

func TestUploadRefused(t *testing.T) {
	r, blobs := shelve(t)
	file := func(name string) [3]string { return [3]string{"file", name, "x"} }
	seconds := func(s string) [3]string { return [3]string{"expires_after[seconds]", "", s} }
	cases := map[string]struct {
		parts   [][3]string
		code    string
		message string
	}{
		"nothing":            {nil, "missing_required_parameter", "Missing required parameter: 'file'."},
		"no file":            {[][3]string{forB}, "missing_required_parameter", "Missing required parameter: 'file'."},
		"no purpose":         {[][3]string{lines}, "missing_required_parameter", "Missing required parameter: 'purpose'."},
		"file is a field":    {[][3]string{{"file", "", "x"}, forB}, "invalid_type", "Invalid type for 'file'"},
		"two files":          {[][3]string{lines, lines, forB}, "invalid_value", "'file' is given twice"},
		"two purposes":       {[][3]string{forB, lines, forB}, "invalid_value", "'purpose' is given twice"},
		"unknown purpose":    {[][3]string{lines, {"purpose", "", "profit"}}, "invalid_value", "Invalid value: 'profit'."},
		"server's purpose":   {[][3]string{{"purpose", "", "batch_output"}, lines}, "invalid_value", "Invalid value: 'batch_output'."},
		"unknown field":      {[][3]string{lines, forB, {"color", "", "red"}}, "unknown_parameter", "supplied: color"},
		"not jsonl":          {[][3]string{forB, file("in.csv")}, "", "Invalid file format for Batch API. Must be .jsonl"},
		"not jsonl, late":    {[][3]string{file("jsonl"), forB}, "", "Invalid file format for Batch API. Must be .jsonl"},
		"anchor alone":       {[][3]string{lines, forB, anchor}, "missing_required_parameter", "'expires_after[seconds]'"},
		"seconds alone":      {[][3]string{lines, forB, hour}, "missing_required_parameter", "'expires_after[anchor]'"},
		"another anchor":     {[][3]string{lines, forB, {"expires_after[anchor]", "", "now"}, hour}, "invalid_value", "'created_at'"},
		"too soon":           {[][3]string{lines, forB, anchor, seconds("3599")}, "integer_below_min_value", "3600, but got 3599"},
		"too late":           {[][3]string{lines, forB, anchor, seconds("2592001")}, "integer_above_max_value", "2592000, but got 2592001"},
		"no number":          {[][3]string{lines, forB, anchor, seconds("1h")}, "invalid_type", "expected an integer"},
		"long field":         {[][3]string{{"purpose", "", strings.Repeat("x", 2000)}, lines}, "invalid_value", "Invalid 'purpose'"},
		"control characters": {[][3]string{forB, file("a\u0085.jsonl")}, "invalid_value", "Invalid 'file'"},
		"long name":          {[][3]string{forB, file(strings.Repeat("a", 300) + ".jsonl")}, "invalid_value", "Invalid 'file'"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := r.upload(tc.parts...)
			a.refused(t, 400, tc.code)
			if !strings.Contains(string(a.body), tc.message) {
				t.Errorf("got %s", a.body)
			}
		})
	}
	if n := count(t, blobs); n != 0 {
		t.Errorf("%d blobs were kept", n)
	}
}

func TestUploadBadBody(t *testing.T) {
	r, blobs := shelve(t)
	whole := form(forB, lines)
	cases := map[string]struct {
		ct, body, code string
		status         int
	}{
		"JSON":          {"application/json", "{}", "unsupported_media_type", 415},
		"no type":       {"", whole, "unsupported_media_type", 415},
		"no boundary":   {"multipart/form-data", whole, "unsupported_media_type", 415},
		"empty":         {formType, "", "missing_required_parameter", 400},
		"noise":         {formType, "\x00\xff", "missing_required_parameter", 400},
		"ends in file":  {formType, whole[:len(whole)-20], "invalid_value", 400},
		"ends in field": {formType, whole[:60], "invalid_value", 400},
		"many parts":    {formType, form(make([][3]string, 40)...), "unknown_parameter", 400},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r.post("/v1/files", tc.body, "Content-Type: "+tc.ct).refused(t, tc.status, tc.code)
		})
	}
	if n := count(t, blobs); n != 0 {
		t.Errorf("%d blobs were kept", n)
	}
}

// zeros is an endless file.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Sizes are refused while they come: nothing waits in memory, and nothing stays.
func TestUploadTooLarge(t *testing.T) {
	r, blobs := shelve(t)
	head := strings.TrimSuffix(form(forB, [3]string{"file", "big.jsonl", ""}), "\r\n--border--\r\n")
	cases := map[string]struct {
		head    string
		message string
	}{
		"batch": {head, "200 MiB for purpose 'batch'"},
		"other": {strings.Replace(head, "\r\nbatch\r\n", "\r\nevals\r\n", 1), "512 MiB"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if testing.Short() {
				t.Skip("it sends 700 MiB")
			}
			q, err := http.NewRequestWithContext(t.Context(), "POST", r.url+"/v1/files", io.MultiReader(strings.NewReader(tc.head), io.LimitReader(zeros{}, 600<<20)))
			ok(t, err)
			q.Header.Set("Content-Type", formType)
			res, err := http.DefaultTransport.RoundTrip(q)
			if err != nil {
				t.Skip("the client saw only that the connection ended: ", err)
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			ok(t, err)
			a := answer{res.StatusCode, res.Header, b}
			a.refused(t, 413, "request_too_large")
			if !strings.Contains(string(b), tc.message) {
				t.Errorf("got %s", b)
			}
		})
	}
	http.DefaultClient.CloseIdleConnections()
	if n := count(t, blobs); n != 0 {
		t.Errorf("%d blobs were kept", n)
	}
}

// A connection that ends half-way leaves nothing, and the server lives.
func TestUploadCutOff(t *testing.T) {
	r, blobs := shelve(t)
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	ok(t, err)
	body := form(forB, [3]string{"file", "in.jsonl", strings.Repeat("x", 200_000)})
	fmt.Fprintf(c, "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", formType, len(body), body[:100_000])
	ok(t, c.Close())
	r.upload(forB, lines).want(t, 200)
	wait(t, "the half is gone", func() bool { return r.server.held0() })
	if n := count(t, blobs); n != 1 {
		t.Errorf("%d blobs", n)
	}
}

// half begins an upload and leaves it there.
func (r *road) half() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	ok(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	_, err = fmt.Fprintf(c, "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 100000\r\n\r\n%s", formType, form(forB, lines)[:150])
	ok(r.t, err)
	return c
}

// A drain waits for uploads no longer than its grace.
func TestUploadDrained(t *testing.T) {
	r, blobs := shelve(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, r2 := r.second(Config{Files: r.server.cfg.Files, Grace: 50 * time.Millisecond}, ctx)
	c := r2.half()
	wait(t, "the upload has begun", func() bool { return !s.held0() })
	cancel()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	ok(t, err)
	defer res.Body.Close()
	if res.StatusCode != 408 || count(t, blobs) != 0 {
		t.Errorf("%s, %d blobs", res.Status, count(t, blobs))
	}
}

func TestManyUploads(t *testing.T) {
	r, _ := shelve(t)
	var cs []net.Conn
	for range tenantUploads {
		cs = append(cs, r.half())
	}
	// One that fails on a crowded machine is made good by another.
	wait(t, "so many are under way", func() bool { cs = append(cs, r.half()); return r.upload(forB, lines).status == 429 })
	r.upload(forB, lines).refused(t, 429, "rate_limit_exceeded")
	for _, c := range cs {
		ok(t, c.Close())
	}
	wait(t, "there is a place", func() bool { return r.upload(forB, lines).status == 200 })
}

// held0 says whether no request is under way.
func (s *Server) held0() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.held == 0 }

func TestRange(t *testing.T) {
	r, _ := shelve(t)
	id := r.upload(forUser, [3]string{"file", "ten.txt", "0123456789"}).want(t, 200)["id"].(string)
	etag := r.do("GET", "/v1/files/"+id+"/content", "").header.Get("ETag")
	cases := map[string]struct {
		headers []string
		status  int
		body    string
	}{
		"all":            {nil, 200, "0123456789"},
		"from the start": {[]string{"Range: bytes=0-3"}, 206, "0123"},
		"to the end":     {[]string{"Range: bytes=7-"}, 206, "789"},
		"the last":       {[]string{"Range: bytes=-2"}, 206, "89"},
		"same file":      {[]string{"Range: bytes=1-2", "If-Range: " + etag}, 206, "12"},
		"other file":     {[]string{"Range: bytes=1-2", `If-Range: "other"`}, 200, "0123456789"},
		"known":          {[]string{"If-None-Match: " + etag}, 304, ""},
	}
	for name, tc := range cases {
		if a := r.do("GET", "/v1/files/"+id+"/content", "", tc.headers...); a.status != tc.status || string(a.body) != tc.body {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	r.do("GET", "/v1/files/"+id+"/content", "", "Range: bytes=99-").refused(t, 416, "invalid_range")
}

func TestFilePages(t *testing.T) {
	r, _ := shelve(t)
	var ids []string
	for range 5 {
		ids = append(ids, r.upload(forB, lines).want(t, 200)["id"].(string))
	}
	var seen []string
	for after := ""; ; {
		p := r.do("GET", "/v1/files?limit=2&order=asc&purpose=batch&after="+after, "").want(t, 200)
		for i := range p["data"].([]any) {
			seen = append(seen, dig(p, "data", i, "id").(string))
		}
		after, _ = p["last_id"].(string)
		if p["has_more"] == false {
			break
		}
		r.upload(forUser, lines).want(t, 200) // comes in between
	}
	if fmt.Sprint(seen) != fmt.Sprint(ids) {
		t.Errorf("got %v, want %v", seen, ids)
	}
	if all := r.do("GET", "/v1/files", "").want(t, 200); len(all["data"].([]any)) != 7 || dig(all, "data", 6, "id") != ids[0] {
		t.Errorf("got %v", all)
	}
	for query, code := range map[string]string{
		"limit=0": "integer_below_min_value", "limit=10001": "integer_above_max_value", "limit=x": "invalid_type", "order=up": "invalid_value",
		"purpose=profit": "invalid_value", "after=nonsense": "invalid_value", "color=red": "unknown_parameter",
	} {
		r.do("GET", "/v1/files?"+query, "").refused(t, 400, code)
	}
}

func TestFilesAreTheTenants(t *testing.T) {
	r, blobs := shelve(t)
	key := func(tenant string) string {
		secret, _, err := r.access.CreateKey(t.Context(), access.CreateKey{Tenant: tenant})
		ok(t, err)
		wait(t, "the key works", func() bool { return r.do("GET", "/v1/files", "", "Authorization: Bearer "+secret).status == 200 })
		return "Authorization: Bearer " + secret
	}
	acme, rival := key("acme"), key("rival")
	f := r.post("/v1/files", form(forB, lines), "Content-Type: "+formType, acme).want(t, 200)
	r.post("/v1/files", form(forB, lines), "Content-Type: "+formType, rival).want(t, 200)
	if count(t, blobs) != 1 {
		t.Error("equal bytes are kept twice")
	}
	path := "/v1/files/" + f["id"].(string)
	for _, q := range [][2]string{{"GET", path}, {"GET", path + "/content"}, {"DELETE", path}} {
		r.do(q[0], q[1], "", rival).refused(t, 404, "")
	}
	if l := r.do("GET", "/v1/files", "", rival).want(t, 200); len(l["data"].([]any)) != 1 || dig(l, "data", 0, "id") == f["id"] {
		t.Errorf("listed: %v", l)
	}
	for _, q := range [][2]string{{"GET", path}, {"GET", path + "/content"}, {"DELETE", path}, {"POST", "/v1/files"}, {"GET", "/v1/files"}} {
		r.do(q[0], q[1], "").refused(t, 401, "")
	}
}

func TestNoRoom(t *testing.T) {
	r := setup(t, Config{})
	blobs, err := blob.OpenDir(blob.DirConfig{Dir: t.TempDir(), MinFree: math.MaxInt64})
	ok(t, err)
	defer blobs.Close()
	r.shelve(blobs)
	a := r.upload(forB, lines)
	a.refused(t, 507, "insufficient_storage")
	if a.header.Get("X-Should-Retry") != "false" {
		t.Error("the SDKs would try again")
	}
}

// FuzzUpload: whatever comes, it is a file that was there whole, or one of OpenAI's errors.
func FuzzUpload(f *testing.F) {
	f.Add(formType, []byte(form(forB, lines)))
	f.Add(formType, []byte(form(lines, anchor, hour, forUser)))
	f.Add(formType, []byte(form(forB, lines))[:100])
	f.Add(`multipart/form-data; boundary="a b"`, []byte("--a b\r\n\r\n--a b--"))
	f.Add(formType, []byte("--border\r\nContent-Disposition: form-data; name=\"file\"; filename*=utf-8''%e2%82%ac.jsonl\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=3D\r\n--border--"))
	f.Fuzz(func(t *testing.T, ct string, body []byte) {
		w, q := httptest.NewRecorder(), httptest.NewRequest("POST", "/v1/files", bytes.NewReader(body))
		q.Header.Set("Content-Type", ct)
		b := newUploadBody(w, q)
		u, err := uploadForm(q, b)
		var file []byte
		var wish batch.CreateFile
		if err == nil {
			err = u.read(func(part io.Reader, _ int64, describe func() (batch.CreateFile, error)) (err error) {
				if file, err = io.ReadAll(part); err == nil {
					wish, err = describe()
				}
				return err
			})
			if err != nil {
				err = b.explain(u, err)
			}
		}
		if err != nil {
			e := asAPI(err)
			if _, mine := errors.AsType[*apiError](err); !mine || e.Status < 400 || e.Status >= 500 {
				t.Fatalf("%v is %d", err, e.Status)
			}
			return
		}
		if !bytes.Contains(body, file) || wish.Purpose == "" || wish.Filename == "" {
			t.Fatalf("kept %q as %+v", file, wish)
		}
	})
}
