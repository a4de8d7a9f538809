package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAdapterSettings(t *testing.T) {
	poet := AdapterFile{Name: "poet", File: "poet.gguf"}
	pinned := AdapterFile{Name: "org/clerk:2", File: "/x/c=d.gguf", Base: "smollm2", Pin: true}
	for name, c := range map[string]struct {
		text string
		want Adapters
		err  string
	}{
		"none":        {"", nil, ""},
		"one":         {"poet=poet.gguf", Adapters{poet}, ""},
		"two":         {"poet=poet.gguf; org/clerk:2=/x/c=d.gguf,base=smollm2,pin", Adapters{poet, pinned}, ""},
		"no file":     {"poet", nil, "is no adapter"},
		"empty file":  {"poet=", nil, "is no adapter"},
		"no name":     {"=poet.gguf", nil, "a model's name has"},
		"an alias":    {"poet@prod=poet.gguf", nil, "a model's name has"},
		"a typo":      {"poet=poet.gguf,bass=x", nil, `not "bass=x"`},
		"empty base":  {"poet=poet.gguf,base=", nil, `not "base="`},
		"only a part": {"poet=poet.gguf;clerk", nil, `"clerk" is no adapter`},
	} {
		t.Run(name, func(t *testing.T) {
			var got Adapters
			err := got.UnmarshalText([]byte(c.text))
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("got %v, want %q", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			var again Adapters
			if err := again.UnmarshalText([]byte(got.String())); err != nil || !cmp.Equal(got, again) {
				t.Errorf("%q is read as %v, %v", got.String(), again, err)
			}
		})
	}
}

// TestAdapterLayers: the flag may be repeated, and the file may have a list.
func TestAdapterLayers(t *testing.T) {
	want := "a=1.gguf;b=2.gguf,pin"
	c, err := loadConfig(settingsFile(t, "adapter:\n  - a=1.gguf\n  - b=2.gguf,pin\n"), nil, nil)
	if err != nil || c.Adapter.String() != want {
		t.Errorf("from a file: %v, %v", c, err)
	}
	f := &rawFlag{knob: adapterKnob(t)}
	for _, s := range []string{"a=1.gguf", "b=2.gguf,pin"} {
		if err := f.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if f.text != want {
		t.Errorf("the repeated flag is %q", f.text)
	}
	if err := f.Set("c"); err == nil {
		t.Error("a wrong one was taken")
	}
}

func adapterKnob(t *testing.T) knob {
	t.Helper()
	var c Config
	for _, k := range c.knobs() {
		if k.name == "adapter" {
			return k
		}
	}
	t.Fatal("there is no such knob")
	return knob{}
}
