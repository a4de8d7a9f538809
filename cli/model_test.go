package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
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
		fmt.Fprint(w, `{"id":"poet","object":"model"}`)
	})
	out, err := modelCommand(t, cl, "push", "poet", "--adapter", file, "--base", "smollm2")
	if want := "POST /lorry/v1/models?base=smollm2&name=poet Bearer k weights"; err != nil || got != want || !strings.Contains(out, "poet is served") {
		t.Errorf("sent %q, said %q, %v", got, out, err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no such base": {[]string{"push", "poet", "--adapter", file, "--base", "gpt"}, "no gpt here"},
		"no file":      {[]string{"push", "poet", "--adapter", file + "x", "--base", "smollm2"}, "no such file"},
		"no base":      {[]string{"push", "poet", "--adapter", file}, "--base are needed"},
	} {
		if _, err := modelCommand(t, cl, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if out, err := modelCommand(t, cl, "list"); err != nil || !strings.Contains(out, "\nm ") {
		t.Errorf("list: %q, %v", out, err)
	}
}
