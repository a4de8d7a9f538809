package producer

import (
	"context"
	"errors"
	"io"
	"net/url"

	"lorry/registry"
)

// adapterPush is a LoRA adapter on a base.
func (s *Server) adapterPush(q url.Values, owner string) (push, error) {
	a := registry.Adapter{Name: q.Get("name"), Base: q.Get("base"), OwnedBy: owner, Try: s.cfg.TryAdapter}
	if a.Base == "" {
		return push{}, missing("base")
	}
	if q.Has("quantize") || q.Has("requantize") {
		return push{}, refuse(codeValue, "quantize", "An adapter is not quantized: leave out 'quantize', or leave out 'base' where the file is a model of its own.")
	}
	return push{what: "adapter", name: a.Name, most: registry.MaxAdapter,
		add: func(ctx context.Context, file io.Reader) (registry.Model, error) {
			return s.cfg.Registry.AddAdapter(ctx, s.cfg.Weights, a, file)
		},
		fault: func(err error) error { return adapterError(a, err) }}, nil
}

// adapterError is what the client is told of an adapter that was not registered; nil: nothing of its own.
func adapterError(a registry.Adapter, err error) error {
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return noModel(a.Base)
	case errors.Is(err, registry.ErrTaken):
		return refuse(codeValue, "name", "Invalid 'name': '%s' is a base model. Give the adapter another name.", clip(a.Name))
	case errors.Is(err, registry.ErrBase):
		return refuse(codeValue, "base", "Invalid 'base': '%s' takes no adapters. Name a model that llama.cpp serves from a file of its own.", clip(a.Base))
	case errors.Is(err, registry.ErrAdapter):
		return refuse("invalid_adapter", "", "The file can't be used: %v.", err)
	}
	return nil
}
