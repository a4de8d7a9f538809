package resent

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"lorry/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T) Names {
	js := queuetest.JetStream(t)
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "requests", LimitMarkerTTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return Names{JS: js, Bucket: "requests"}
}

func TestName(t *testing.T) {
	n := open(t)
	plain, retried, keyed := Repeat{Body: "d"}, Repeat{Body: "d", Retried: true}, Repeat{Body: "d", IdempotencyKey: "k"}
	for _, c := range []struct {
		what          string
		tenant, fresh string
		r             Repeat
		want          string
	}{
		{"a request", "acme", "a", plain, "a"},
		{"its retry", "acme", "b", retried, "a"},
		{"an equal request", "acme", "c", plain, "c"},
		{"its retry", "acme", "d", retried, "c"},
		{"another tenant's", "other", "e", retried, "e"},
		{"a retry whose first try never came", "acme", "f", Repeat{Body: "d2", Retried: true}, "f"},
		{"its retry", "acme", "g", Repeat{Body: "d2", Retried: true}, "f"},
		{"a key", "acme", "h", keyed, "h"},
		{"the key again", "acme", "i", keyed, "h"},
		{"another tenant's key", "other", "j", keyed, "j"},
		{"one that nobody can know again", "acme", "k", Repeat{}, "k"},
	} {
		if got, err := n.Name(t.Context(), c.tenant, c.fresh, c.r); err != nil || got != c.want {
			t.Errorf("%s: %q %v, want %q", c.what, got, err, c.want)
		}
	}
	if _, err := n.Name(t.Context(), "acme", "l", Repeat{Body: "another", IdempotencyKey: "k"}); !errors.Is(err, ErrMismatch) {
		t.Errorf("a key with another body: %v", err)
	}
}

// TestNamesAreForgotten: the server drops each record at its time.
func TestNamesAreForgotten(t *testing.T) {
	n := open(t)
	for key, c := range map[string]struct {
		r    Repeat
		want time.Duration
	}{
		sameKey("acme", "d"):  {Repeat{Body: "d"}, RetriedFor},
		sameKey("acme", "d2"): {Repeat{Body: "d2", Retried: true}, RetriedFor},
		idemKey("acme", "k"):  {Repeat{Body: "d", IdempotencyKey: "k"}, BoundFor},
	} {
		if _, err := n.Name(t.Context(), "acme", "a", c.r); err != nil {
			t.Fatal(err)
		}
		if got := ttl(t.Context(), t, n, key); got != c.want {
			t.Errorf("%+v is kept for %s, want %s", c.r, got, c.want)
		}
		if !Named(key) || Named("acme.batch_1") {
			t.Errorf("%s is not told from other keys", key)
		}
	}
}

func ttl(ctx context.Context, t *testing.T, n Names, key string) time.Duration {
	t.Helper()
	s, err := n.JS.Stream(ctx, "KV_"+n.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(ctx, "$KV."+n.Bucket+"."+key)
	if err != nil {
		t.Fatal(err)
	}
	d, err := time.ParseDuration(m.Header.Get("Nats-TTL"))
	if err != nil {
		t.Fatalf("%s: %v in %v", key, err, m.Header)
	}
	return d
}

// TestGolden: bytes that other versions read. A change here needs a new V, and a reader of the old one.
func TestGolden(t *testing.T) {
	golden, err := os.ReadFile("testdata/intent.v1.json")
	if err != nil || string(golden) != string(encode(intent{V, "batch_1", "d"})) {
		t.Errorf("%s: %v", golden, err)
	}
}
