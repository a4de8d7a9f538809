package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Headers of the Standard Webhooks scheme.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

const (
	secretPrefix     = "whsec_"
	signatureVersion = "v1,"
	// Tolerance is how far a timestamp may be off: receivers refuse older ones, so each attempt is stamped and signed anew.
	Tolerance = 5 * time.Minute
)

// Sentinels for errors.Is.
var (
	// ErrSecret is a secret that can't sign.
	ErrSecret = errors.New(`a webhook secret is "whsec_" and base64 of at least 24 bytes, or at least 24 bytes as they are`)
	// ErrSignature is a message that no given secret signed, or that is too old or too new.
	ErrSignature = errors.New("the webhook's signature does not match")
)

// NewSecret makes a secret: 32 random bytes.
func NewSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(b)
}

const minSecret, maxSecret = 24, 512

// CheckSecret says whether a secret can sign and is long enough to be one.
func CheckSecret(secret string) error {
	k, err := key(secret)
	if err == nil && (len(k) < minSecret || len(k) > maxSecret) {
		return fmt.Errorf("webhook: a secret of %d bytes: %w", len(k), ErrSecret)
	}
	return err
}

// key is the HMAC key of a secret: what stands behind the prefix, decoded; without a prefix the bytes as they are.
func key(secret string) ([]byte, error) {
	coded, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		if secret == "" {
			return nil, fmt.Errorf("webhook: an empty secret: %w", ErrSecret)
		}
		return []byte(secret), nil
	}
	k, err := base64.StdEncoding.DecodeString(coded)
	if err != nil || len(k) == 0 {
		return nil, fmt.Errorf("webhook: a secret that is not base64: %w", ErrSecret)
	}
	return k, nil
}

// Sign is the signature "v1,…" of a message under one secret.
func Sign(secret, id string, ts time.Time, body []byte) (string, error) {
	k, err := key(secret)
	if err != nil {
		return "", err
	}
	return signatureVersion + base64.StdEncoding.EncodeToString(mac(k, id, ts.Unix(), body)), nil
}

// SignAll is the header's value under several secrets: while one is rotated out, receivers may hold either.
func SignAll(secrets []string, id string, ts time.Time, body []byte) (string, error) {
	if len(secrets) == 0 {
		return "", fmt.Errorf("webhook: sign %s: %w", id, ErrSecret)
	}
	out := make([]string, 0, len(secrets))
	for _, s := range secrets {
		sig, err := Sign(s, id, ts, body)
		if err != nil {
			return "", err
		}
		out = append(out, sig)
	}
	return strings.Join(out, " "), nil
}

// Verify is the receiver's side: it says whether one of the header's signatures is of this secret, and whether the
// timestamp is within Tolerance of now.
func Verify(secret, id, timestamp, signatures string, body []byte, now time.Time) error {
	k, err := key(secret)
	if err != nil {
		return err
	}
	ts, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return fmt.Errorf("webhook: timestamp %.20q: %w", timestamp, ErrSignature)
	}
	if d := now.Sub(time.Unix(ts, 0)); d > Tolerance || d < -Tolerance {
		return fmt.Errorf("webhook: timestamp is %s off: %w", d, ErrSignature)
	}
	want := mac(k, id, ts, body)
	for s := range strings.FieldsSeq(signatures) {
		coded, ok := strings.CutPrefix(s, signatureVersion)
		if got, err := base64.StdEncoding.DecodeString(coded); ok && err == nil && hmac.Equal(got, want) {
			return nil
		}
	}
	return fmt.Errorf("webhook: message %.60q: %w", id, ErrSignature)
}

func mac(k []byte, id string, ts int64, body []byte) []byte {
	h := hmac.New(sha256.New, k)
	fmt.Fprintf(h, "%s.%d.", id, ts)
	h.Write(body)
	return h.Sum(nil)
}
