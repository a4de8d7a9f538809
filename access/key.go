package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Prefix starts every key, so that scanners for leaked secrets find one that was published by mistake.
const Prefix = "lorry_"

const keyKeys = "key." // of the bucket

// Key is what is kept of a key: all but the secret.
type Key struct {
	V      int    `json:"v"`
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Admin  bool   `json:"admin,omitempty"`
	Name   string `json:"name,omitempty"`
	// Hash is the SHA-256 of the secret. Fast is right here: the secret is 32 random bytes, and nobody guesses those.
	Hash []byte `json:"hash"`
	// Created and Revoked are unix seconds; Revoked is 0 for a key that works.
	Created int64 `json:"created"`
	Revoked int64 `json:"revoked,omitempty"`
}

// CreateKey is a wish for a key.
type CreateKey struct {
	// Tenant is whose work the key submits; required.
	Tenant string
	// Admin keys see all tenants, and make and revoke keys.
	Admin bool
	// Name is a note for people, at most 100 bytes.
	Name string
}

// encoding has neither "_" (which parts a key) nor upper case, and a double click selects all of it.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

const (
	idBytes, secretBytes = 8, 32
	maxName              = 100
)

// CreateKey makes a key. The secret is returned once and kept nowhere.
func (s *Store) CreateKey(ctx context.Context, c CreateKey) (secret string, k Key, err error) {
	if err := Slug(c.Tenant); err != nil {
		return "", Key{}, err
	}
	if len(c.Name) > maxName {
		return "", Key{}, fmt.Errorf("access: a key's name has at most %d bytes", maxName)
	}
	kv, err := s.bucket(ctx)
	if err != nil {
		return "", Key{}, err
	}
	word := random(secretBytes)
	k = Key{V: 1, ID: random(idBytes), Tenant: c.Tenant, Admin: c.Admin, Name: c.Name, Hash: hash(word), Created: now()}
	if err := s.put(ctx, kv, keyKeys+k.ID, 0, k); err != nil {
		return "", Key{}, err
	}
	s.cfg.Log.Info().Str("key", k.ID).Str("tenant", k.Tenant).Bool("admin", k.Admin).Msg("key created")
	return Prefix + k.ID + "_" + word, k, nil
}

// Keys are all keys ever made, revoked ones too, the oldest first. It asks the server, and needs no Run.
func (s *Store) Keys(ctx context.Context) ([]Key, error) {
	kv, err := s.bucket(ctx)
	if err != nil {
		return nil, err
	}
	v, err := read(ctx, kv)
	if err != nil {
		return nil, err
	}
	out := make([]Key, 0, len(v.keys))
	for _, k := range v.keys {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Key) int {
		if a.Created != b.Created {
			return int(a.Created - b.Created)
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// HasKeys says whether any key works. It asks the server, and needs no Run.
func (s *Store) HasKeys(ctx context.Context) (bool, error) {
	ks, err := s.Keys(ctx)
	return slices.ContainsFunc(ks, func(k Key) bool { return k.Revoked == 0 }), err
}

// Revoke ends a key, by its ID. Revoking it again changes nothing.
func (s *Store) Revoke(ctx context.Context, id string) error {
	kv, err := s.bucket(ctx)
	if err != nil {
		return err
	}
	for {
		k, revision, err := getKey(ctx, kv, id)
		if err != nil || k.Revoked != 0 {
			return err
		}
		k.Revoked = now()
		err = s.put(ctx, kv, keyKeys+id, revision, k)
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue // someone else wrote it: look again
		}
		if err == nil {
			s.cfg.Log.Info().Str("key", id).Str("tenant", k.Tenant).Msg("key revoked")
		}
		return err
	}
}

func getKey(ctx context.Context, kv jetstream.KeyValue, id string) (k Key, revision uint64, err error) {
	if !validID(id) {
		return k, 0, fmt.Errorf("access: key %.40q: %w", id, ErrNotFound)
	}
	e, err := kv.Get(ctx, keyKeys+id)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return k, 0, fmt.Errorf("access: key %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return k, 0, fmt.Errorf("access: key %s: %w", id, err)
	}
	if err := json.Unmarshal(e.Value(), &k); err != nil {
		return k, 0, fmt.Errorf("access: key %s: %w", id, err)
	}
	return k, e.Revision(), nil
}

// parse takes a key apart. ok is false for what cannot be one.
func parse(key string) (id, secret string, ok bool) {
	rest, ok := strings.CutPrefix(key, Prefix)
	if !ok {
		return "", "", false
	}
	id, secret, ok = strings.Cut(rest, "_")
	return id, secret, ok && validID(id) && len(secret) == encoding.EncodedLen(secretBytes)
}

func validID(id string) bool {
	b, err := encoding.DecodeString(id)
	return err == nil && len(b) == idBytes
}

func (k Key) matches(secret string) bool {
	return subtle.ConstantTimeCompare(k.Hash, hash(secret)) == 1
}

func hash(secret string) []byte {
	h := sha256.Sum256([]byte(secret))
	return h[:]
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return encoding.EncodeToString(b)
}
