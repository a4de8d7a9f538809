package access

import (
	"errors"
	"testing"

	"lorry/queue/queuetest"
)

func TestHolder(t *testing.T) {
	s := start(t, Config{JS: queuetest.JetStream(t)})
	_, k, err := s.CreateKey(t.Context(), CreateKey{Tenant: "acme", Admin: true})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.Holder(k.ID); err != nil || p != (Principal{Tenant: "acme", Admin: true, KeyID: k.ID}) {
		t.Errorf("Holder() = %+v, %v", p, err)
	}
	if err := s.Revoke(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{k.ID, "", "nobody"} {
		if _, err := s.Holder(id); !errors.Is(err, ErrBadKey) {
			t.Errorf("Holder(%q): %v, want ErrBadKey", id, err)
		}
	}
}
