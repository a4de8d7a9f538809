package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// modelCommand runs a command below model.
func modelCommand(t *testing.T, cl *Client, args ...string) (string, error) {
	t.Helper()
	c := &cobra.Command{Use: "model", SilenceUsage: true, SilenceErrors: true}
	c.AddCommand(ModelCommands(func(*cobra.Command) func() (Target, error) { return func() (Target, error) { return cl.target, nil } })...)
	var out bytes.Buffer
	c.SetArgs(args)
	c.SetOut(&out)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestModelPush(t *testing.T) {
	file := filepath.Join(t.TempDir(), "poet.gguf")
	if err := os.WriteFile(file, []byte("weights"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got string
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = fmt.Sprint(r.Method, " ", r.URL, " ", r.Header.Get("Authorization"), " ", string(b))
		if r.URL.Query().Get("base") == "gpt" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":{"message":"no gpt here"}}`)
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":"poet","object":"model","lorry":{"pushed":true,"size":1572864,"format":"q4_0"}}`)
	})
	out, err := modelCommand(t, cl, "push", "poet", "--adapter", file, "--base", "smollm2")
	if want := "POST /lorry/v1/models?base=smollm2&name=poet Bearer k weights"; err != nil || got != want || !strings.Contains(out, "poet is registered") {
		t.Errorf("sent %q, said %q, %v", got, out, err)
	}
	out, err = modelCommand(t, cl, "push", "my:2", "--file", file, "--quantize", "q4_0", "--requantize")
	if want := "POST /lorry/v1/models?name=my%3A2&quantize=q4_0&requantize=true Bearer k weights"; err != nil || got != want || !strings.Contains(out, "(q4_0, 1.5MiB)") {
		t.Errorf("sent %q, said %q, %v", got, out, err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nothing":          {[]string{"push", "poet"}, "name a model's file"},
		"both":             {[]string{"push", "poet", "--file", file, "--adapter", file, "--base", "m"}, "give either"},
		"a base of a base": {[]string{"push", "poet", "--file", file, "--base", "m"}, "give either"},
		"a small adapter":  {[]string{"push", "poet", "--adapter", file, "--base", "m", "--quantize", "q4_0"}, "not for adapters"},
		"again, what":      {[]string{"push", "poet", "--file", file, "--requantize"}, "nothing without --quantize"},
		"a folder":         {[]string{"push", "poet", "--file", filepath.Dir(file)}, "is no file"},
		"no such base":     {[]string{"push", "poet", "--adapter", file, "--base", "gpt"}, "no gpt here"},
		"no file":          {[]string{"push", "poet", "--adapter", file + "x", "--base", "smollm2"}, "no such file"},
		"no base":          {[]string{"push", "poet", "--adapter", file}, "--base is needed"},
	} {
		if _, err := modelCommand(t, cl, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if out, err := modelCommand(t, cl, "list"); err != nil || !strings.Contains(out, "\nm ") {
		t.Errorf("list: %q, %v", out, err)
	}
}

// TestPushBreaks: a connection that ends half-way is told as such, and that nothing came of it.
func TestPushBreaks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "poet.gguf")
	if err := os.WriteFile(file, make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			panic(http.ErrAbortHandler)
		}
	})
	_, err := modelCommand(t, cl, "push", "my", "--file", file)
	if err == nil || !regexp.MustCompile(`broke off after [1-9]\d* of 33554432 bytes: .+ push it again`).MatchString(err.Error()) {
		t.Errorf("got %v", err)
	}
}

func TestModelDelete(t *testing.T) {
	var got []string
	cl := server(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.Path)
		if r.URL.Path == "/v1/models/held" {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"error":{"message":"adapters stand on it: poet"}}`)
			return
		}
		fmt.Fprintf(w, `{"id":%q,"object":"model","deleted":true}`, strings.TrimPrefix(r.URL.Path, "/v1/models/"))
	})
	out, err := modelCommand(t, cl, "delete", "org/my:2", "poet")
	if err != nil || !slices.Equal(got, []string{"DELETE /v1/models/org/my:2", "DELETE /v1/models/poet"}) || !strings.Contains(out, "org/my:2") {
		t.Errorf("sent %q, said %q, %v", got, out, err)
	}
	if _, err := modelCommand(t, cl, "remove", "held"); err == nil || !strings.Contains(err.Error(), "stand on it: poet") {
		t.Errorf("got %v", err)
	}
}

func TestModelRow(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		m                   Model
		kind, context, size string
	}{
		"a worker's own": {Model{Context: 8192}, "file", "8192", "-"},
		"pushed":         {Model{Lorry: Weights{Pushed: true, Size: 3 << 30}}, "pushed", "-", "3.0GiB"},
		"an adapter":     {Model{Context: 64, Lorry: Weights{Pushed: true, Adapter: digest, Size: 512}}, "adapter", "64", "512.0b"},
	} {
		if kind, context, size := c.m.kind(), cells(c.m.Context), c.m.Lorry.size(); kind != c.kind || context != c.context || size != c.size {
			t.Errorf("%s: it is shown as %s, %s, %s", name, kind, context, size)
		}
	}
	if got := short(digest); got != "abababababab" {
		t.Errorf("a digest is shown as %s", got)
	}
}
