package main_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// layout is who may import whom, by folder: the whole of it, so a new package starts with a line here.
// A folder X/…test is a suite or a helper for tests: without a line it may import X and what X may, and any test may use it.
var layout = map[string][]string{
	"engine":           {},
	"engine/gbnf":      {},
	"engine/gguf":      {},
	"engine/llama":     {"engine", "engine/gbnf", "engine/gguf"},
	"engine/remote":    {"engine"},
	"engine/echo":      {"engine"},
	"engine/child":     {"engine"},
	"cmd/lorry-engine": {"engine", "engine/llama", "engine/child"},
	"blob":             {},
	"record":           {},
	"queue":            {"engine", "record"},
	"result":           {"engine", "queue", "record"},
	"watch":            {},
	"resent":           {},
	"batch":            {"engine", "queue", "result", "blob", "watch", "resent"},
	"registry":         {"engine", "engine/gguf", "blob", "watch"},
	"access":           {"watch"},
	"webhook":          {"resent"},
	"producer":         below,
	"worker":           {"engine", "queue", "result", "registry", "blob", "worker/gpu"},
	"worker/gpu":       {"queue"},
	"scheduler":        below,
	"dashboard":        below,
	"cli":              {},

	// A helper that needs more than what it helps to test.
	"engine/enginetest": {"engine", "engine/gguf"},
}

// below is what stands under the roles; the roles themselves are introduced to each other by main alone.
var below = []string{"engine", "record", "blob", "queue", "result", "batch", "registry", "access", "webhook", "resent", "watch"}

var roles = []string{"producer", "worker", "scheduler", "dashboard"}

// native is the binding to llama.cpp: it panics at start where libffi is missing, so only the engine's
// own executable may hold it. Its download package would add 39 MB.
const native = "github.com/hybridgroup/yzma/"

// inTests are real parts that tests of other packages run against.
var inTests = []string{"engine/echo"}

// listed is a package as `go list` tells it.
type listed struct {
	ImportPath                         string
	Name                               string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

// folder is the package's place in the repository; "." is main.
func (p listed) folder() string { return folderOf(p.ImportPath) }

func (p listed) tests() []string { return slices.Concat(p.TestImports, p.XTestImports) }

func folderOf(importPath string) string {
	if importPath == "lorry" {
		return "."
	}
	return strings.TrimPrefix(importPath, "lorry/")
}

func ours(importPath string) bool {
	return importPath == "lorry" || strings.HasPrefix(importPath, "lorry/")
}

// list asks the go command for every package of this module, on another platform too: a build tag
// must not hide an import.
func list(t *testing.T, env ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return decode(t, string(out))
}

func decode(t *testing.T, out string) []listed {
	t.Helper()
	var all []listed
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

func TestLayout(t *testing.T) {
	platforms := map[string][]string{
		"this machine":     nil,
		"darwin without C": {"GOOS=darwin", "GOARCH=arm64", "CGO_ENABLED=0"},
		"linux without C":  {"GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0"},
	}
	for name, env := range platforms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, p := range list(t, env...) {
				checkPlace(t, p)
				checkImports(t, p)
				checkNative(t, p)
			}
		})
	}
}

// checkPlace holds folders to two levels and to names that say something.
func checkPlace(t *testing.T, p listed) {
	parts := strings.Split(p.folder(), "/")
	if len(parts) > 2 {
		t.Errorf("%s: folders are two levels deep at most", p.folder())
	}
	for _, name := range append(parts, p.Name) {
		if slices.Contains([]string{"pkg", "internal", "util", "utils", "common", "types", "helpers", "misc"}, name) {
			t.Errorf("%s: %q says nothing about what is in it", p.folder(), name)
		}
	}
}

func checkImports(t *testing.T, p listed) {
	if p.folder() == "." {
		return // main introduces everybody
	}
	may, known := allowed(p.folder())
	if !known {
		t.Errorf("%s: not in the table of layout_test.go: say there what it may import", p.folder())
		return
	}
	for _, dep := range p.Imports {
		if to := folderOf(dep); ours(dep) && !slices.Contains(may, to) && !(helper(p.folder()) && helper(to)) {
			t.Errorf("%s imports %s, which its row does not allow", p.folder(), to)
		}
	}
	for _, dep := range p.tests() {
		if to := folderOf(dep); ours(dep) && !slices.Contains(may, to) && !testMay(p.folder(), to) {
			t.Errorf("the tests of %s import %s, which its row does not allow", p.folder(), to)
		}
	}
}

// allowed is a folder's row; a helper for tests without one lives by the row of the package that it helps to test.
func allowed(folder string) (may []string, known bool) {
	may, known = layout[folder]
	if known || !helper(folder) {
		return may, known
	}
	parent := path.Dir(folder)
	may, known = layout[parent]
	return append(slices.Clone(may), parent), known
}

// helper says whether folder only serves tests.
func helper(folder string) bool { return strings.HasSuffix(folder, "test") }

// testMay is what tests may import beyond their package's row. Roles are strangers even there.
func testMay(from, to string) bool {
	if slices.Contains(roles, path.Dir(to)) && path.Dir(to) != from {
		return false
	}
	return to == from || helper(to) || slices.Contains(inTests, to)
}

// checkNative keeps llama.cpp's binding in the engine's executable.
func checkNative(t *testing.T, p listed) {
	may := p.folder() == "engine/llama" || p.folder() == "cmd/lorry-engine"
	for _, dep := range slices.Concat(p.Deps, p.tests()) {
		if strings.HasPrefix(dep, native+"pkg/download") {
			t.Errorf("%s pulls in %s: 39 MB that nobody calls", p.folder(), dep)
		}
		if strings.HasPrefix(dep, native) && !may {
			t.Errorf("%s pulls in %s: only engine/llama and cmd/lorry-engine may", p.folder(), dep)
			return
		}
	}
}

// TestLayoutTable checks the table itself: no row lets a role import a role.
func TestLayoutTable(t *testing.T) {
	for folder, may := range layout {
		for _, role := range roles {
			if slices.Contains(may, role) {
				t.Errorf("%s may import the role %s", folder, role)
			}
		}
	}
}
