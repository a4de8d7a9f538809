//go:build linux && cgo

package gpu

import (
	"errors"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"lorry/queue"
)

// nvmlSource asks NVIDIA's management library, which comes with the driver and is loaded at run time.
type nvmlSource struct {
	lib     nvml.Interface
	devices []*nvmlDevice
}

// nvmlDevice is a device by its name, which stays, and its handle, which a lost device loses.
type nvmlDevice struct {
	index      int
	uuid, name string
	handle     nvml.Device // nil while the device is lost
	lost       nvml.Return
}

func openNVML() (source, error) { return openNVMLWith(nvml.New()) }

func openNVMLWith(lib nvml.Interface) (source, error) {
	if r := lib.Init(); r != nvml.SUCCESS {
		return nil, fmt.Errorf("NVML: %s", explain(r))
	}
	n, r := lib.DeviceGetCount()
	if r == nvml.SUCCESS && n == 0 {
		r = nvml.ERROR_NOT_FOUND
	}
	if r != nvml.SUCCESS {
		lib.Shutdown()
		return nil, fmt.Errorf("NVML: no device: %s", explain(r))
	}
	s := &nvmlSource{lib: lib}
	for i := range n {
		s.devices = append(s.devices, openDevice(lib, i))
	}
	return s, nil
}

// openDevice names a device. One that is lost already has no name, and is there all the same.
func openDevice(lib nvml.Interface, i int) *nvmlDevice {
	d := &nvmlDevice{index: i, name: fmt.Sprintf("GPU %d", i)}
	h, r := lib.DeviceGetHandleByIndex(i)
	if r != nvml.SUCCESS {
		d.lost = r
		return d
	}
	d.handle = h
	if name, r := h.GetName(); r == nvml.SUCCESS {
		d.name = name
	}
	d.uuid, _ = h.GetUUID()
	return d
}

func (s *nvmlSource) sample() ([]queue.Device, error) {
	out := make([]queue.Device, 0, len(s.devices))
	gone := 0
	for _, d := range s.devices {
		q := d.sample(s.lib)
		if q.Error != "" {
			gone++
		}
		out = append(out, q)
	}
	if gone == len(s.devices) {
		return out, errors.New("none of this machine's GPUs can be read")
	}
	return out, nil
}

// sample reads a device, and looks for it again by its UUID where it was lost.
func (d *nvmlDevice) sample(lib nvml.Interface) queue.Device {
	if d.handle == nil {
		d.find(lib)
	}
	out := queue.Device{Index: d.index, UUID: d.uuid, Name: d.name}
	if d.handle == nil {
		out.Error = explain(d.lost)
		return out
	}
	if r := fill(&out, d.handle); r != nvml.SUCCESS {
		d.handle, d.lost = nil, r
		return queue.Device{Index: d.index, UUID: d.uuid, Name: d.name, Error: explain(r)}
	}
	return out
}

func (d *nvmlDevice) find(lib nvml.Interface) {
	if d.uuid == "" {
		*d = *openDevice(lib, d.index)
		return
	}
	h, r := lib.DeviceGetHandleByUUID(d.uuid)
	if r != nvml.SUCCESS {
		d.lost = r
		return
	}
	d.handle = h
}

// fill reads all that a device counts. What it doesn't count stays zero; the first failure ends it.
func fill(out *queue.Device, h nvml.Device) nvml.Return {
	u, r1 := h.GetUtilizationRates()
	if r := fault(r1); r != nvml.SUCCESS {
		return r
	}
	m, r2 := h.GetMemoryInfo()
	if r := fault(r2); r != nvml.SUCCESS {
		return r
	}
	p, r3 := h.GetPowerUsage()
	t, r4 := h.GetTemperature(nvml.TEMPERATURE_GPU)
	e, r5 := h.GetTotalEnergyConsumption()
	out.Utilization = share(float64(u.Gpu), 100)
	out.MemoryUsed, out.MemoryTotal = m.Used, m.Total
	out.PowerWatts, out.Celsius, out.Joules = float64(p)/1000, float64(t), float64(e)/1000
	return firstFault(r3, r4, r5)
}

func firstFault(rs ...nvml.Return) nvml.Return {
	for _, r := range rs {
		if r = fault(r); r != nvml.SUCCESS {
			return r
		}
	}
	return nvml.SUCCESS
}

// fault is r where it says that the device is sick, and SUCCESS where it only says that this one can't be asked:
// utilization under MIG, power of a virtual GPU, memory of one that shares the host's.
func fault(r nvml.Return) nvml.Return {
	switch r {
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_NO_PERMISSION, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_NO_DATA:
		return nvml.SUCCESS
	}
	return r
}

// explain says in words what the returns mean that people meet.
func explain(r nvml.Return) string {
	switch r {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return "no NVIDIA driver (libnvidia-ml.so.1 is not there)"
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return "the NVIDIA driver is not loaded"
	case nvml.ERROR_GPU_IS_LOST:
		return "the GPU is lost: it fell off the bus or was taken away"
	case nvml.ERROR_NOT_FOUND, nvml.ERROR_GPU_NOT_FOUND:
		return "the GPU is not found"
	case nvml.ERROR_RESET_REQUIRED:
		return "the GPU needs a reset"
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return "the NVIDIA driver and its library are of different versions: reboot, or reload the driver"
	}
	return r.Error()
}

func (s *nvmlSource) close() { s.lib.Shutdown() }
