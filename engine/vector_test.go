package engine

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"testing"
)

func TestVector(t *testing.T) {
	v := Vector{1, -0.5, math.SmallestNonzeroFloat32, math.MaxFloat32}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	// Little-endian float32, as numpy.frombuffer reads them.
	if want := `"AACAPwAAAL8BAAAA//9/fw=="`; string(b) != want {
		t.Errorf("wrote %s, want %s", b, want)
	}
	var back Vector
	if err := json.Unmarshal(b, &back); err != nil || !slices.Equal(back, v) {
		t.Errorf("read %v, %v", back, err)
	}
	if got := string(Vector{1, -0.5}.Floats()); got != "[1,-0.5]" {
		t.Errorf("numbers are %s", got)
	}
}

func FuzzVector(f *testing.F) {
	for _, s := range []string{"AACAPw==", "", "AAA=", "AACAPw\n=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v Vector
		if v.UnmarshalText([]byte(s)) != nil {
			return
		}
		raw, err := base64.StdEncoding.DecodeString(s)
		again, _ := v.MarshalText()
		if err != nil || len(raw) != 4*len(v) || string(again) != base64.StdEncoding.EncodeToString(raw) {
			t.Fatalf("%q became %d numbers, then %q", s, len(v), again)
		}
	})
}

func TestUnit(t *testing.T) {
	if v, ok := Unit([]float64{3, 4}); !ok || v[0] != 0.6 || v[1] != 0.8 {
		t.Errorf("got %v, %v", v, ok)
	}
	for name, sum := range map[string][]float64{"nothing": nil, "zero": {0, 0}, "no number": {math.NaN(), 1}, "infinite": {math.Inf(1), 1}} {
		if v, ok := Unit(sum); ok {
			t.Errorf("%s: got %v", name, v)
		}
	}
}

// TestCheckVectors: what is let through fits into a message, and what is not says how many would.
func TestCheckVectors(t *testing.T) {
	if err := CheckVectors(2048, 256); err != nil {
		t.Error(err)
	}
	if err := CheckVectors(2048, 4096); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	all := make([]Vector, 143)
	for i := range all {
		all[i] = make(Vector, 4096)
	}
	b, _ := json.Marshal(all)
	if err := CheckVectors(len(all), 4096); err != nil || len(b) > maxVectors {
		t.Errorf("%d vectors take %d bytes: %v", len(all), len(b), err)
	}
}
