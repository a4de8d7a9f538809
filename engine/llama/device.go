package llama

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/hybridgroup/yzma/pkg/llama"
)

// device is what computes.
type device struct {
	name  string // as "cpu" or "cuda:0"
	about string // as "NVIDIA H100"
	index int    // among the accelerators; -1: the CPU
	free  int64  // bytes of an accelerator's memory
}

func (d device) accelerated() bool { return d.index >= 0 }

// describe is for people, as "cpu (2 threads)" or "cuda:0 NVIDIA H100".
func (d device) describe(threads int) string {
	if !d.accelerated() {
		return fmt.Sprintf("cpu (%d threads)", threads)
	}
	return d.name + " " + d.about
}

var processor = device{name: "cpu", index: -1}

// accelerators are what the loaded libraries found, in their order.
func accelerators() (found []device) {
	for i := range llama.GGMLBackendDeviceCount() {
		d := llama.GGMLBackendDeviceGet(i)
		switch llama.GGMLBackendDevType(d) {
		case llama.GGMLBackendDeviceTypeGPU, llama.GGMLBackendDeviceTypeIGPU:
			free, _ := llama.GGMLBackendDeviceMemory(d)
			found = append(found, device{shortName(llama.GGMLBackendDeviceName(d)), llama.GGMLBackendDeviceDescription(d), len(found), int64(free)})
		}
	}
	return found
}

var numbered = regexp.MustCompile(`^(\D+)(\d+)$`)

// shortName is cuda:0 for CUDA0.
func shortName(name string) string {
	return numbered.ReplaceAllString(strings.ToLower(name), "$1:$2")
}

// choose picks what was asked for: nothing is the first accelerator, or the CPU where there is none; a kind (gpu, cuda,
// metal, vulkan) is the first of it; a name is that very one. What is not there is an error, never another device.
func choose(want string, found []device) (device, error) {
	want = strings.ToLower(want)
	if want == "cpu" || want == "" && len(found) == 0 {
		return processor, nil
	}
	for _, d := range found {
		kind, _, _ := strings.Cut(d.name, ":")
		if want == "" || want == "gpu" || want == kind || want == d.name {
			return d, nil
		}
	}
	names := []string{processor.name}
	for _, d := range found {
		names = append(names, d.describe(0))
	}
	return device{}, fmt.Errorf("llama: the device %q is not here: there is %s (`make runtime-cuda` brings what CUDA needs)", want, strings.Join(names, ", "))
}
