package webhook

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// Bucket is the KV bucket's name.
const Bucket = "webhooks"

const (
	instanceKey     = "instance" // of the bucket
	instanceContext = "webhook secret of the instance"
)

// SecretsConfig says where the instance's secrets are. JS is required.
type SecretsConfig struct {
	JS jetstream.JetStream
	// Replicas of the bucket; 0 is 1.
	Replicas int
	// Sealer keeps them unreadable at rest; nil keeps them as they are.
	Sealer *Sealer
	Log    zerolog.Logger
}

// Secrets are the instance's own: they sign every event that came without a secret.
type Secrets struct{ cfg SecretsConfig }

// record is what the bucket holds.
type record struct {
	V       int     `json:"v"`
	Secrets keyring `json:"secrets"`
}

// NewSecrets makes Secrets. It asks the server nothing.
func NewSecrets(c SecretsConfig) *Secrets {
	c.Replicas = cmp.Or(c.Replicas, 1)
	return &Secrets{c}
}

// Setup makes the bucket, which is the endpoints' too. It is an admin step; doing it again changes nothing.
func (s *Secrets) Setup(ctx context.Context) error {
	c := jetstream.KeyValueConfig{Bucket: Bucket, Description: "webhooks' secrets and endpoints", Storage: jetstream.FileStorage, Replicas: s.cfg.Replicas,
		LimitMarkerTTL: time.Hour} // keys that requests are known by are forgotten
	if _, err := s.cfg.JS.CreateOrUpdateKeyValue(ctx, c); err != nil {
		return fmt.Errorf("webhook: set up bucket %s: %w", Bucket, err)
	}
	return nil
}

// InstanceSecret is the current secret. The first call of a fleet's life makes it.
func (s *Secrets) InstanceSecret(ctx context.Context) (string, error) {
	all, err := s.Signing(ctx)
	if err != nil {
		return "", err
	}
	return all[0], nil
}

// Signing are the secrets that sign now, the current one first: several for a while behind a rotation.
func (s *Secrets) Signing(ctx context.Context) ([]string, error) {
	kv, err := s.bucket(ctx)
	if err != nil {
		return nil, err
	}
	r, _, err := s.read(ctx, kv)
	if err != nil {
		return nil, err
	}
	return s.open(r, time.Now())
}

// Rotate makes a new secret and returns it. For overlap the one before signs too, so that receivers have time to learn
// the new one.
func (s *Secrets) Rotate(ctx context.Context, overlap time.Duration) (string, error) {
	kv, err := s.bucket(ctx)
	if err != nil {
		return "", err
	}
	for {
		r, revision, err := s.read(ctx, kv)
		if err != nil {
			return "", err
		}
		fresh := NewSecret()
		_, err = kv.Update(ctx, instanceKey, encode(s.rotated(r, fresh, time.Now(), overlap)), revision)
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue // someone else rotated: look again
		}
		if err != nil {
			return "", fmt.Errorf("webhook: rotate the instance's secret: %w", err)
		}
		s.cfg.Log.Info().Dur("overlap", overlap).Msg("instance's webhook secret rotated")
		return fresh, nil
	}
}

func (s *Secrets) rotated(r record, fresh string, now time.Time, overlap time.Duration) record {
	return record{V: V, Secrets: r.Secrets.rotated(s.cfg.Sealer.Seal(instanceContext, fresh), now, overlap)}
}

func (s *Secrets) open(r record, now time.Time) ([]string, error) {
	out, err := r.Secrets.open(s.cfg.Sealer, instanceContext, now)
	if err != nil {
		return nil, fmt.Errorf("webhook: the instance's secret: %w", err)
	}
	return out, nil
}

// read is the record; the first reader of a fleet's life writes it.
func (s *Secrets) read(ctx context.Context, kv jetstream.KeyValue) (r record, revision uint64, err error) {
	e, err := kv.Get(ctx, instanceKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		first := s.rotated(record{}, NewSecret(), time.Now(), 0)
		if _, err = kv.Create(ctx, instanceKey, encode(first)); err == nil || errors.Is(err, jetstream.ErrKeyExists) {
			e, err = kv.Get(ctx, instanceKey) // whoever was first: theirs stands
		}
	}
	if err != nil {
		return r, 0, fmt.Errorf("webhook: read the instance's secret: %w", err)
	}
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		return r, 0, fmt.Errorf("webhook: read the instance's secret: %w", err)
	}
	return r, e.Revision(), nil
}

func (s *Secrets) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	return bucket(ctx, s.cfg.JS)
}

func bucket(ctx context.Context, js jetstream.JetStream) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, Bucket)
	if err != nil {
		return nil, fmt.Errorf("webhook: bucket %s: %w", Bucket, err)
	}
	return kv, nil
}
