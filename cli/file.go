package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// File is OpenAI's file object, as far as people read it.
type File struct {
	ID        string `json:"id"`
	Filename  string `json:"filename"`
	Purpose   string `json:"purpose"`
	Bytes     int64  `json:"bytes"`
	CreatedAt int64  `json:"created_at"`
	ExpiresAt int64  `json:"expires_at"`
}

func newFile(bind Bind) *cobra.Command {
	c := &cobra.Command{Use: "file", Short: "Upload files, and look at those that are there",
		Example: `  lorry file upload night.jsonl
  lorry file list
  lorry file download file-01kb2c… -O answers.jsonl`}
	c.AddCommand(newFileUpload(bind), newFileList(bind), newFileGet(bind), newFileDownload(bind), newFileDelete(bind))
	return c
}

// uploading is what the flags of file upload say.
type uploading struct {
	purpose, name, format string
	expires               time.Duration
	quiet                 bool
}

func newFileUpload(bind Bind) *cobra.Command {
	var u uploading
	c := &cobra.Command{Use: "upload FILE...", Short: "Upload files, and print their IDs", Args: cobra.MinimumNArgs(1),
		Long: `Upload files and print their IDs. A file for a batch (the usual purpose) is named *.jsonl and has a request on each line:

  {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
   "body": {"model": "smollm2", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}}

It may have 200 MiB and 50,000 lines, others 512 MiB. Nothing is kept of an upload that is cut off.`,
		Example: `  lorry file upload night.jsonl
  lorry batch create $(lorry file upload night.jsonl)
  zcat night.jsonl.gz | lorry file upload - --name night.jsonl --expires-after 48h`}
	target := bind(c)
	f := c.Flags()
	f.StringVar(&u.purpose, "purpose", "batch", "batch, fine-tune, assistants, vision, user_data or evals")
	f.StringVar(&u.name, "name", "", "name to keep it under; empty: the file's own")
	f.DurationVar(&u.expires, "expires-after", 0, "when it goes, 1h to 720h; 0: 30 days for batches, never for others")
	f.BoolVarP(&u.quiet, "quiet", "q", false, "no progress")
	OutputFlag(c, &u.format)
	c.RunE = func(c *cobra.Command, args []string) error {
		if u.name != "" && len(args) > 1 {
			return usagef("--name is for one file")
		}
		return withClient(c, target, func(ctx context.Context, cl *Client) error { return u.all(ctx, cl, c, args) })
	}
	return c
}

func (u *uploading) all(ctx context.Context, cl *Client, c *cobra.Command, paths []string) error {
	for _, path := range paths {
		raw, err := u.file(ctx, cl, path, c.InOrStdin(), c.ErrOrStderr())
		if err != nil {
			return err
		}
		if err := printID(c.OutOrStdout(), u.format, raw); err != nil {
			return err
		}
	}
	return nil
}

// printID prints an object's ID, or the object.
func printID(w io.Writer, format string, raw json.RawMessage) error {
	return show(w, format, raw, func(w io.Writer, o struct{ ID string }) error {
		_, err := fmt.Fprintln(w, o.ID)
		return err
	})
}

// file uploads one, - being standard input. What the server refuses for now is sent again, if it can be read again.
func (u *uploading) file(ctx context.Context, cl *Client, path string, in io.Reader, errs io.Writer) (raw json.RawMessage, err error) {
	for n := 1; ; n++ {
		src, size, err := u.open(path, in)
		if err != nil {
			return nil, err
		}
		b := newBytesBar(errs, u.filename(path), size, u.quiet)
		err = cl.upload(ctx, u.fields(), u.filename(path), b.reader(src), &raw)
		b.finish()
		_ = src.Close()
		if err == nil || path == "-" {
			return raw, err
		}
		if err := cl.again(ctx, err, n); err != nil {
			return nil, err
		}
	}
}

func (u *uploading) open(path string, in io.Reader) (io.ReadCloser, int64, error) {
	if path == "-" {
		if u.name == "" {
			return nil, 0, usagef("standard input has no name: give one with --name, as --name night.jsonl")
		}
		return io.NopCloser(in), 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, usagef("upload: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a folder", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, usagef("upload: %w", err)
	}
	return f, info.Size(), nil
}

func (u *uploading) filename(path string) string {
	if u.name != "" {
		return u.name
	}
	return filepath.Base(path)
}

func (u *uploading) fields() map[string]string {
	f := map[string]string{"purpose": u.purpose}
	if u.expires != 0 {
		f["expires_after[anchor]"] = "created_at"
		f["expires_after[seconds]"] = strconv.FormatInt(int64(u.expires/time.Second), 10)
	}
	return f
}

// upload streams a form: its fields, then the file, whose bytes are never whole in memory.
func (c *Client) upload(ctx context.Context, fields map[string]string, name string, file io.Reader, out any) error {
	r, w := io.Pipe()
	defer r.Close() // ends the writer, whatever the server said
	form := multipart.NewWriter(w)
	go func() { w.CloseWithError(writeForm(form, fields, name, file)) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.target.URL+"/v1/files", r)
	if err != nil {
		return fmt.Errorf("url %q: %w", c.target.URL, err)
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	resp, err := c.exchange(ctx, req)
	if err != nil {
		return err
	}
	return c.read(resp, out)
}

func writeForm(form *multipart.Writer, fields map[string]string, name string, file io.Reader) error {
	for k, v := range fields {
		if err := form.WriteField(k, v); err != nil {
			return err
		}
	}
	part, err := form.CreateFormFile("file", name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(part, file); err != nil {
		return err
	}
	return form.Close()
}

func newFileList(bind Bind) *cobra.Command {
	var format, purpose, after string
	var limit int
	c := &cobra.Command{Use: "list", Short: "List files, newest first", Args: cobra.NoArgs,
		Example: `  lorry file list --purpose batch_output
  lorry file list --limit 1000 -o json | jq -r .data[].id`}
	target := bind(c)
	c.Flags().IntVar(&limit, "limit", 20, "how many, 1 to 10000")
	c.Flags().StringVar(&purpose, "purpose", "", "only those of this purpose, as batch or batch_output")
	c.Flags().StringVar(&after, "after", "", "the next ones after this file's ID")
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		q := url.Values{"limit": {strconv.Itoa(limit)}}
		for name, value := range map[string]string{"purpose": purpose, "after": after} {
			if value != "" {
				q.Set(name, value)
			}
		}
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			return showPage(ctx, cl, "/v1/files?"+q.Encode(), c.OutOrStdout(), format, "lorry file list", "ID\tPURPOSE\tBYTES\tCREATED\tEXPIRES\tNAME", fileCells)
		})
	}
	return c
}

func fileCells(f File) []any {
	return []any{f.ID, f.Purpose, f.Bytes, Stamp(f.CreatedAt), Stamp(f.ExpiresAt), f.Filename}
}

func newFileGet(bind Bind) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "get ID", Short: "Show what is known of a file", Args: cobra.ExactArgs(1),
		Example: `  lorry file get file-01kb2c…`}
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return eachID(c, target, args, http.MethodGet, filePath, func(w io.Writer, raw json.RawMessage) error { return show(w, format, raw, printFile) })
	}
	return c
}

func filePath(id string) string { return "/v1/files/" + url.PathEscape(id) }

func printFile(w io.Writer, f File) error {
	return printRows(w, [][2]string{{"id", f.ID}, {"name", f.Filename}, {"purpose", f.Purpose}, {"bytes", strconv.FormatInt(f.Bytes, 10)},
		{"created", Stamp(f.CreatedAt)}, {"expires", Stamp(f.ExpiresAt)}})
}

func newFileDownload(bind Bind) *cobra.Command {
	var out string
	var quiet bool
	c := &cobra.Command{Use: "download ID", Short: "Write a file's content to standard output, or to a file", Args: cobra.ExactArgs(1),
		Long: `Write a file's content to standard output, or with -O to a file, which appears when it is whole.`,
		Example: `  lorry file download file-01kb2c… | jq -r .response.body.choices[0].message.content
  lorry file download file-01kb2c… -O answers.jsonl`}
	target := bind(c)
	c.Flags().StringVarP(&out, "out", "O", "", "file for the content instead of standard output")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	c.RunE = func(c *cobra.Command, args []string) error {
		return withClient(c, target, func(ctx context.Context, cl *Client) error {
			return wholeFile(out, c.OutOrStdout(), func(w io.Writer) error {
				if out == "" {
					quiet = true // the bar and the content would share the screen
				}
				return cl.download(ctx, args[0], w, c.ErrOrStderr(), quiet)
			})
		})
	}
	return c
}

// wholeFile writes to a file that appears under its name when all is written, or to otherwise if it has no name.
func wholeFile(name string, otherwise io.Writer, write func(io.Writer) error) error {
	if name == "" {
		return write(otherwise)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return usagef("output: %w", err)
	}
	defer os.Remove(f.Name())
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// download streams a file's content.
func (c *Client) download(ctx context.Context, id string, w, errs io.Writer, quiet bool) error {
	resp, err := c.send(ctx, http.MethodGet, filePath(id)+"/content", nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b := newBytesBar(errs, id, resp.ContentLength, quiet)
	defer b.finish()
	if _, err := io.Copy(w, b.reader(resp.Body)); err != nil {
		return fmt.Errorf("download %s: %w", id, err)
	}
	return nil
}

func newFileDelete(bind Bind) *cobra.Command {
	var format string
	c := &cobra.Command{Use: "delete ID...", Short: "Delete files; batches that run on them go on", Args: cobra.MinimumNArgs(1),
		Example: `  lorry file delete file-01kb2c…`}
	target := bind(c)
	OutputFlag(c, &format)
	c.RunE = func(c *cobra.Command, args []string) error {
		return eachID(c, target, args, http.MethodDelete, filePath, func(w io.Writer, raw json.RawMessage) error { return printID(w, format, raw) })
	}
	return c
}
