package llama

import (
	"cmp"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/ebitengine/purego"
	"github.com/hybridgroup/yzma/pkg/loader"
)

// binding is the module by which llama.cpp is called.
const binding = "github.com/hybridgroup/yzma"

// madeFor is the release of llama.cpp that each release of the binding knows, by its own documentation.
var madeFor = map[string]string{"v1.27.0": "v0.4.1", "v1.28.0": "v0.5.0", "v1.30.0": "v0.7.0", "v1.31.0": "v0.8.0", "v1.32.0": "v0.9.0"}

// checkVersions asks the library itself which release it is, before anything else of it is called: a name may say
// anything, and with structs of another release calls read and write the wrong places.
func checkVersions(dir string) error {
	path := loader.GetLibraryFilename(dir, "llama")
	lib, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return fmt.Errorf("llama: load %s: %w", path, err)
	}
	said := ""
	if f, err := purego.Dlsym(lib, "llama_version"); err == nil {
		text, _, _ := purego.SyscallN(f)
		said = goString(text)
	}
	if err := agree(bindingVersion(), said); err != nil {
		return fmt.Errorf("llama: %s: %w", path, err)
	}
	return nil
}

// agree holds the binding's release and the library's against each other and against Version. A test's executable does
// not know the binding's: then it is taken to be right.
func agree(yzma, library string) error {
	if yzma != "" && madeFor[yzma] != Version {
		return fmt.Errorf("this program calls it by yzma %s, which is made for llama.cpp %s, and the program is made for %s: build it with the yzma that go.mod names",
			yzma, cmp.Or(madeFor[yzma], "of an unknown release"), Version)
	}
	if release, _, _ := strings.Cut(library, "-"); "v"+release != Version {
		return fmt.Errorf("it says that it is llama.cpp %s, and yzma %s, by which it is called, is made for %s: run `make runtime`",
			cmp.Or(library, "of an unknown release"), yzma, Version)
	}
	return nil
}

// bindingVersion is what was built in; empty where the executable does not say.
func bindingVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == binding && m.Replace == nil {
			return m.Version
		}
	}
	return ""
}
