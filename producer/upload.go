package producer

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"lorry/batch"
)

const (
	// formOverhead is what a form may hold beside its file.
	formOverhead = 1 << 20
	maxField     = 1 << 10
	maxParts     = 32
	maxFilename  = 255
	// tenantUploads bounds a tenant's uploads at one producer at the same moment; past it clients get 429.
	tenantUploads = 32
	// uploadIdle is how long an upload may bring no byte at all.
	uploadIdle = time.Minute
	// drainBytes and drainTime bound what is still read of an upload that was refused: a client that is still writing may
	// otherwise see a broken connection instead of the answer.
	drainBytes, drainTime = 64 << 20, 2 * time.Second

	minExpiry, maxExpiry = 3600, 2592000
)

// Fields of the form.
const (
	fieldFile    = "file"
	fieldPurpose = "purpose"
	fieldAnchor  = "expires_after[anchor]"
	fieldSeconds = "expires_after[seconds]"
)

// uploadBody is a body of bounded size and bounded silence, that remembers how it failed.
type uploadBody struct {
	r       io.Reader
	control *http.ResponseController
	failed  error // nil at its end
	ended   bool
	over    atomic.Bool
}

func newUploadBody(w http.ResponseWriter, r *http.Request) *uploadBody {
	return &uploadBody{r: http.MaxBytesReader(w, r.Body, batch.MaxFile+formOverhead), control: http.NewResponseController(w)}
}

func (b *uploadBody) Read(p []byte) (int, error) {
	if b.failed != nil {
		return 0, b.failed
	}
	_ = b.control.SetReadDeadline(time.Now().Add(uploadIdle))
	if b.over.Load() { // behind the deadline: cut sets both the other way round
		b.failed = os.ErrDeadlineExceeded
		return 0, b.failed
	}
	n, err := b.r.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.ended = true
		// Behind the body, net/http watches for the client's leaving by a read that must have no deadline.
		_ = b.control.SetReadDeadline(time.Time{})
	case err != nil:
		b.failed = err
	}
	return n, err
}

// cut ends a read that waits.
func (b *uploadBody) cut() {
	b.over.Store(true)
	_ = b.control.SetReadDeadline(time.Now())
}

// refused bounds what net/http reads of the body before it answers: a client that stands still must not hold that up.
func (b *uploadBody) refused() {
	if !b.ended {
		_ = b.control.SetReadDeadline(time.Now().Add(drainTime))
	}
}

// drain reads on for a little while.
func (b *uploadBody) drain() {
	b.refused()
	_, _ = io.CopyN(io.Discard, b.r, drainBytes)
}

// fault is why the body could not be read to its end.
func (b *uploadBody) fault() error {
	if _, ok := errors.AsType[*http.MaxBytesError](b.failed); ok {
		return (&upload{}).tooLarge()
	}
	if errors.Is(b.failed, os.ErrDeadlineExceeded) {
		return &apiError{Status: http.StatusRequestTimeout, Type: typeInvalid, Code: "request_timeout", Message: "The upload stood still for too long, or the server shuts down. Nothing was kept: send it again."}
	}
	return refuse(codeValue, "", "The upload ended before its end. Nothing was kept.")
}

// upload is a form with one file, whose parts are read in the order in which they come.
type upload struct {
	form     *multipart.Reader
	parts    int
	fields   map[string]string
	filename string
	// malformed forms can't be read on.
	malformed bool
}

// uploads counts a tenant's uploads under way: each holds a connection, and up to 4 MiB of memory before an object store.
type uploads struct {
	mu sync.Mutex
	n  map[string]int
}

// beginUpload has a drain wait for a tenant's upload. leave ends that.
func (s *Server) beginUpload(w http.ResponseWriter, tenant string) (leave func(), err error) {
	if !s.hold() {
		return nil, draining(w)
	}
	out, err := s.uploads.enter(tenant)
	if err != nil {
		s.release()
		return nil, err
	}
	return func() { out(); s.release() }, nil
}

// enter takes a place. leave gives it back.
func (u *uploads) enter(tenant string) (leave func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n[tenant] >= tenantUploads {
		return nil, &apiError{Status: http.StatusTooManyRequests, Type: typeRateLimit, Code: codeRate, RetryAfter: 2 * time.Second,
			Message: fmt.Sprintf("%d uploads of this tenant are under way. Try again when one has ended.", tenantUploads)}
	}
	if u.n == nil {
		u.n = map[string]int{}
	}
	u.n[tenant]++
	return func() { u.leave(tenant) }, nil
}

func (u *uploads) leave(tenant string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n[tenant]--; u.n[tenant] == 0 {
		delete(u.n, tenant)
	}
}

// uploadForm begins to read a request's form.
func uploadForm(r *http.Request, body io.Reader) (*upload, error) {
	t, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || t != "multipart/form-data" || params["boundary"] == "" {
		return nil, &apiError{Status: http.StatusUnsupportedMediaType, Type: typeInvalid, Code: "unsupported_media_type",
			Message: "The request's Content-Type must be multipart/form-data, with a boundary."}
	}
	return &upload{form: multipart.NewReader(body, params["boundary"]), fields: map[string]string{}}, nil
}

// keeper streams at most max bytes of a part somewhere, and asks what the file is at the part's end.
type keeper func(part io.Reader, max int64, describe func() (batch.CreateFile, error)) error

// read walks over the form and gives its file to keep. What can be refused before the file's bytes are read is.
func (u *upload) read(keep keeper) error {
	part, err := u.next()
	if err != nil {
		return err
	}
	if part == nil {
		return missing(fieldFile)
	}
	if err := u.setFilename(part); err != nil {
		return err
	}
	if _, known := u.fields[fieldPurpose]; known {
		if err := u.checkPurpose(); err != nil {
			return err
		}
	}
	return keep(u.watch(part), u.max(), u.describe)
}

// watch is a part that says when the form ends within it.
func (u *upload) watch(part io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := part.Read(p)
		u.malformed = u.malformed || err != nil && !errors.Is(err, io.EOF)
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// describe reads the rest of the form, and says what the file is.
func (u *upload) describe() (batch.CreateFile, error) {
	part, err := u.next()
	if err != nil {
		return batch.CreateFile{}, err
	}
	if part != nil {
		return batch.CreateFile{}, refuse(codeValue, fieldFile, "Duplicate parameter: 'file' is given twice.")
	}
	if err := u.checkPurpose(); err != nil {
		return batch.CreateFile{}, err
	}
	after, err := u.expiry()
	return batch.CreateFile{Filename: u.filename, Purpose: u.fields[fieldPurpose], ExpiresAfter: after, MaxBytes: u.max()}, err
}

// next takes fields until there is a file; nil is the form's end.
func (u *upload) next() (*multipart.Part, error) {
	for {
		// Raw: a part's bytes are kept as they are, whatever it says of their encoding.
		part, err := u.form.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			u.malformed = true
			return nil, err
		}
		if u.parts++; u.parts > maxParts {
			return nil, refuse(codeValue, "", "The form has more than %d parts.", maxParts)
		}
		if part.FormName() == fieldFile {
			return part, nil
		}
		if err := u.field(part); err != nil {
			return nil, err
		}
	}
}

func (u *upload) field(part *multipart.Part) error {
	name := part.FormName()
	switch name {
	case fieldPurpose, fieldAnchor, fieldSeconds:
	default:
		return refuse(codeUnknown, clip(name), "Unrecognized request argument supplied: %s", clip(name))
	}
	b, err := io.ReadAll(io.LimitReader(part, maxField+1))
	if err != nil {
		u.malformed = true
		return err
	}
	if _, twice := u.fields[name]; twice {
		return refuse(codeValue, name, "Duplicate parameter: '%s' is given twice.", name)
	}
	if len(b) > maxField || !utf8.Valid(b) {
		return refuse(codeValue, name, "Invalid '%s': it is too long, or no text.", name)
	}
	u.fields[name] = string(b)
	return nil
}

// setFilename takes the name that the client's side gave, without its folders.
func (u *upload) setFilename(part *multipart.Part) error {
	u.filename = part.FileName()
	switch {
	case u.filename == "":
		return refuse(codeType, fieldFile, "Invalid type for 'file': expected a file with a filename, but got a plain field instead.")
	case len(u.filename) > maxFilename || !utf8.ValidString(u.filename) || strings.ContainsFunc(u.filename, unicode.IsControl):
		return refuse(codeValue, fieldFile, "Invalid 'file': its filename is longer than %d bytes, or holds characters that no name should.", maxFilename)
	}
	return nil
}

func (u *upload) checkPurpose() error {
	purpose := u.fields[fieldPurpose]
	if purpose == "" {
		return missing(fieldPurpose)
	}
	if err := oneOf(fieldPurpose, purpose, batch.Purposes); err != nil {
		return err
	}
	if purpose == batch.PurposeBatch && !strings.EqualFold(path.Ext(u.filename), ".jsonl") {
		return &apiError{Status: http.StatusBadRequest, Type: typeInvalid, Message: "Invalid file format for Batch API. Must be .jsonl"}
	}
	return nil
}

// max is how many bytes a file of this purpose may have, as far as it is known.
func (u *upload) max() int64 {
	if u.fields[fieldPurpose] == batch.PurposeBatch {
		return batch.MaxBatchFile
	}
	return batch.MaxFile
}

func (u *upload) tooLarge() *apiError {
	e := &apiError{Status: http.StatusRequestEntityTooLarge, Type: typeInvalid, Code: codeTooLarge, Param: fieldFile,
		Message: "The file is over the limit of " + size(u.max()) + "."}
	if u.max() == batch.MaxBatchFile {
		e.Message = "The file is over the limit of " + size(u.max()) + " for purpose 'batch'. Split it into several batches."
	}
	return e
}

// expiry is the time after which the file goes; 0 leaves it to its purpose.
func (u *upload) expiry() (time.Duration, error) {
	anchor, anchored := u.fields[fieldAnchor]
	seconds, given := u.fields[fieldSeconds]
	switch {
	case !anchored && !given:
		return 0, nil
	case !anchored:
		return 0, missing(fieldAnchor)
	case !given:
		return 0, missing(fieldSeconds)
	}
	if err := oneOf(fieldAnchor, anchor, []string{"created_at"}); err != nil {
		return 0, err
	}
	n, err := wholeNumber(fieldSeconds, seconds, minExpiry, maxExpiry)
	return time.Duration(n) * time.Second, err
}

func missing(param string) *apiError {
	return refuse(codeMissing, param, "Missing required parameter: '%s'.", param)
}
