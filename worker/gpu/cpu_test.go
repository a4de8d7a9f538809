package gpu

import (
	"fmt"
	"testing"
	"testing/fstest"
	"time"
)

func file(format string, a ...any) *fstest.MapFile {
	return &fstest.MapFile{Data: fmt.Appendf(nil, format, a...)}
}

func host() fstest.MapFS {
	return fstest.MapFS{
		"proc/cpuinfo":     file("processor\t: 0\nmodel name\t: Example  CPU @ 2.00GHz\n"),
		"proc/stat":        file("cpu  100 0 0 100 0 0 0 0 0 0\ncpu0 1 2 3 4\n"),
		"proc/meminfo":     file("MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   6291456 kB\n"),
		"proc/self/cgroup": file("0::/\n"),
	}
}

func TestCPUOfTheHost(t *testing.T) {
	root := host()
	c := openCPUIn(root, 4, time.Now)
	root["proc/stat"] = file("cpu  130 0 0 150 20 0 0 0 0 0\n")
	d, err := c.sample()
	if err != nil || len(d) != 1 {
		t.Fatal(d, err)
	}
	if d[0].Name != "Example CPU @ 2.00GHz, 4 cores" || d[0].Utilization != 0.3 {
		t.Errorf("device = %+v, want 30 of 100 ticks busy", d[0])
	}
	if d[0].MemoryTotal != 8<<30 || d[0].MemoryUsed != 2<<30 {
		t.Errorf("memory %d of %d", d[0].MemoryUsed, d[0].MemoryTotal)
	}
}

func TestCPUOfAControlGroup(t *testing.T) {
	root := host()
	root["proc/self/cgroup"] = file("1:name=systemd:/x\n0::/pod/box\n")
	root["sys/fs/cgroup/pod/box/cpu.max"] = file("max 100000\n")
	root["sys/fs/cgroup/pod/cpu.max"] = file("150000 100000\n")
	root["sys/fs/cgroup/pod/cpu.stat"] = file("usage_usec 1000000\nuser_usec 5\n")
	root["sys/fs/cgroup/pod/box/memory.max"] = file("1073741824\n")
	root["sys/fs/cgroup/pod/box/memory.current"] = file("536870912\n")
	root["sys/fs/cgroup/pod/box/memory.stat"] = file("anon 1\ninactive_file 268435456\n")
	now := time.Unix(1000, 0)
	c := openCPUIn(root, 4, func() time.Time { return now })
	now = now.Add(2 * time.Second)
	root["sys/fs/cgroup/pod/cpu.stat"] = file("usage_usec 2500000\n")
	d, _ := c.sample()
	if d[0].Name != "Example CPU @ 2.00GHz, 1.5 cores" || d[0].Utilization < 0.499 || d[0].Utilization > 0.501 {
		t.Errorf("device = %+v, want 1.5 of 3 core-seconds", d[0])
	}
	if d[0].MemoryTotal != 1<<30 || d[0].MemoryUsed != 256<<20 {
		t.Errorf("memory %d of %d", d[0].MemoryUsed, d[0].MemoryTotal)
	}
}

func TestCPUWithoutProc(t *testing.T) {
	c := openCPUIn(fstest.MapFS{}, 1, time.Now)
	if d, err := c.sample(); err != nil || len(d) != 1 || d[0].Utilization != 0 || d[0].Name == "" {
		t.Errorf("Sample() = %+v, %v", d, err)
	}
}

func FuzzProc(f *testing.F) {
	f.Add("cpu  1 2 3 4 5 6 7 8 9 10\n", "150000 100000")
	f.Add("cpu 18446744073709551615 1 1 1", "max 1")
	f.Fuzz(func(t *testing.T, stat, quota string) {
		if s, ok := parseStat([]byte(stat)); ok && (s.busy < 0 || s.busy > s.all) {
			t.Errorf("%+v", s)
		}
		if q, ok := parseQuota(quota); ok && !(q > 0) {
			t.Errorf("quota %v", q)
		}
	})
}
