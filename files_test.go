package main

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// file is what the API says of one.
type file struct {
	ID, Filename, Status string
	Bytes                int
}

// upload sends a file.
func (b *box) upload(name, text string) (f file) {
	b.t.Helper()
	var body bytes.Buffer
	m := multipart.NewWriter(&body)
	w, err := m.CreateFormFile("file", name)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err := firstOf(err, m.WriteField("purpose", "batch"), m.Close()); err != nil {
		b.t.Fatal(err)
	}
	resp, err := http.Post(b.url()+"/v1/files", m.FormDataContentType(), &body)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil || resp.StatusCode != 200 {
		b.t.Fatalf("upload: %d, %v", resp.StatusCode, err)
	}
	return f
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *box) content(id string) string {
	b.t.Helper()
	resp, err := http.Get(b.url() + "/v1/files/" + id + "/content")
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// An uploaded file is there after the box was killed, wherever its bytes are.
func TestFilesLast(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"folder", "jetstream"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			b := start(t, data, []string{"LORRY_BLOBS=" + where}, "up").ready()
			f := b.upload("in.jsonl", "{}\n")
			if f.Filename != "in.jsonl" || f.Bytes != 3 || f.Status != "processed" {
				t.Errorf("got %+v", f)
			}
			if _, err := os.Stat(filepath.Join(data, "blobs")); (err == nil) != (where == "folder") {
				t.Errorf("its bytes are elsewhere: %v", err)
			}
			b.signal(syscall.SIGKILL)
			b.exit()
			b = start(t, data, []string{"LORRY_BLOBS=" + where}, "up").ready()
			if got := b.content(f.ID); got != "{}\n" {
				t.Errorf("got %q", got)
			}
		})
	}
}
