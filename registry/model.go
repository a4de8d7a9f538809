// Package registry names the models that a fleet serves, and says what a name stands for.
//
// Its records live in the KV bucket "models", one a model, written by compare-and-set on the revision. Every process
// watches the bucket into memory, so that a name is resolved without a round trip. A name is resolved once, when a job
// is accepted: the digests then travel with the job.
package registry

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"lorry/engine"
)

// V is the version of the records that this package writes. A reader takes V and V−1.
const V = 1

// Sentinels for errors.Is.
var (
	// ErrNotFound is a name, alias or version that nothing is registered under.
	ErrNotFound = errors.New("no such model")
	// ErrName is a name that no model can have.
	ErrName = errors.New(`a model's name has 1 to 128 of letters, digits, ".", "_", "-" and "/"; a version (":v") or an alias ("@a") may follow`)
	// ErrDigest is a digest that is not 64 lower-case hex digits.
	ErrDigest = errors.New("a digest is 64 lower-case hex digits")
	// ErrNotReady is a registry that has not read its bucket yet.
	ErrNotReady = errors.New("the models are not loaded yet")
)

// Model is what a name stands for.
type Model struct {
	V int `json:"v"`
	// Name is what clients ask for: a name, or name:version.
	Name string `json:"name"`
	// Base, Adapter, Template and Settings are lower-case hex SHA-256 digests; all but Base may be empty.
	Base     string `json:"base"`
	Adapter  string `json:"adapter,omitempty"`
	Template string `json:"template,omitempty"`
	Settings string `json:"settings,omitempty"`
	// Context is the longest prompt and answer together, in tokens; 0 where it isn't known.
	Context int `json:"context,omitempty"`
	// Runtime is what runs it, as "llama", "echo" or "remote".
	Runtime string `json:"runtime,omitempty"`
	// File is where the worker that registered it found its weights.
	File string `json:"file,omitempty"`
	// Created is when the name was first registered, in unix seconds; Put fills it in.
	Created int64 `json:"created"`
	// OwnedBy is OpenAI's owned_by; empty shows as "lorry".
	OwnedBy string `json:"owned_by,omitempty"`
	// Stored says that the weights were pushed: they lie in the fleet's store under Base, and any worker may fetch them.
	Stored bool `json:"stored,omitempty"`
	// Size is how many bytes the pushed file takes, Format the number format of most of it, as "q4_0".
	Size   int64  `json:"size,omitempty"`
	Format string `json:"format,omitempty"`
	// Source is the digest of the file that was pushed, where Base was quantized from it.
	Source string `json:"source,omitempty"`
	// KV is how many bytes a token's keys and values take in a pushed model, in f16; 0 where that is not known.
	KV int64 `json:"kv,omitempty"`
}

// Pushed says whether it is a model, no adapter, whose file any worker may fetch.
func (m Model) Pushed() bool { return m.Stored && m.Adapter == "" }

// keep takes over what a push told of the same file.
func (m *Model) keep(old Model) {
	m.Stored, m.Size, m.Format, m.Source, m.OwnedBy, m.KV = true, old.Size, old.Format, old.Source, old.OwnedBy, old.KV
}

// Engine is what a request for the model runs on.
func (m Model) Engine() engine.Model {
	return engine.Model{Name: m.Name, Base: m.Base, Adapter: m.Adapter, Template: m.Template, Settings: m.Settings}
}

// same says whether two records stand for the same thing.
func (m Model) same(o Model) bool {
	m.Created, o.Created = 0, 0
	return m == o
}

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (m Model) check() error {
	if r, err := ParseName(m.Name); err != nil || r.Alias != "" {
		return fmt.Errorf("registry: model %.140q: %w", m.Name, ErrName)
	}
	for field, d := range map[string]string{"base": m.Base, "adapter": m.Adapter, "template": m.Template, "settings": m.Settings, "source": m.Source} {
		if (d != "" || field == "base") && !digest.MatchString(d) {
			return fmt.Errorf("registry: model %s: %s %.70q: %w", m.Name, field, d, ErrDigest)
		}
	}
	if m.Context < 0 {
		return fmt.Errorf("registry: model %s: context %d is negative", m.Name, m.Context)
	}
	return nil
}

// Name is a model's name taken apart: name, name:version or name@alias.
type Name struct {
	Name, Version, Alias string
}

var (
	name = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9_-])?$`)
	tag  = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?$`)
)

// ParseName takes a model's name apart. It says nothing about whether the model exists.
func ParseName(s string) (n Name, err error) {
	n.Name = s
	if i := strings.IndexAny(s, ":@"); i >= 0 {
		n.Name = s[:i]
		if s[i] == ':' {
			n.Version = s[i+1:]
		} else {
			n.Alias = s[i+1:]
		}
		if !tag.MatchString(s[i+1:]) {
			return Name{}, fmt.Errorf("registry: model %.140q: %w", s, ErrName)
		}
	}
	if !name.MatchString(n.Name) || strings.Contains(s, "..") || strings.Contains(s, "//") {
		return Name{}, fmt.Errorf("registry: model %.140q: %w", s, ErrName)
	}
	return n, nil
}

// String puts the name together again.
func (n Name) String() string {
	switch {
	case n.Version != "":
		return n.Name + ":" + n.Version
	case n.Alias != "":
		return n.Name + "@" + n.Alias
	}
	return n.Name
}

// key is the name as a key of the bucket, which takes neither ":" nor "@".
func (n Name) key() string { return keyPrefix + keyEscapes.Replace(n.String()) }

const keyPrefix = "model."

var keyEscapes = strings.NewReplacer(":", "=v=", "@", "=a=")
