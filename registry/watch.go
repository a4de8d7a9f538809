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
	for _, e := range all {
		r.see(e)
	}
	select {
	case <-r.ready:
	default:
		close(r.ready)
	}
}

func (r *Registry) see(e jetstream.KeyValueEntry) {
	if strings.HasPrefix(e.Key(), keyPrefix) { // the others are Sweep's
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
