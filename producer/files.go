package producer

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"lorry/batch"
	"lorry/blob"
)

// fileObject is a file as OpenAI's SDKs read it.
type fileObject struct {
	ID            string  `json:"id"`
	Object        string  `json:"object"` // "file"
	Bytes         int64   `json:"bytes"`
	CreatedAt     int64   `json:"created_at"`
	ExpiresAt     *int64  `json:"expires_at"`
	Filename      string  `json:"filename"`
	Purpose       string  `json:"purpose"`
	Status        string  `json:"status"`
	StatusDetails *string `json:"status_details"`
}

func showFile(f batch.File) fileObject {
	o := fileObject{ID: f.ID, Object: "file", Bytes: f.Bytes, CreatedAt: f.CreatedAt, Filename: f.Filename, Purpose: f.Purpose, Status: f.Status}
	if f.ExpiresAt != 0 {
		o.ExpiresAt = &f.ExpiresAt
	}
	return o
}

// createFile takes an upload in. Its bytes go from the connection to the store without waiting in memory; what is cut
// off, refused or too large leaves nothing.
func (s *Server) createFile(w http.ResponseWriter, r *http.Request) (err error) {
	b := newUploadBody(w, r)
	defer func() {
		if err != nil {
			b.refused()
		}
	}()
	who, err := s.who(r)
	if err != nil {
		return err
	}
	leave, err := s.beginUpload(w, who.Tenant)
	if err != nil {
		return err
	}
	defer leave()
	defer context.AfterFunc(s.over, b.cut)()
	form, err := uploadForm(r, b)
	if err != nil {
		return err
	}
	var file batch.File
	err = form.read(func(part io.Reader, max int64, describe func() (batch.CreateFile, error)) (err error) {
		file, err = s.cfg.Files.Create(r.Context(), who.Tenant, part, max, describe)
		return err
	})
	if err != nil {
		return b.explain(form, err)
	}
	s.cfg.Log.Info().Str("file", file.ID).Str("tenant", file.Tenant).Str("purpose", file.Purpose).Int64("bytes", file.Bytes).Msg("file uploaded")
	writeJSON(w, http.StatusOK, showFile(file))
	return nil
}

// explain is what the client is told of an upload that failed. Its own faults come first: the store's error is their echo.
func (b *uploadBody) explain(form *upload, err error) error {
	if e, ok := errors.AsType[*apiError](err); ok {
		b.drain()
		return e
	}
	if b.failed != nil {
		return b.fault()
	}
	switch {
	case errors.Is(err, blob.ErrTooLarge):
		b.drain()
		return form.tooLarge()
	case errors.Is(err, blob.ErrFull):
		b.drain()
		return &apiError{Status: http.StatusInsufficientStorage, Type: typeServer, Code: "insufficient_storage", Final: true,
			Message: "There is no room left for this file. Delete files that are not needed any more, or ask the operator for a larger disk."}
	case errors.Is(err, batch.ErrBusy):
		return unavailable(codeAway, "A file with the same content is being deleted. Try again in a moment.")
	case form.malformed:
		return refuse(codeValue, "", "The request's body could not be read as multipart/form-data: it is malformed, or ends before its last boundary.")
	}
	return store(err)
}

func (s *Server) getFile(w http.ResponseWriter, r *http.Request) error {
	f, err := s.findFile(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, showFile(f))
	return nil
}

// findFile is the file that the path names, if it is the tenant's.
func (s *Server) findFile(r *http.Request) (batch.File, error) {
	who, err := s.who(r)
	if err != nil {
		return batch.File{}, err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	f, err := s.cfg.Files.Get(ctx, who.Tenant, r.PathValue("id"))
	return f, noFile(err, r.PathValue("id"))
}

func noFile(err error, id string) error {
	if errors.Is(err, batch.ErrNotFound) {
		return &apiError{Status: http.StatusNotFound, Type: typeInvalid, Param: "id", Message: "No such File object: " + clip(id)}
	}
	return store(err)
}

func (s *Server) deleteFile(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	id := r.PathValue("id")
	if err := s.cfg.Files.Delete(ctx, who.Tenant, id); err != nil {
		return noFile(err, id)
	}
	s.cfg.Log.Info().Str("file", id).Str("tenant", who.Tenant).Msg("file deleted")
	writeJSON(w, http.StatusOK, map[string]any{"id": id, "object": "file", "deleted": true})
	return nil
}

// fileContent is a file's bytes, or the ranges of them that are asked for.
func (s *Server) fileContent(w http.ResponseWriter, r *http.Request) error {
	f, err := s.findFile(r)
	if err != nil {
		return err
	}
	body, err := s.cfg.Files.Open(r.Context(), f)
	if err != nil {
		return noFile(err, f.ID)
	}
	defer body.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff") // somebody's bytes are no page of ours
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": f.Filename}))
	h.Set("ETag", `"`+f.Digest+`"`)
	http.ServeContent(&content{ResponseWriter: w}, r, "", time.Unix(f.CreatedAt, 0), body)
	return nil
}

// content turns ServeContent's text about a range that cannot be into an error of ours.
type content struct {
	http.ResponseWriter
	refused bool
}

func (c *content) WriteHeader(status int) {
	if status != http.StatusRequestedRangeNotSatisfiable {
		c.ResponseWriter.WriteHeader(status)
		return
	}
	c.refused = true
	c.Header().Del("Content-Disposition")
	(&apiError{Status: status, Type: typeInvalid, Code: "invalid_range", Message: "The requested range is not within the file."}).write(c.ResponseWriter)
}

func (c *content) Write(b []byte) (int, error) {
	if c.refused {
		return len(b), nil
	}
	return c.ResponseWriter.Write(b)
}

// maxFileLimit is the largest page of files, and the default.
const maxFileLimit = 10000

// listFiles shows the tenant's files, the newest first unless asked otherwise.
func (s *Server) listFiles(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	q, err := readFileFilter(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	fs, more, err := s.cfg.Files.List(ctx, who.Tenant, q)
	if errors.Is(err, batch.ErrNotFound) {
		return refuse(codeValue, "after", "Invalid 'after': no such File object: %s", clip(q.After))
	}
	if err != nil {
		return store(err)
	}
	writeJSON(w, http.StatusOK, pageOf(fs, more, func(f *batch.File) any { return showFile(*f) }, func(f *batch.File) string { return f.ID }))
	return nil
}

func readFileFilter(r *http.Request) (f batch.FileFilter, err error) {
	q := r.URL.Query()
	if err := onlyQuery(q, "after", "limit", "order", "purpose"); err != nil {
		return f, err
	}
	f = batch.FileFilter{After: q.Get("after"), Limit: maxFileLimit, Purpose: q.Get("purpose"), Ascending: q.Get("order") == "asc"}
	if f.Purpose != "" {
		if err := oneOf("purpose", f.Purpose, batch.AllPurposes); err != nil {
			return f, err
		}
	}
	if order := q.Get("order"); order != "" {
		if err := oneOf("order", order, []string{"asc", "desc"}); err != nil {
			return f, err
		}
	}
	if q.Has("limit") {
		f.Limit, err = wholeNumber("limit", q.Get("limit"), 1, maxFileLimit)
	}
	return f, err
}

// oneOf refuses a value that is none of those there are.
func oneOf(param, value string, of []string) error {
	if slices.Contains(of, value) {
		return nil
	}
	return refuse(codeValue, param, "Invalid value: '%s'. Supported values are: '%s'.", clip(value), strings.Join(of, "', '"))
}
