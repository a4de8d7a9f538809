package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestConformance runs OpenAI's own clients, unmodified, against a running Lorry: the contract is what they expect. It
// answers by the echo engine, since its words are known.
func TestConformance(t *testing.T) {
	env := map[string]string{"LORRY_ENGINE": "echo", "LORRY_ECHO_DELAY": "5ms", "LORRY_TENANT_WAITING": "8", "LORRY_WEBHOOK_ALLOW": "127.0.0.0/8"}
	s := &suite{sdks: clients(t), env: adminOf(up(t, env), "echo")}
	t.Run("python", func(t *testing.T) {
		s.python(t, "models", "chats", "mistakes", "files", "hooks", "batches", "vectors", "responses")
	})
	t.Run("node", func(t *testing.T) { s.node(t, "chats", "files", "hooks", "batches", "vectors") })
}

// TestConformanceOfWords does so where it takes a real model: tokens that are its own, shapes that it must keep to.
func TestConformanceOfWords(t *testing.T) {
	s := &suite{sdks: clients(t), env: adminOf(up(t, nil), "smollm2")}
	t.Run("python", func(t *testing.T) { s.python(t, "words") })
	t.Run("node", func(t *testing.T) { s.node(t, "words") })
}

// clients is the folder of the SDKs, at the versions that conformance/ names.
func clients(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(root, "scripts", "sdks"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scripts/sdks: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// adminOf makes the first key of a box, and says what a suite needs to know of it.
func adminOf(b *box, model string) map[string]string {
	b.t.Helper()
	words := strings.Fields(finished(b.t, start(b.t, "lorry key", built(b.t, "lorry"), []string{"key", "create", "--data", b.data, "--tenant", "default", "--admin"}, nil)))
	return map[string]string{"LORRY_URL": b.run.HTTP, "LORRY_ADMIN_KEY": words[len(words)-1], "LORRY_MODEL": model}
}

// suite runs programs that print a line for each of their cases.
type suite struct {
	sdks string
	env  map[string]string
}

func (s *suite) python(t *testing.T, modules ...string) {
	env := maps.Clone(s.env)
	env["PYTHONPATH"], env["PYTHONDONTWRITEBYTECODE"] = filepath.Join(s.sdks, "python"), "1"
	s.run(t, env, "python3", append([]string{"conformance/python/suite.py"}, modules...)...)
}

// node runs on a copy: an ES module looks for the packages that it imports in the folders above itself.
func (s *suite) node(t *testing.T, modules ...string) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("conformance/node")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(s.sdks, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	s.run(t, s.env, "node", append([]string{filepath.Join(dir, "suite.mjs")}, modules...)...)
}

// run starts a suite and makes each of its cases a test. One that ends early, or has no case, fails.
func (s *suite) run(t *testing.T, env map[string]string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = environment(env)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	n := report(t, out)
	if err := cmd.Wait(); err != nil || n == 0 {
		t.Fatalf("%s ended with %v after %d cases:\n%s", name, err, n, errs.String())
	}
}

func report(t *testing.T, out io.Reader) (n int) {
	t.Helper()
	for lines := bufio.NewReader(out); ; n++ {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return n
		}
		var c struct {
			Case    string
			Seconds float64
			Error   *string
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatalf("not a case: %q: %v", line, err)
		}
		t.Run(c.Case, func(t *testing.T) {
			t.Logf("%.3f s", c.Seconds)
			if c.Error != nil {
				t.Error(*c.Error)
			}
		})
	}
}
