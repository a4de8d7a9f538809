package llama

import (
	"os"
	"strings"
	"testing"
)

func TestVersionsAgree(t *testing.T) {
	for name, c := range map[string]struct {
		yzma, library string
		want          []string
	}{
		"good":                {"v1.28.0", "0.5.0", nil},
		"a build of it":       {"v1.28.0", "0.5.0-dev", nil},
		"unknown binding":     {"", "0.5.0", nil},
		"newer library":       {"v1.28.0", "0.6.0", []string{"llama.cpp 0.6.0", "yzma v1.28.0", "v0.5.0", "make runtime"}},
		"library of that kin": {"v1.28.0", "0.5.01", []string{"0.5.01"}},
		"mute library":        {"v1.28.0", "", []string{"unknown release", "yzma v1.28.0"}},
		"newer binding":       {"v1.31.0", "0.5.0", []string{"yzma v1.31.0", "llama.cpp v0.8.0", "v0.5.0"}},
		"odd binding":         {"v9.9.9", "0.5.0", []string{"yzma v9.9.9", "unknown release"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := agree(c.yzma, c.library)
			if (err == nil) != (c.want == nil) {
				t.Fatalf("got %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
		})
	}
}

// TestBindingIsKnown: go.mod and the table move together.
func TestBindingIsKnown(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == binding {
			if madeFor[f[1]] != Version {
				t.Errorf("go.mod has yzma %s, made for %q; Version is %s", f[1], madeFor[f[1]], Version)
			}
			return
		}
	}
	t.Error("go.mod does not name the binding")
}

// TestLibraryVersion asks the library at hand.
func TestLibraryVersion(t *testing.T) {
	if err := checkVersions(runtimeFile(t, "lib")); err != nil {
		t.Error(err)
	}
	if err := checkVersions(t.TempDir()); err == nil {
		t.Error("there is no library, and it was loaded")
	}
}
