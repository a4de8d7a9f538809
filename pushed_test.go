package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

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
		return registry.Model{Name: name, Base: base(n), Created: created, Size: size, Stored: true}
	}
	ofFile, adapter := m("a-file", 8, 0, 0), m("adapter", 4, 0, 1)
	ofFile.Stored, adapter.Adapter = false, base(9)
	all := []registry.Model{m("big", 3, 30, 70), m("first", 1, 10, 40), m("own", 5, 1, 1), m("second", 2, 20, 40), m("twin", 1, 15, 40), ofFile, adapter}
	for name, c := range map[string]struct {
		models Models
		most   int64
		want   []string
		left   []string
	}{
		"all fit":         {"", 150, []string{"first", "second", "big"}, nil},
		"a large one not": {"", 100, []string{"first", "second"}, []string{"big"}},
		"some":            {"big,twin", 200, []string{"twin", "big"}, nil},
		"no room":         {"", 10, nil, []string{"first", "second", "big"}},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			p := &pushed{stores: &stores{log: zerolog.New(&said)}, cfg: &Config{Models: c.models}, own: base(5), most: c.most, held: map[string]int64{}, told: map[string]bool{}}
			var got []string
			for range 2 {
				for _, m := range p.wanted(all) {
					if p.fits(m) {
						p.held[m.Base] = m.Size
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
