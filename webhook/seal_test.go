package webhook

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestSealAndOpen(t *testing.T) {
	first, second := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	seal := func(ks ...[]byte) *Sealer {
		s, err := NewSealer(ks...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	box := seal(first).Seal("tenant a", goldenSecret)
	plain := seal().Seal("tenant a", goldenSecret)
	if strings.Contains(box, goldenSecret) || box == seal(first).Seal("tenant a", goldenSecret) {
		t.Errorf("sealed: %q", box)
	}
	changed := []byte(box)
	changed[len(changed)-3] ^= 1
	for name, c := range map[string]struct {
		s            *Sealer
		context, box string
		ok           bool
	}{
		"same key":                     {seal(first), "tenant a", box, true},
		"after a change of master key": {seal(second, first), "tenant a", box, true},
		"kept plain, no key":           {seal(), "tenant a", plain, true},
		"kept plain, nil sealer":       {nil, "tenant a", plain, true},
		"kept plain, then a key":       {seal(first), "tenant a", plain, true},
		"another context":              {seal(first), "tenant b", box, false},
		"another key":                  {seal(second), "tenant a", box, false},
		"no key":                       {seal(), "tenant a", box, false},
		"changed":                      {seal(first), "tenant a", string(changed), false},
		"cut":                          {seal(first), "tenant a", box[:len(box)-4], false},
		"mark alone":                   {seal(first), "tenant a", sealedMark, false},
		"unmarked":                     {seal(first), "tenant a", goldenSecret, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.s.Open(c.context, c.box)
			if c.ok && (err != nil || got != goldenSecret) || !c.ok && !errors.Is(err, ErrSealed) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestMasterKey(t *testing.T) {
	k := bytes.Repeat([]byte{0xfb}, 32)
	for name, s := range map[string]string{"hex": hex.EncodeToString(k), "base64": base64.StdEncoding.EncodeToString(k),
		"url base64": base64.RawURLEncoding.EncodeToString(k), "with a newline": hex.EncodeToString(k) + "\n"} {
		if got, err := ParseMasterKey(s); err != nil || !bytes.Equal(got, k) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if got, err := ParseMasterKey(""); got != nil || err != nil {
		t.Errorf("empty: %x, %v", got, err)
	}
	for _, s := range []string{"secret", hex.EncodeToString(k[:31]), hex.EncodeToString(append(k, 1))} {
		if _, err := ParseMasterKey(s); !errors.Is(err, ErrMasterKey) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := NewSealer([]byte("short")); !errors.Is(err, ErrMasterKey) {
		t.Errorf("short key: %v", err)
	}
}

// What was kept as it is is no seal: whoever holds it may have written it.
func TestOpenSealed(t *testing.T) {
	s, err := NewSealer(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.OpenSealed("a", s.Seal("a", "x")); got != "x" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for name, sealer := range map[string]*Sealer{"with a key": s, "without": nil} {
		if got, err := sealer.OpenSealed("a", (*Sealer)(nil).Seal("a", "x")); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
