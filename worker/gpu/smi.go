package gpu

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"lorry/queue"
)

// smiQuery are the fields asked of nvidia-smi, in this order. It has none for the energy since the driver was loaded.
const smiQuery = "index,uuid,name,utilization.gpu,memory.used,memory.total,power.draw,temperature.gpu"

const (
	// smiEvery is how often nvidia-smi is run: it costs a process, and on some machines half a second of a core.
	smiEvery = 5 * time.Second
	// smiTimeout ends one that hangs.
	smiTimeout = 10 * time.Second
)

// smiSource runs nvidia-smi, for programs that were built without NVML.
type smiSource struct {
	run   func(context.Context) ([]byte, error)
	at    time.Time
	last  []queue.Device
	known map[int]queue.Device
}

func openSMI() (source, error) {
	path, err := exec.LookPath("nvidia-smi")
	if err != nil {
		return nil, errors.New("nvidia-smi is not on the PATH")
	}
	return openSMIWith(func(ctx context.Context) ([]byte, error) {
		cmd := exec.CommandContext(ctx, path, "--query-gpu="+smiQuery, "--format=csv,noheader,nounits")
		cmd.WaitDelay = time.Second
		return cmd.Output()
	})
}

func openSMIWith(run func(context.Context) ([]byte, error)) (source, error) {
	s := &smiSource{run: run, known: map[int]queue.Device{}}
	devices, err := s.ask()
	if err != nil {
		return nil, err
	}
	if len(devices) == 0 {
		return nil, errors.New("nvidia-smi: it lists no device")
	}
	s.last, s.at = devices, time.Now()
	return s, nil
}

func (s *smiSource) sample() ([]queue.Device, error) {
	if time.Since(s.at) < smiEvery {
		return s.last, nil
	}
	devices, err := s.ask()
	s.at = time.Now()
	if err != nil {
		return nil, err
	}
	s.last = devices
	return devices, nil
}

// ask runs it once. It exits with an error where one device of many is lost, and tells of the others all the same.
func (s *smiSource) ask() ([]queue.Device, error) {
	ctx, cancel := context.WithTimeout(context.Background(), smiTimeout)
	defer cancel()
	out, err := s.run(ctx)
	devices := parseSMI(string(out))
	if len(devices) == 0 && err != nil {
		return nil, fmt.Errorf("nvidia-smi: %w: %s", err, firstLine(string(out)))
	}
	return s.complete(devices), nil
}

// complete adds the devices that were there before and are not now.
func (s *smiSource) complete(devices []queue.Device) []queue.Device {
	seen := map[int]bool{}
	for _, d := range devices {
		seen[d.Index] = true
		s.known[d.Index] = queue.Device{Index: d.Index, UUID: d.UUID, Name: d.Name}
	}
	for i := range len(s.known) {
		if d, ok := s.known[i]; ok && !seen[i] {
			d.Error = "the GPU is lost: nvidia-smi lists it no more"
			devices = append(devices, d)
		}
	}
	return devices
}

func (s *smiSource) close() {}

// parseSMI reads nvidia-smi's CSV. Lines that are no device (it prints its complaints among them) are left out. A
// device of which a value can't be read has that value zero; one of which it says so is reported with that error.
func parseSMI(out string) []queue.Device {
	var devices []queue.Device
	seen := map[int]bool{}
	for line := range strings.Lines(out) {
		d, ok := parseSMILine(strings.TrimSpace(line))
		if ok && !seen[d.Index] {
			seen[d.Index] = true
			devices = append(devices, d)
		}
	}
	return devices
}

func parseSMILine(line string) (d queue.Device, ok bool) {
	r := csv.NewReader(strings.NewReader(line))
	r.TrimLeadingSpace, r.LazyQuotes, r.FieldsPerRecord = true, true, -1
	f, err := r.Read()
	if err != nil || len(f) < 8 {
		return d, false
	}
	n := len(f) - 5 // a name may hold commas; the values before and after it can't
	i, err := strconv.ParseUint(strings.TrimSpace(f[0]), 10, 16)
	if err != nil || !strings.HasPrefix(f[1], "GPU-") {
		return d, false
	}
	d = queue.Device{Index: int(i), UUID: strings.TrimSpace(f[1]), Name: strings.TrimSpace(strings.Join(f[2:n], ","))}
	v := f[n:]
	d.Utilization = share(number(v[0]), 100)
	d.MemoryUsed, d.MemoryTotal = mebibytes(v[1]), mebibytes(v[2])
	d.PowerWatts, d.Celsius = number(v[3]), number(v[4])
	d.Error = cmp.Or(complaint(v[0]), complaint(v[1]))
	return d, true
}

// number is 0 for what is no number, such as "[N/A]", and for what no device can say.
func number(s string) float64 {
	x, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || !(x >= 0 && x < 1e9) {
		return 0
	}
	return x
}

func mebibytes(s string) uint64 { return uint64(number(s) * (1 << 20)) }

// complaint is a value's text where it says that the device is sick, as "[GPU is lost]". "[N/A]" and its like only say
// that this device doesn't count that.
func complaint(s string) string {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, "[") {
		return ""
	}
	s = strings.Trim(s, "[]")
	switch s {
	case "N/A", "Not Supported", "Insufficient Permissions", "Not Active", "Not Available", "":
		return ""
	}
	return s
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > 200 {
		line = line[:200]
	}
	return line
}
