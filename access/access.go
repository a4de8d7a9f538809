// Package access knows who may do what: keys, the tenants behind them, and the tenants' settings.
//
// Its records live in the KV bucket "access": key.<id> holds a key's hash (never the key), tenant.<T> a tenant's
// settings. Every process watches the bucket into memory, so that authentication costs no round trip; a key that is
// revoked stops working everywhere within the watch's delay, a millisecond or so on one box.
package access

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// Bucket is the KV bucket's name.
const Bucket = "access"

// DefaultTenant is whom a fleet without keys serves.
const DefaultTenant = "default"

// Sentinels for errors.Is.
var (
	// ErrNoKey is a request without a key where one is needed.
	ErrNoKey = errors.New("no API key was given")
	// ErrBadKey is a key that is malformed, unknown or revoked. Which of the three is not said.
	ErrBadKey = errors.New("the API key is not valid")
	// ErrNotReady is a store that has not read its bucket yet: nobody can be authenticated for now.
	ErrNotReady = errors.New("the keys are not loaded yet")
	// ErrNotFound is a key's ID that does not exist.
	ErrNotFound = errors.New("no such key")
	// ErrSlug is a tenant's name that does not fit into subjects and keys.
	ErrSlug = errors.New("a tenant's name has 1 to 32 of a-z, 0-9 and -")
)

// Config says where the keys are. JS is required.
type Config struct {
	JS jetstream.JetStream
	// Replicas of the bucket; 0 is 1.
	Replicas int
	// Open serves DefaultTenant, whatever the bearer, while no key was ever made. Only for a loopback listener. A first
	// key ends it at once, and revoking that key does not bring it back.
	Open bool
	Log  zerolog.Logger
}

// Store is the keys and tenants of a fleet. Its methods may be called from many goroutines.
type Store struct {
	cfg   Config
	ready chan struct{} // closed once the bucket has been read

	mu   sync.RWMutex
	view view
}

// New makes a Store. It asks the server nothing.
func New(c Config) *Store {
	c.Replicas = cmp.Or(c.Replicas, 1)
	return &Store{cfg: c, ready: make(chan struct{}), view: newView()}
}

// Setup makes the bucket. It is an admin step; doing it again changes nothing.
func (s *Store) Setup(ctx context.Context) error {
	c := jetstream.KeyValueConfig{Bucket: Bucket, Description: "keys (hashed) and tenants' settings", Storage: jetstream.FileStorage, Replicas: s.cfg.Replicas}
	if _, err := s.cfg.JS.CreateOrUpdateKeyValue(ctx, c); err != nil {
		return fmt.Errorf("access: set up bucket %s: %w", Bucket, err)
	}
	return nil
}

// Ready is closed once Run has read the bucket: from then on Authenticate answers.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Principal is who sends a request.
type Principal struct {
	Tenant string
	// Admin may see all tenants, and make and revoke keys.
	Admin bool
	// KeyID names the key; empty where none was needed.
	KeyID string
}

// Authenticate says who holds a key (the bearer token itself, without "Bearer "). It reads memory only.
func (s *Store) Authenticate(bearer string) (Principal, error) {
	select {
	case <-s.ready:
	default:
		return Principal{}, ErrNotReady
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.cfg.Open && len(s.view.keys) == 0 {
		return Principal{Tenant: DefaultTenant, Admin: true}, nil
	}
	if bearer == "" {
		return Principal{}, ErrNoKey
	}
	id, secret, ok := parse(bearer)
	if !ok {
		return Principal{}, ErrBadKey
	}
	k := s.view.keys[id] // an unknown ID is the zero key, which nothing matches
	if !k.matches(secret) || k.Revoked != 0 {
		return Principal{}, ErrBadKey
	}
	return Principal{Tenant: k.Tenant, Admin: k.Admin, KeyID: id}, nil
}

// IsOpen says whether everybody is let in now, as Config.Open explains.
func (s *Store) IsOpen() bool {
	p, err := s.Authenticate("")
	return err == nil && p.KeyID == ""
}

// slug keeps tenants' names fit for subjects, Redis hash tags and durable names.
var slug = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// Slug checks a tenant's name.
func Slug(tenant string) error {
	if !slug.MatchString(tenant) {
		return fmt.Errorf("access: tenant %.40q: %w", tenant, ErrSlug)
	}
	return nil
}

// bucket looks the bucket up.
func (s *Store) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := s.cfg.JS.KeyValue(ctx, Bucket)
	if err != nil {
		return nil, fmt.Errorf("access: bucket %s: %w", Bucket, err)
	}
	return kv, nil
}

// put writes a record; revision 0 creates it. Another writer in between is jetstream.ErrKeyExists or
// jetstream.ErrKeyRevisionMismatch. The own view has the record when put returns.
func (s *Store) put(ctx context.Context, kv jetstream.KeyValue, key string, revision uint64, record any) error {
	b, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("access: write %s: %w", key, err)
	}
	if revision == 0 {
		revision, err = kv.Create(ctx, key, b)
	} else {
		revision, err = kv.Update(ctx, key, b, revision)
	}
	if err != nil {
		return fmt.Errorf("access: write %s: %w", key, err)
	}
	s.apply(change{key: key, value: b, revision: revision})
	return nil
}

func now() int64 { return time.Now().Unix() }
