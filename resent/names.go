// Package resent knows a request that is sent again, and leads it to what the first one made.
//
// What a request is to make is named before it is made, in a KV bucket: wherever the first one stopped, the next one
// finds the name, and makes what is not there yet under it.
package resent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// V is the version of the records that this package writes.
const V = 1

const (
	// RetriedFor is within which a request that says that it is a retry is the same: SDKs give up far earlier.
	RetriedFor = 15 * time.Minute
	// BoundFor is how long an idempotency key binds.
	BoundFor = 24 * time.Hour
)

// ErrMismatch is an idempotency key that was used with another body.
var ErrMismatch = errors.New("the idempotency key was used with another body")

// Repeat is how a request that is sent again is known. The zero value knows none.
type Repeat struct {
	// Body is a digest of the request (hex). One that says it is Retried finds what an equal one made within RetriedFor.
	// One with an IdempotencyKey finds what was made under it within BoundFor.
	Body           string
	Retried        bool
	IdempotencyKey string
}

// Names keeps what requests are to make, in a bucket that has a LimitMarkerTTL.
type Names struct {
	JS     jetstream.JetStream
	Bucket string
}

// intent says what a request is to make.
type intent struct {
	V    int    `json:"v"`
	ID   string `json:"id"`
	Body string `json:"body"`
}

// prefix begins the keys of intents: no tenant has "_" in its name.
const prefix = "_"

func sameKey(tenant, body string) string { return prefix + "same." + tenant + "." + shortSum(body) }
func idemKey(tenant, key string) string  { return prefix + "idem." + tenant + "." + shortSum(key) }

// Named says whether a key of the bucket is one of this package's.
func Named(key string) bool { return strings.HasPrefix(key, prefix) }

func shortSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// Name is the ID of what a tenant's request makes, or has made: fresh, unless an earlier one is found. ErrMismatch
// says that the idempotency key is another request's.
func (n Names) Name(ctx context.Context, tenant, fresh string, r Repeat) (string, error) {
	mine := intent{V, fresh, r.Body}
	switch {
	case r.IdempotencyKey != "":
		return n.bind(ctx, idemKey(tenant, r.IdempotencyKey), mine, BoundFor)
	case r.Body == "":
		return fresh, nil
	case r.Retried:
		return n.bind(ctx, sameKey(tenant, r.Body), mine, RetriedFor)
	}
	// Not a retry: it takes the place of an equal one that was made on purpose too.
	m := &nats.Msg{Subject: "$KV." + n.Bucket + "." + sameKey(tenant, r.Body), Data: encode(mine)}
	if _, err := n.JS.PublishMsg(ctx, m, jetstream.WithMsgTTL(RetriedFor)); err != nil {
		return "", fmt.Errorf("resent: name %s: %w", fresh, err)
	}
	return fresh, nil
}

// bind is what stands under a key, or mine from now on. The server forgets a key at its time.
func (n Names) bind(ctx context.Context, key string, mine intent, ttl time.Duration) (string, error) {
	kv, err := n.JS.KeyValue(ctx, n.Bucket)
	if err != nil {
		return "", fmt.Errorf("resent: bucket %s: %w", n.Bucket, err)
	}
	for {
		_, err := kv.Create(ctx, key, encode(mine), jetstream.KeyTTL(ttl))
		if err == nil {
			return mine.ID, nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return "", fmt.Errorf("resent: name %s: %w", mine.ID, err)
		}
		e, err := kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) { // gone meanwhile
			continue
		}
		if err != nil {
			return "", fmt.Errorf("resent: read %s: %w", key, err)
		}
		return standing(e, mine)
	}
}

// standing is what an intent of the same body says.
func standing(e jetstream.KeyValueEntry, mine intent) (string, error) {
	var there intent
	if err := json.Unmarshal(e.Value(), &there); err != nil {
		return "", fmt.Errorf("resent: read %s: %w", e.Key(), err)
	}
	if there.Body != mine.Body {
		return "", fmt.Errorf("resent: %w", ErrMismatch)
	}
	return there.ID, nil
}

func encode(i intent) []byte {
	b, err := json.Marshal(i)
	if err != nil {
		panic("resent: " + err.Error()) // our own type: a bug
	}
	return b
}
