package webhook

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"lorry/queue/queuetest"
)

func TestInstanceSecretIsMadeOnce(t *testing.T) {
	js := queuetest.JetStream(t)
	sealer, _ := NewSealer(bytes.Repeat([]byte{7}, 32))
	s := NewSecrets(SecretsConfig{JS: js, Sealer: sealer})
	if err := s.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	made := make(chan string, 8)
	for range cap(made) {
		go func() {
			secret, err := NewSecrets(SecretsConfig{JS: js, Sealer: sealer}).InstanceSecret(context.Background())
			if err != nil {
				t.Error(err)
			}
			made <- secret
		}()
	}
	first := <-made
	for range cap(made) - 1 {
		if again := <-made; again != first {
			t.Errorf("two secrets: %q, %q", first, again)
		}
	}
	if err := CheckSecret(first); err != nil {
		t.Error(err)
	}
	kv, _ := js.KeyValue(t.Context(), Bucket)
	e, _ := kv.Get(t.Context(), instanceKey)
	if strings.Contains(string(e.Value()), first) {
		t.Error("the bucket holds the secret itself")
	}
	if _, err := NewSecrets(SecretsConfig{JS: js}).InstanceSecret(t.Context()); !errors.Is(err, ErrSealed) {
		t.Errorf("without the master key: %v", err)
	}
}

func TestRotation(t *testing.T) {
	s := NewSecrets(SecretsConfig{JS: queuetest.JetStream(t)})
	if err := s.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, err := s.InstanceSecret(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Rotate(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Signing(t.Context()); err != nil || !slices.Equal(got, []string{second, first}) {
		t.Errorf("both sign for a while: %q, %v", got, err)
	}
	third, err := s.Rotate(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Signing(t.Context()); err != nil || !slices.Equal(got, []string{third}) {
		t.Errorf("no overlap: %q, %v", got, err)
	}
}

func TestRotatedOutSecretsSignUntilTheirEnd(t *testing.T) {
	now := time.Unix(1e9, 0)
	var plain *Sealer
	k := keyring{}.rotated(plain.Seal("", "a"), now, 0)
	k = k.rotated(plain.Seal("", "b"), now, time.Hour)
	k = k.rotated(plain.Seal("", "c"), now.Add(30*time.Minute), time.Hour) // a's end stays, an hour behind its own rotation
	for at, want := range map[time.Duration][]string{30 * time.Minute: {"c", "b", "a"}, 61 * time.Minute: {"c", "b"}, 91 * time.Minute: {"c"}} {
		if got, err := k.open(plain, "", now.Add(at)); err != nil || !slices.Equal(got, want) {
			t.Errorf("after %s: %q, %v; want %q", at, got, err, want)
		}
	}
	if got, want := k.overlap(now.Add(30*time.Minute)), now.Add(90*time.Minute).Unix(); got != want {
		t.Errorf("the overlap ends at %d, want %d", got, want)
	}
	if got := k.overlap(now.Add(2 * time.Hour)); got != 0 {
		t.Errorf("an overlap is left: %d", got)
	}
}

func TestEventID(t *testing.T) {
	for id, want := range map[string]string{"job_01j": "evt_01j", "batch_01k": "evt_01k", "x": "evt_x"} {
		if got := EventID(id); got != want {
			t.Errorf("%s: %s", id, got)
		}
	}
	if got := ResponseEventID("job_01j"); got != "evt_resp_01j" {
		t.Error(got)
	}
	if got := DeliveryID("evt_01j", "we_01k"); got != "dlv_01j-01k" {
		t.Error(got)
	}
}
