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
	"slices"
	"strconv"
	"strings"
	"testing"

	"lorry/engine/enginetest"
)

// TestConformance runs OpenAI's own clients, unmodified, against a running Lorry: the contract is what they expect. Most
// is answered by the echo engine, since its words are known; what takes a real model (tokens that are its own, shapes
// that it must keep to) by one. conformance/calls.txt says which case makes each call that the clients have, and in the
// end that is compared with what was made.
func TestConformance(t *testing.T) {
	sdks := clients(t)
	made := map[string]*calls{"python": {}, "node": {}}
	t.Run("echo", func(t *testing.T) {
		env := map[string]string{"LORRY_ENGINE": "echo", "LORRY_ECHO_DELAY": "5ms", "LORRY_TENANT_WAITING": "8", "LORRY_WEBHOOK_ALLOW": "127.0.0.0/8"}
		b := up(t, env)
		s := &suite{sdks: sdks, env: adminOf(b, "echo"), made: made}
		s.env["LORRY_VALKEY_PID"] = strconv.Itoa(b.children("valkey-server")[0])
		t.Run("python", func(t *testing.T) {
			s.python(t, "models", "chats", "mistakes", "files", "hooks", "batches", "endpoints", "vectors", "responses", "away")
		})
		t.Run("node", func(t *testing.T) {
			s.node(t, "chats", "mistakes", "files", "hooks", "batches", "endpoints", "vectors", "responses", "away")
		})
	})
	t.Run("words", func(t *testing.T) {
		s := &suite{sdks: sdks, env: adminOf(up(t, nil), "smollm2"), made: made}
		dir := t.TempDir()
		s.env["LORRY_ADAPTER"] = filepath.Join(dir, enginetest.LoRA{Seed: 1}.Write(t, dir))
		t.Run("python", func(t *testing.T) { s.python(t, "words") })
		t.Run("node", func(t *testing.T) { s.node(t, "words") })
	})
	if made["python"].suites == 2 && made["node"].suites == 2 { // else a part was asked for
		covered(t, made)
	}
}

// calls are what a client has, and what the cases made of it.
type calls struct {
	suites int // that ran
	every  []string
	by     map[string][]string // a case's calls
}

// covered compares the calls that were made with conformance/calls.txt: a call, Python's case, Node's case; "-" where
// the client has no such call.
func covered(t *testing.T, made map[string]*calls) {
	t.Helper()
	b, err := os.ReadFile("conformance/calls.txt")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]map[string]string{"python": {}, "node": {}}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] != "#" {
			listed["python"][f[0]], listed["node"][f[0]] = f[1], f[2]
		}
	}
	for client, c := range made {
		for _, call := range c.every {
			if by := listed[client][call]; !slices.Contains(c.by[by], call) {
				t.Errorf("conformance/calls.txt: %s's %s is not made by its case %q", client, call, by)
			}
		}
		for call, by := range listed[client] {
			if (by == "-") == slices.Contains(c.every, call) {
				t.Errorf("conformance/calls.txt: %s is not %s's", call, client)
			}
		}
	}
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
	made map[string]*calls // by client
}

func (s *suite) python(t *testing.T, modules ...string) {
	env := maps.Clone(s.env)
	env["PYTHONPATH"], env["PYTHONDONTWRITEBYTECODE"] = filepath.Join(s.sdks, "python"), "1"
	s.run(t, s.made["python"], env, "python3", append([]string{"conformance/python/suite.py"}, modules...)...)
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
	s.run(t, s.made["node"], s.env, "node", append([]string{filepath.Join(dir, "suite.mjs")}, modules...)...)
}

// run starts a suite and makes each of its cases a test. One that ends early, or has no case, fails.
func (s *suite) run(t *testing.T, made *calls, env map[string]string, name string, args ...string) {
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
	n := report(t, made, out)
	if err := cmd.Wait(); err != nil || n == 0 {
		t.Fatalf("%s ended with %v after %d cases:\n%s", name, err, n, errs.String())
	}
}

// report makes each line a test, and returns how many there were.
func report(t *testing.T, made *calls, out io.Reader) (n int) {
	t.Helper()
	made.suites++
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return n
		}
		var c told
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatalf("not a case: %q: %v", line, err)
		}
		if c.Case == "" {
			made.every = c.Every
			continue
		}
		n++
		t.Run(c.Case, func(t *testing.T) { c.check(t) })
		made.note(c)
	}
}

// told is a line of a suite's: all calls that its client has, or a case.
type told struct {
	Every   []string
	Case    string
	Seconds float64
	Error   *string
	Calls   []string
}

func (c *told) check(t *testing.T) {
	t.Logf("%.3f s", c.Seconds)
	if c.Error != nil {
		t.Error(*c.Error)
	}
}

func (m *calls) note(c told) {
	if m.by == nil {
		m.by = map[string][]string{}
	}
	m.by[c.Case] = append(m.by[c.Case], c.Calls...)
}
