package registry

import (
	"context"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"lorry/watch"
)

// Run keeps the view until ctx ends. While the server is away the last view stands.
func (r *Registry) Run(ctx context.Context) error {
	return watch.Bucket{JS: r.cfg.JS, Name: Bucket, Load: r.load, See: r.see, Log: r.cfg.Log}.Run(ctx)
}

// load takes in all records. They are never taken out of the bucket without a mark, so what is read anew only adds to
// what is there.
func (r *Registry) load(all []jetstream.KeyValueEntry) {
	leaving := map[string]mark{}
	for _, e := range all {
		if digest, ok := strings.CutPrefix(e.Key(), markPrefix); ok {
			seeMark(leaving, digest, e)
		} else {
			r.see(e)
		}
	}
	r.mu.Lock()
	r.leaving = leaving // nobody but the watch takes these in
	r.mu.Unlock()
	select {
	case <-r.ready:
	default:
		close(r.ready)
	}
}

func (r *Registry) see(e jetstream.KeyValueEntry) {
	if digest, ok := strings.CutPrefix(e.Key(), markPrefix); ok {
		r.mu.Lock()
		seeMark(r.leaving, digest, e)
		r.mu.Unlock()
	} else if strings.HasPrefix(e.Key(), keyPrefix) {
		r.apply(e.Key(), decode(e))
	}
}

// apply takes a record in, unless a newer one is there: the watch may lag behind what this process wrote.
func (r *Registry) apply(key string, e entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.revision > r.models[key].revision {
		r.models[key] = e
	}
}
