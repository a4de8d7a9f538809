package webhook

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Book is all endpoints in memory, as fresh as the bucket: an event that happens behind an endpoint's making is never
// missed for want of a hint. Looking costs a request to the server; reading anew is done behind a change only.
type Book struct {
	endpoints *Endpoints

	mu   sync.Mutex
	seq  uint64 // of the bucket when it was read; 0: never
	page Page
}

// Page is the book as it was at a moment: endpoints by tenant. It is not written to any more.
type Page map[string][]Endpoint

// NewBook makes a Book. It asks nobody anything.
func NewBook(e *Endpoints) *Book { return &Book{endpoints: e} }

// Page is all endpoints as they are now.
func (b *Book) Page(ctx context.Context) (Page, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.endpoints.cfg.JS.Stream(ctx, "KV_"+Bucket)
	if err != nil {
		return nil, fmt.Errorf("webhook: bucket %s: %w", Bucket, err)
	}
	seq := s.CachedInfo().State.LastSeq
	if b.page != nil && seq == b.seq {
		return b.page, nil
	}
	all, err := b.endpoints.scan(ctx, endpointKeys+">")
	if err != nil {
		return nil, err
	}
	b.seq, b.page = seq, Page{}
	for _, e := range all {
		b.page[e.Tenant] = append(b.page[e.Tenant], e)
	}
	return b.page, nil
}

// Wanting are a tenant's endpoints that want a type.
func (p Page) Wanting(tenant, kind string) (out []Endpoint) {
	for _, e := range p[tenant] {
		if e.Wants(kind) {
			out = append(out, e)
		}
	}
	return out
}

// Heard says whether any of a tenant's endpoints may want types that begin with one of the prefixes.
func (p Page) Heard(tenant string, prefixes ...string) bool {
	for _, e := range p[tenant] {
		if slices.ContainsFunc(prefixes, e.WantsAny) {
			return true
		}
	}
	return false
}
