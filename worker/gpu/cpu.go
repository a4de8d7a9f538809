package gpu

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"lorry/queue"
)

// cpuSource reports the processor and the memory that this process may use, as the one device of a machine without an
// accelerator. Limits of its control group count: of a container with two of 64 cores, both busy are a utilization of 1.
// Where there is no /proc (not Linux) it knows the name and the number of cores only.
type cpuSource struct {
	root  fs.FS
	now   func() time.Time
	name  string
	cores int
	last  cpuTime
}

// cpuTime is the busy time so far, and the time that all of it would have been, in the same unit.
type cpuTime struct{ busy, all float64 }

func openCPU() source {
	return openCPUIn(os.DirFS("/"), runtime.NumCPU(), time.Now)
}

func openCPUIn(root fs.FS, cores int, now func() time.Time) *cpuSource {
	c := &cpuSource{root: root, now: now, cores: cores, name: cpuName(root)}
	c.last, _ = c.time()
	return c
}

func (c *cpuSource) sample() ([]queue.Device, error) {
	d := queue.Device{Name: fmt.Sprintf("%s, %s", c.name, plural(c.limit(), "core"))}
	if t, ok := c.time(); ok {
		d.Utilization = share(t.busy-c.last.busy, t.all-c.last.all)
		c.last = t
	}
	d.MemoryUsed, d.MemoryTotal = c.memory()
	return []queue.Device{d}, nil
}

func (c *cpuSource) close() {}

// limit is the cores that this process may use.
func (c *cpuSource) limit() float64 {
	if _, q := c.quota(); q > 0 {
		return q
	}
	return float64(c.cores)
}

// time is the control group's where that has a quota, else the host's.
func (c *cpuSource) time() (cpuTime, bool) {
	if dir, q := c.quota(); q > 0 {
		if us, ok := parseKV(c.read(path.Join(dir, "cpu.stat")))["usage_usec"]; ok {
			return cpuTime{busy: float64(us) / 1e6, all: q * float64(c.now().UnixNano()) / 1e9}, true
		}
	}
	return parseStat(c.read("proc/stat"))
}

// parseStat reads the first line of /proc/stat: jiffies of user, nice, system, idle, iowait, irq, softirq, steal.
func parseStat(b []byte) (t cpuTime, ok bool) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) < 5 || f[0] != "cpu" {
		return t, false
	}
	for i, s := range f[1:min(len(f), 9)] {
		x, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return t, false
		}
		t.all += float64(x)
		if i != 3 && i != 4 {
			t.busy += float64(x)
		}
	}
	return t, true
}

// memory is what this process's group or the host uses. Pages that the kernel would give back at need don't count.
func (c *cpuSource) memory() (used, total uint64) {
	host := parseKV(c.read("proc/meminfo"))
	total = host["MemTotal"] << 10
	used = total - min(host["MemAvailable"]<<10, total)
	for _, dir := range c.groups() {
		most, err := strconv.ParseUint(c.text(dir, "memory.max"), 10, 64)
		if err != nil || (total != 0 && most >= total) {
			continue
		}
		now, _ := strconv.ParseUint(c.text(dir, "memory.current"), 10, 64)
		idle := parseKV(c.read(path.Join(dir, "memory.stat")))["inactive_file"]
		used, total = min(now-min(idle, now), most), most
	}
	return used, total
}

// quota is the tightest limit of cores of this group and those above it, and the group that has it; 0 where there is none.
func (c *cpuSource) quota() (dir string, cores float64) {
	for _, d := range c.groups() {
		q, ok := parseQuota(c.text(d, "cpu.max"))
		if ok && q < float64(c.cores) && (cores == 0 || q < cores) {
			dir, cores = d, q
		}
	}
	return dir, cores
}

// parseQuota reads cpu.max, "<microseconds>|max <period>".
func parseQuota(s string) (cores float64, ok bool) {
	f := strings.Fields(s)
	if len(f) != 2 {
		return 0, false
	}
	q, err1 := strconv.ParseUint(f[0], 10, 53)
	p, err2 := strconv.ParseUint(f[1], 10, 53)
	if err1 != nil || err2 != nil || q == 0 || p == 0 {
		return 0, false
	}
	return float64(q) / float64(p), true
}

// groups are the folders of this process's control group (version 2) and of those above it, the innermost first.
func (c *cpuSource) groups() (out []string) {
	const top = "sys/fs/cgroup"
	for line := range strings.Lines(string(c.read("proc/self/cgroup"))) {
		p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue
		}
		for p = path.Clean("/" + p); p != "/"; p = path.Dir(p) {
			out = append(out, top+p)
		}
		return append(out, top)
	}
	return nil
}

// cpuName is the model as /proc/cpuinfo says it, which ARM's kernels don't.
func cpuName(root fs.FS) string {
	b, _ := fs.ReadFile(root, "proc/cpuinfo")
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		k, v, _ := strings.Cut(sc.Text(), ":")
		if v = strings.TrimSpace(v); v != "" && (strings.TrimSpace(k) == "model name" || strings.TrimSpace(k) == "Model") {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	return "CPU (" + runtime.GOARCH + ")"
}

// parseKV reads lines of "name value" or "name: value kB".
func parseKV(b []byte) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if x, err := strconv.ParseUint(f[1], 10, 53); err == nil {
			out[strings.TrimSuffix(f[0], ":")] = x
		}
	}
	return out
}

func (c *cpuSource) read(name string) []byte {
	b, _ := fs.ReadFile(c.root, name)
	return b
}

func (c *cpuSource) text(dir, name string) string {
	return strings.TrimSpace(string(c.read(path.Join(dir, name))))
}

func plural(n float64, what string) string {
	s := strconv.FormatFloat(n, 'g', 3, 64) + " " + what
	if n != 1 {
		s += "s"
	}
	return s
}
