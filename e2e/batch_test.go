package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lines writes a batch's input.
func lines(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"custom_id":"line-%d","method":"POST","url":"/v1/completions","body":{"model":"echo","prompt":"number %d","max_tokens":9}}`+"\n", i, i)
	}
	path := filepath.Join(t.TempDir(), "night.jsonl")
	write(t, path, b.String())
	return path
}

// lorry runs a command against the box and returns what it said.
func (b *box) lorry(args ...string) string {
	b.t.Helper()
	return finished(b.t, start(b.t, "lorry "+strings.Join(args[:2], " "), built(b.t, "lorry"), append(args, "--data", b.data), nil))
}

// TestBatchCommands goes the way of a user at a terminal: create, watch, results, files, retry.
func TestBatchCommands(t *testing.T) {
	b := up(t, map[string]string{"LORRY_ENGINE": "echo"})
	said := b.lorry("batch", "create", lines(t, 100), "--watch", "--metadata", "team=search")
	if !strings.Contains(said, "completed: 100 of 100 done, 0 failed") {
		t.Fatalf("watching said:\n%s", said)
	}
	id, _, _ := strings.Cut(said, "\n")
	out := filepath.Join(t.TempDir(), "answers.jsonl")
	b.lorry("batch", "results", id, "-O", out)
	answers, err := os.ReadFile(out)
	if err != nil || strings.Count(string(answers), "\n") != 100 {
		t.Errorf("%d answers, %v", strings.Count(string(answers), "\n"), err)
	}
	for i := range 100 {
		if want := fmt.Sprintf(`"custom_id":"line-%d"`, i); strings.Count(string(answers), want) != 1 {
			t.Errorf("%s is there %d times", want, strings.Count(string(answers), want))
		}
	}
	if list := b.lorry("batch", "list"); !strings.Contains(list, id) || !strings.Contains(list, "completed") {
		t.Errorf("list:\n%s", list)
	}
	if got := b.lorry("batch", "get", id); !strings.Contains(got, "100 of 100 done") {
		t.Errorf("get:\n%s", got)
	}
	files := b.lorry("file", "list", "--purpose", "batch_output")
	file, _, _ := strings.Cut(files[strings.Index(files, "file-"):], " ")
	if b.lorry("file", "download", file) != string(answers) {
		t.Error("the file and the results differ")
	}
	b.lorry("file", "delete", file)
	if left := b.lorry("file", "list", "--purpose", "batch_output"); strings.Contains(left, file) {
		t.Errorf("still there:\n%s", left)
	}
	b.stop()
}
