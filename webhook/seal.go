package webhook

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Sentinels for errors.Is.
var (
	// ErrMasterKey is a master key of another size.
	ErrMasterKey = errors.New("a master key is 32 bytes, as 64 hex digits or base64")
	// ErrSealed is a sealed secret that no key here opens: the master key is missing or another one, the secret was
	// sealed for something else, or it was changed.
	ErrSealed = errors.New("the secret can't be opened with the master key of this instance")
)

// Sealer keeps secrets unreadable at rest: AES-256-GCM under a key derived from the master key. What a secret is for
// (its context) is authenticated too, so that one tenant's sealed secret is of no use in another's record. Without a
// master key it keeps secrets as they are, marked so.
type Sealer struct {
	keys []cipher.AEAD
}

const (
	sealedMark = "sealed:v1:"
	plainMark  = "plain:"
	masterSize = 32
)

// TenantContext is the context of the secrets that a tenant gives for its webhooks.
func TenantContext(tenant string) string { return "webhook secret of tenant " + tenant }

// ParseMasterKey reads a master key: 64 hex digits or base64 of 32 bytes. Empty gives nil: no sealing.
func ParseMasterKey(s string) ([]byte, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil, nil
	}
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString, base64.RawURLEncoding.DecodeString} {
		if k, err := decode(s); err == nil && len(k) == masterSize {
			return k, nil
		}
	}
	return nil, fmt.Errorf("webhook: %w", ErrMasterKey)
}

// NewSealer makes a sealer. The first key seals, all of them open, so that a master key can be replaced; nil keys are
// skipped, and without any the sealer keeps secrets as they are.
func NewSealer(masters ...[]byte) (*Sealer, error) {
	s := &Sealer{}
	for _, m := range masters {
		if m == nil {
			continue
		}
		if len(m) != masterSize {
			return nil, fmt.Errorf("webhook: a key of %d bytes: %w", len(m), ErrMasterKey)
		}
		a, err := aead(m)
		if err != nil {
			return nil, fmt.Errorf("webhook: %w", err)
		}
		s.keys = append(s.keys, a)
	}
	return s, nil
}

func aead(master []byte) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, master, nil, "lorry webhook secrets v1", masterSize)
	if err != nil {
		return nil, err
	}
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(b)
}

// Seals says whether there is a master key.
func (s *Sealer) Seals() bool { return s != nil && len(s.keys) > 0 }

// Seal makes a secret fit to be stored, for one context.
func (s *Sealer) Seal(context, secret string) string {
	if !s.Seals() {
		return plainMark + secret
	}
	return sealedMark + base64.RawURLEncoding.EncodeToString(s.keys[0].Seal(nil, nil, []byte(secret), []byte(context)))
}

// Open gives back what Seal was given for the same context.
func (s *Sealer) Open(context, stored string) (string, error) {
	if secret, ok := strings.CutPrefix(stored, plainMark); ok {
		return secret, nil
	}
	return s.OpenSealed(context, stored)
}

// OpenSealed is Open for what was out of our hands meanwhile: nothing is taken that a master key has not sealed.
func (s *Sealer) OpenSealed(context, stored string) (string, error) {
	coded, ok := strings.CutPrefix(stored, sealedMark)
	box, err := base64.RawURLEncoding.DecodeString(coded)
	if !ok || err != nil || !s.Seals() {
		return "", fmt.Errorf("webhook: %w", ErrSealed)
	}
	for _, k := range s.keys {
		if secret, err := k.Open(nil, nil, box, []byte(context)); err == nil {
			return string(secret), nil
		}
	}
	return "", fmt.Errorf("webhook: %w", ErrSealed)
}
