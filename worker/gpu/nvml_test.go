//go:build linux && cgo

package gpu

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"github.com/rs/zerolog"
)

// h100s is NVIDIA's own mock of a DGX H100, with the counters that it leaves out.
func h100s(t *testing.T) *server.Server {
	t.Helper()
	s := dgxh100.New()
	for i, d := range s.Devices {
		d := d.(*server.Device)
		d.MemoryInfo.Used = uint64(i+1) << 30
		d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) {
			return nvml.Utilization{Gpu: uint32(10 * i), Memory: 1}, nvml.SUCCESS
		}
		d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 123456, nvml.SUCCESS }
		d.GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 42, nvml.SUCCESS }
		d.GetTotalEnergyConsumptionFunc = func() (uint64, nvml.Return) { return 7_000_500, nvml.SUCCESS }
	}
	return s
}

func sampler(t *testing.T, lib nvml.Interface, log zerolog.Logger) *Sampler {
	t.Helper()
	src, err := openNVMLWith(lib)
	if err != nil {
		t.Fatal(err)
	}
	s := newSampler(Config{Log: log, Timeout: time.Minute}, src, "")
	t.Cleanup(s.Close)
	return s
}

func TestEightH100s(t *testing.T) {
	devices, note := sampler(t, h100s(t), zerolog.Nop()).Sample()
	if len(devices) != 8 || note != "" {
		t.Fatalf("%d devices, note %q; want 8 and none", len(devices), note)
	}
	for i, d := range devices {
		if d.Index != i || d.Name != "NVIDIA H100 80GB HBM3" || !strings.HasPrefix(d.UUID, "GPU-") || d.Error != "" {
			t.Errorf("device %d = %+v", i, d)
		}
		if d.Utilization != float64(i)/10 || d.MemoryUsed != uint64(i+1)<<30 || d.MemoryTotal != 80<<30 {
			t.Errorf("device %d = %+v", i, d)
		}
		if d.PowerWatts != 123.456 || d.Celsius != 42 || d.Joules != 7000.5 {
			t.Errorf("device %d = %+v", i, d)
		}
	}
}

// lose makes every call about a device answer r, and its UUID unknown.
func lose(s *server.Server, i int, r nvml.Return) (restore func()) {
	d := s.Devices[i].(*server.Device)
	rates, byUUID := d.GetUtilizationRatesFunc, s.DeviceGetHandleByUUIDFunc
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, r }
	s.DeviceGetHandleByUUIDFunc = func(u string) (nvml.Device, nvml.Return) {
		if u == d.UUID {
			return nil, nvml.ERROR_NOT_FOUND
		}
		return byUUID(u)
	}
	return func() { d.GetUtilizationRatesFunc, s.DeviceGetHandleByUUIDFunc = rates, byUUID }
}

func TestDeviceVanishesAndComesBack(t *testing.T) {
	var log bytes.Buffer
	lib := h100s(t)
	s := sampler(t, lib, zerolog.New(&log))
	s.Sample()
	restore := lose(lib, 3, nvml.ERROR_GPU_IS_LOST)
	for _, want := range []string{"the GPU is lost", "the GPU is not found"} {
		devices, note := s.Sample()
		if len(devices) != 8 || note != "" {
			t.Fatalf("%d devices, note %q: the others must go on", len(devices), note)
		}
		d := devices[3]
		if !strings.Contains(d.Error, want) || d.Name != "NVIDIA H100 80GB HBM3" || d.UUID == "" || d.MemoryTotal != 0 {
			t.Errorf("device 3 = %+v, want its name and the error %q", d, want)
		}
		if devices[4].Error != "" || devices[4].Utilization != 0.4 {
			t.Errorf("device 4 = %+v", devices[4])
		}
	}
	restore()
	if devices, _ := s.Sample(); devices[3].Error != "" || devices[3].Utilization != 0.3 {
		t.Errorf("device 3 = %+v, want it back", devices[3])
	}
	if n := strings.Count(log.String(), `"device":3`); n != 3 {
		t.Errorf("%d lines of log for lost, not found, back:\n%s", n, log.String())
	}
}

func TestAllDevicesVanish(t *testing.T) {
	lib := h100s(t)
	s := sampler(t, lib, zerolog.Nop())
	for i := range lib.Devices {
		lose(lib, i, nvml.ERROR_GPU_IS_LOST)
	}
	if devices, note := s.Sample(); len(devices) != 8 || !strings.Contains(note, "none of this machine's GPUs") {
		t.Errorf("%d devices, note %q", len(devices), note)
	}
}

func TestLostBeforeTheStart(t *testing.T) {
	lib := h100s(t)
	byIndex := lib.DeviceGetHandleByIndexFunc
	lib.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i == 0 {
			return nil, nvml.ERROR_GPU_IS_LOST
		}
		return byIndex(i)
	}
	s := sampler(t, lib, zerolog.Nop())
	if d, _ := s.Sample(); len(d) != 8 || d[0].Error == "" || d[0].Name != "GPU 0" || d[1].Error != "" {
		t.Fatalf("devices = %+v", d)
	}
	lib.DeviceGetHandleByIndexFunc = byIndex
	if d, _ := s.Sample(); d[0].Error != "" || d[0].UUID == "" {
		t.Errorf("device 0 = %+v, want it found by its index", d[0])
	}
}

func TestWhatADeviceDoesNotCount(t *testing.T) {
	lib := h100s(t)
	d := lib.Devices[0].(*server.Device)
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_NOT_SUPPORTED }
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_NO_PERMISSION }
	d.GetTotalEnergyConsumptionFunc = func() (uint64, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	devices, _ := sampler(t, lib, zerolog.Nop()).Sample()
	if got := devices[0]; got.Error != "" || got.Utilization != 0 || got.Celsius != 42 || got.MemoryUsed != 1<<30 {
		t.Errorf("device 0 = %+v, want the rest without an error", got)
	}
}

func TestNoDriver(t *testing.T) {
	tests := map[string]struct {
		set  func(*server.Server)
		want string
	}{
		"no library": {func(s *server.Server) { s.InitFunc = func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND } },
			"NVML: no NVIDIA driver (libnvidia-ml.so.1 is not there)"},
		"versions differ": {func(s *server.Server) { s.InitFunc = func() nvml.Return { return nvml.ERROR_LIB_RM_VERSION_MISMATCH } },
			"NVML: the NVIDIA driver and its library are of different versions: reboot, or reload the driver"},
		"no device": {func(s *server.Server) { s.Devices = nil }, "NVML: no device: the GPU is not found"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			lib := h100s(t)
			tt.set(lib)
			if _, err := openNVMLWith(lib); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
