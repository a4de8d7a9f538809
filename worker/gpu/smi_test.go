package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the goldens anew")

func TestParseSMIGoldens(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.csv")
	if len(files) == 0 {
		t.Fatal("no testdata")
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := json.MarshalIndent(parseSMI(string(in)), "", "  ")
			golden := strings.TrimSuffix(f, ".csv") + ".golden.json"
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != string(got)+"\n" {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestSMIDeviceVanishes(t *testing.T) {
	out, fail := "0, GPU-a, X, 1, 2, 3, 4, 5\n1, GPU-b, Y, 1, 2, 3, 4, 5\n", error(nil)
	src, err := openSMIWith(func(context.Context) ([]byte, error) { return []byte(out), fail })
	if err != nil {
		t.Fatal(err)
	}
	s := src.(*smiSource)
	out, fail = "0, GPU-a, X, 9, 2, 3, 4, 5\n", errors.New("exit status 15")
	if d, _ := s.sample(); len(d) != 2 || d[0].Utilization != 0.01 {
		t.Fatalf("devices = %+v, want the kept reading: it is younger than %v", d, smiEvery)
	}
	s.at = time.Time{}
	d, err := s.sample()
	if err != nil || len(d) != 2 || d[0].Utilization != 0.09 || d[1].Name != "Y" || d[1].Error == "" {
		t.Errorf("devices = %+v, %v; want 1 with an error", d, err)
	}
}

func TestSMIWithoutDriver(t *testing.T) {
	_, err := openSMIWith(func(context.Context) ([]byte, error) {
		return []byte("NVIDIA-SMI has failed\nmore"), errors.New("exit status 9")
	})
	if err == nil || err.Error() != "nvidia-smi: exit status 9: NVIDIA-SMI has failed" {
		t.Errorf("error %v", err)
	}
}

func FuzzParseSMI(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.csv")
	for _, name := range files {
		b, _ := os.ReadFile(name)
		f.Add(string(b))
	}
	f.Add(`0, GPU-x, "A, B", NaN, -1, 1e300, +Inf, 0x1p-2`)
	f.Fuzz(func(t *testing.T, in string) {
		seen := map[int]bool{}
		for _, d := range parseSMI(in) {
			if d.Utilization < 0 || d.Utilization > 1 || d.PowerWatts < 0 || d.Celsius < 0 || seen[d.Index] {
				t.Errorf("device %+v", d)
			}
			seen[d.Index] = true
			if _, err := json.Marshal(d); err != nil { // NaN and infinities would fail
				t.Error(err)
			}
		}
	})
}
