package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"lorry/blob"
	"lorry/queue"
	"lorry/registry"
)

func TestModelsSetting(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		yes  []string
		no   []string
		err  string
	}{
		"empty":    {"", []string{"a", "b:2"}, nil, ""},
		"all":      {"all", []string{"a", "b:2"}, nil, ""},
		"none":     {"none", nil, []string{"a", "none"}, ""},
		"names":    {"org/a, b:2", []string{"org/a", "b:2"}, []string{"a", "b"}, ""},
		"an alias": {"a@prod", nil, nil, "a model's name has"},
		"no name":  {"a,,b", nil, nil, "or all, or none"},
	} {
		t.Run(name, func(t *testing.T) {
			var m Models
			err := m.UnmarshalText([]byte(c.text))
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("got %v, want %q", err, c.err)
			}
			for _, s := range c.yes {
				if !m.has(s) {
					t.Errorf("%s is not served", s)
				}
			}
			for _, s := range c.no {
				if m.has(s) {
					t.Errorf("%s is served", s)
				}
			}
		})
	}
	c, err := loadConfig(settingsFile(t, "models:\n  - a\n  - b:2\n"), nil, nil)
	if err != nil || c.Models != "a,b:2" {
		t.Errorf("from a file: %v, %v", c, err)
	}
}

// TestPushedAreChosen: in the order of pushing, each base once, within the memory; the log tells of what has no room once.
func TestPushedAreChosen(t *testing.T) {
	base := func(n int) string { return fmt.Sprintf("%064d", n) }
	m := func(name string, n int, created, size int64) registry.Model {
		return registry.Model{Name: name, Base: base(n), Created: created, Size: size << 20, Stored: true}
	}
	all := []registry.Model{m("big", 3, 30, 70), m("first", 1, 10, 40), m("own", 5, 1, 1), m("second", 2, 20, 40), m("twin", 1, 15, 40)}
	for name, c := range map[string]struct {
		models     Models
		most, free int64 // MiB
		want       []string
		left       []string
	}{
		"all fit":         {"", 3*512 + 150, 4000, []string{"first", "second", "big"}, nil},
		"a large one not": {"", 3*512 + 149, 4000, []string{"first", "second"}, []string{"big"}},
		"some":            {"big,twin", 2*512 + 110, 4000, []string{"twin", "big"}, nil},
		"no room":         {"", 512, 4000, nil, []string{"first", "second", "big"}},
		"less is free":    {"", 4000, 3*512 + 149, []string{"first", "second"}, []string{"big"}},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			p := &pushed{stores: &stores{log: zerolog.New(&said), fleet: &queue.Fleet{}}, cfg: &Config{Models: c.models}, own: base(5),
				room: room{most: c.most << 20, free: func() int64 { return c.free << 20 }}, held: map[string]*serving{}, told: map[string]bool{}}
			var got []string
			for range 2 {
				for _, m := range p.wanted(all) {
					if p.fits(m) {
						p.held[m.Base] = &serving{need: p.cfg.need(m)}
						got = append(got, m.Name)
					}
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("serves %v, want %v", got, c.want)
			}
			for _, name := range c.left {
				if n := strings.Count(said.String(), `"model":"`+name+`"`); n != 1 {
					t.Errorf("told %d times of %s: %s", n, name, said.String())
				}
			}
			if len(c.left) == 0 && said.Len() > 0 {
				t.Errorf("said %s", said.String())
			}
		})
	}
}

func TestNeed(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  Config
		kv   int64
		want int64
	}{
		"a head that lies":    {Config{}, 1 << 56, tooMuch},
		"a sum that ran over": {Config{}, -1 << 40, tooMuch},
		"as engines choose":   {Config{}, 128 << 10, 1<<30 + 8192*128<<10 + 512<<20},
		"a short context":     {Config{Context: 1024}, 128 << 10, 1<<30 + 1024*128<<10 + 512<<20},
		"smaller numbers":     {Config{Context: 1024, KVType: "q8_0"}, 128 << 10, 1<<30 + 1024*68<<10 + 512<<20},
	} {
		if got := c.cfg.need(registry.Model{Size: 1 << 30, KV: c.kv}); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestRoom: half of what the machine has, where the settings don't say.
func TestRoom(t *testing.T) {
	c := &Config{Device: "cpu"}
	half, err := c.openRoom()
	if err != nil {
		t.Fatal(err)
	}
	defer half.close()
	c.ModelMemory = 7
	set, err := c.openRoom()
	if err != nil {
		t.Fatal(err)
	}
	defer set.close()
	if free := half.free(); half.most <= 0 || free <= 0 || free > 2*half.most || set.most != 7 {
		t.Errorf("%d of which %d are free, or %d", half.most, free, set.most)
	}
	for device, want := range map[string]int{"": 0, "cuda": 0, "cuda:1": 1, "cuda:x": 0} {
		if got := (&Config{Device: device}).deviceIndex(); got != want {
			t.Errorf("%q is device %d", device, got)
		}
	}
}

// TestNoModelOfItsOwn: what would say nothing then is refused.
func TestNoModelOfItsOwn(t *testing.T) {
	for args, want := range map[string]string{
		"":                      "",
		"models: none":          "models can't be none",
		"model_name: my":        "say nothing",
		"quantize: q4_0":        "say nothing",
		"adapter: poet=p.gguf":  "say nothing",
		"models: support":       "",
		"engine: echo":          "",
		"device: cpu\nslots: 2": "",
	} {
		_, err := loadConfig(settingsFile(t, "model_file: none\n"+args+"\n"), nil, nil)
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
}

// TestClear: what pushes and uploads of dead processes left half-way goes from both stores.
func TestClear(t *testing.T) {
	open := func() (*blob.Dir, string) {
		dir := t.TempDir()
		d, err := blob.OpenDir(blob.DirConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		half := filepath.Join(dir, "tmp", "HALF")
		old := time.Unix(0, 0) // a test's clock stands in the year 2000
		if err := errors.Join(os.WriteFile(half, nil, 0o600), os.Chtimes(half, old, old)); err != nil {
			t.Fatal(err)
		}
		return d, half
	}
	var half [2]string
	s := &stores{log: zerolog.Nop()}
	s.blobs, half[0] = open()
	s.weights, half[1] = open()
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		go func() { _ = s.clearBlobs(ctx) }()
		synctest.Wait()
		end()
	})
	for _, f := range half {
		if _, err := os.Stat(f); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", f, err)
		}
	}
}
