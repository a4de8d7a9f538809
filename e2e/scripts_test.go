package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fetcher is a copy of scripts/runtime in a repository of its own, with an empty cache and with no programs but python3
// and the fakes.
type fetcher struct{ repo, cache, path string }

func newFetcher(t *testing.T, fakes map[string]string) fetcher {
	t.Helper()
	f := fetcher{repo: t.TempDir(), cache: t.TempDir(), path: t.TempDir()}
	for _, name := range []string{"scripts/runtime", "runtime.lock.json"} {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(f.repo, name), string(b))
	}
	for name, script := range fakes {
		write(t, filepath.Join(f.path, name), "#!/bin/sh\n"+script)
	}
	return f
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (f fetcher) run(t *testing.T) (said string, err error) {
	t.Helper()
	python, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	cmd := exec.Command(strings.TrimSpace(string(python)), filepath.Join(f.repo, "scripts", "runtime"))
	cmd.Env = []string{"PATH=" + f.path, "XDG_CACHE_HOME=" + f.cache, "HOME=" + f.cache}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// leftovers are what a run that failed must not leave: a runtime folder, an archive in the cache, a temporary folder.
func (f fetcher) leftovers(t *testing.T) (found []string) {
	t.Helper()
	for _, pattern := range []string{f.repo + "/runtime", f.repo + "/.runtime-*", f.cache + "/lorry/.fetch-*", f.cache + "/lorry/*-3.22.1-*"} {
		at, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, at...)
	}
	return found
}

// TestRuntimeRefuses: what is missing is named with the command that brings it, what is wrong is thrown away, and neither
// leaves anything behind.
func TestRuntimeRefuses(t *testing.T) {
	cases := map[string]struct {
		npm  map[string]string
		want string
	}{
		"no npm":          {nil, "npm is missing: `apt-get install npm`"},
		"other bytes":     {map[string]string{"npm": "echo altered > lib.tgz\n"}, "does not match runtime.lock.json: thrown away"},
		"nothing arrives": {map[string]string{"npm": "exit 0\n"}, "expected one *.tgz, got none"},
		"network away":    {map[string]string{"npm": "echo no route to the registry\nexit 1\n"}, "no route to the registry"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFetcher(t, c.npm)
			said, err := f.run(t)
			if err == nil || !strings.Contains(said, c.want) {
				t.Errorf("ended with %v, said %q, want %q", err, said, c.want)
			}
			if left := f.leftovers(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestRuntimeStands: what make runtime laid out is what the lock file names, byte for byte, and asking for it again
// needs no client.
func TestRuntimeStands(t *testing.T) {
	for _, word := range []string{"verify", "fetch"} {
		cmd := exec.Command(filepath.Join(root, "scripts", "runtime"), word)
		cmd.Env = append(os.Environ(), "npm_config_registry=http://127.0.0.1:1", "PIP_INDEX_URL=http://127.0.0.1:1", "XDG_CACHE_HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", word, err, out)
		}
	}
}
