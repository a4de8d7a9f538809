package webhook

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// The golden vector of openai-python's tests/lib/test_webhooks.py.
const (
	goldenSecret = "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c="
	goldenID     = "wh_685c059ae39c8190af8c71ed1022a24d"
	goldenStamp  = "1750861210"
	goldenBody   = `{"id": "evt_685c059ae3a481909bdc86819b066fb6", "object": "event", "created_at": 1750861210, "type": "response.completed", "data": {"id": "resp_123"}}`
	goldenSig    = "v1,gUAg4R2hWouRZqRQG4uJypNS8YK885G838+EHb4nKBY="
)

var goldenTime = time.Unix(1750861210, 0)

func TestSignGolden(t *testing.T) {
	got, err := Sign(goldenSecret, goldenID, goldenTime, []byte(goldenBody))
	if err != nil || got != goldenSig {
		t.Errorf("got %q, %v; want %q", got, err, goldenSig)
	}
}

func TestSignWithRawBytes(t *testing.T) {
	k, err := key(goldenSecret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Sign(string(k), goldenID, goldenTime, []byte(goldenBody)) // the same key, without the prefix
	if err != nil || got != goldenSig {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestVerify(t *testing.T) {
	mine := NewSecret()
	both, err := SignAll([]string{mine, goldenSecret}, goldenID, goldenTime, []byte(goldenBody))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		secret, id, stamp, sig, body string
		off                          time.Duration
		want                         error
	}{
		"golden":             {goldenSecret, goldenID, goldenStamp, goldenSig, goldenBody, 0, nil},
		"rotation, old":      {goldenSecret, goldenID, goldenStamp, both, goldenBody, 0, nil},
		"rotation, new":      {mine, goldenID, goldenStamp, both, goldenBody, 0, nil},
		"other versions too": {goldenSecret, goldenID, goldenStamp, "v1a,xxxx  " + goldenSig, goldenBody, 0, nil},
		"edge of tolerance":  {goldenSecret, goldenID, goldenStamp, goldenSig, goldenBody, Tolerance, nil},
		"too old":            {goldenSecret, goldenID, goldenStamp, goldenSig, goldenBody, Tolerance + time.Second, ErrSignature},
		"too new":            {goldenSecret, goldenID, goldenStamp, goldenSig, goldenBody, -Tolerance - time.Second, ErrSignature},
		"other body":         {goldenSecret, goldenID, goldenStamp, goldenSig, goldenBody + " ", 0, ErrSignature},
		"other id":           {goldenSecret, "wh_1", goldenStamp, goldenSig, goldenBody, 0, ErrSignature},
		"other stamp":        {goldenSecret, goldenID, "1750861211", goldenSig, goldenBody, 0, ErrSignature},
		"other secret":       {NewSecret(), goldenID, goldenStamp, goldenSig, goldenBody, 0, ErrSignature},
		"no signature":       {goldenSecret, goldenID, goldenStamp, "", goldenBody, 0, ErrSignature},
		"bare signature":     {goldenSecret, goldenID, goldenStamp, goldenSig[3:], goldenBody, 0, ErrSignature},
		"stamp in words":     {goldenSecret, goldenID, "now", goldenSig, goldenBody, 0, ErrSignature},
		"no secret":          {"", goldenID, goldenStamp, goldenSig, goldenBody, 0, ErrSecret},
		"bad secret":         {"whsec_%", goldenID, goldenStamp, goldenSig, goldenBody, 0, ErrSecret},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Verify(c.secret, c.id, c.stamp, c.sig, []byte(c.body), goldenTime.Add(c.off)); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	if a, b := NewSecret(), NewSecret(); a == b || CheckSecret(a) != nil {
		t.Errorf("%q, %q", a, b)
	}
	for name, c := range map[string]struct {
		secret string
		ok     bool
	}{
		"golden": {goldenSecret, true}, "raw": {strings.Repeat("x", 24), true}, "short raw": {strings.Repeat("x", 23), false},
		"empty": {"", false}, "prefix alone": {"whsec_", false}, "short": {"whsec_aGVsbG8=", false}, "not base64": {"whsec_" + strings.Repeat("%", 40), false},
		"huge": {strings.Repeat("x", 513), false},
	} {
		if err := CheckSecret(c.secret); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrSecret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := SignAll(nil, "evt_1", goldenTime, nil); !errors.Is(err, ErrSecret) {
		t.Errorf("no secrets: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(goldenStamp, goldenSig, []byte(goldenBody))
	f.Add("-1", "v1, v1,=", []byte("{}"))
	want, _ := Sign(goldenSecret, goldenID, goldenTime, []byte(goldenBody))
	f.Fuzz(func(t *testing.T, stamp, sig string, body []byte) {
		err := Verify(goldenSecret, goldenID, stamp, sig, body, goldenTime)
		if err == nil && !strings.Contains(sig, want) && string(body) == goldenBody && stamp == goldenStamp {
			t.Errorf("%q passed", sig)
		}
		if err != nil && !errors.Is(err, ErrSignature) {
			t.Errorf("%q, %q: %v", stamp, sig, err)
		}
	})
}
