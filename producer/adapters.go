package producer

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"lorry/blob"
	"lorry/engine"
	"lorry/registry"
)

// createAdapter registers a LoRA adapter: the body is its file (GGUF), the query names it and its base. Its name is a
// model's from then on.
func (s *Server) createAdapter(w http.ResponseWriter, r *http.Request) error {
	who, err := s.admin(r)
	if err != nil {
		return err
	}
	add := registry.Adapter{Name: r.URL.Query().Get("name"), Base: r.URL.Query().Get("base"), OwnedBy: who.Tenant,
		Try: s.cfg.TryAdapter}
	if err := checkAdapter(r, add); err != nil {
		return err
	}
	if !s.hold() {
		return draining(w)
	}
	defer s.release()
	leave, err := s.uploads.enter(who.Tenant)
	if err != nil {
		return err
	}
	defer leave()
	m, err := s.keepAdapter(w, r, add)
	if err != nil {
		return err
	}
	s.cfg.Log.Info().Str("model", m.Name).Str("base", add.Base).Str("adapter", m.Adapter).Msg("adapter registered")
	writeJSON(w, http.StatusCreated, modelObject(m))
	return nil
}

func checkAdapter(r *http.Request, a registry.Adapter) error {
	if err := onlyQuery(r.URL.Query(), "name", "base"); err != nil {
		return err
	}
	if a.Name == "" {
		return missing("name")
	}
	if a.Base == "" {
		return missing("base")
	}
	return nil
}

// keepAdapter streams the body into the store. A client that stands still, or a drain's end, cuts it.
func (s *Server) keepAdapter(w http.ResponseWriter, r *http.Request, add registry.Adapter) (registry.Model, error) {
	b := &uploadBody{r: http.MaxBytesReader(w, r.Body, registry.MaxAdapter+formOverhead), control: http.NewResponseController(w)}
	defer b.refused()
	defer context.AfterFunc(s.over, b.cut)()
	m, err := s.cfg.Registry.AddAdapter(r.Context(), s.cfg.Weights, add, b)
	if err == nil {
		return m, nil
	}
	if b.failed != nil {
		return m, b.fault()
	}
	b.drain()
	return m, adapterError(add, err)
}

// adapterError is what the client is told of an adapter that was not registered.
func adapterError(a registry.Adapter, err error) error {
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return noModel(a.Base)
	case errors.Is(err, registry.ErrNotReady):
		return unavailable(codeAway, "The models are not loaded yet. Try again in a moment.")
	case errors.Is(err, registry.ErrName):
		return refuse(codeValue, "name", "Invalid 'name': %v.", registry.ErrName)
	case errors.Is(err, registry.ErrTaken):
		return refuse(codeValue, "name", "Invalid 'name': '%s' is a base model. Give the adapter another name.", clip(a.Name))
	case errors.Is(err, registry.ErrBase):
		return refuse(codeValue, "base", "Invalid 'base': '%s' takes no adapters. Name a model that llama.cpp serves from a file of its own.", clip(a.Base))
	case errors.Is(err, registry.ErrAdapter):
		return refuse("invalid_adapter", "", "The file can't be used: %v.", err)
	case errors.Is(err, registry.ErrGoing):
		return unavailable(codeAway, "The file can't be taken right now: %v.", registry.ErrGoing)
	case errors.Is(err, engine.ErrUnavailable):
		return unavailable(codeAway, "The adapter could not be tried: %s. Push it again.", engine.AsError(err).Message)
	case errors.Is(err, blob.ErrTooLarge):
		return &apiError{Status: http.StatusRequestEntityTooLarge, Type: typeInvalid, Code: codeTooLarge,
			Message: fmt.Sprintf("The adapter is over the limit of %s.", size(registry.MaxAdapter))}
	case errors.Is(err, blob.ErrFull):
		return &apiError{Status: http.StatusInsufficientStorage, Type: typeServer, Code: "insufficient_storage", Final: true,
			Message: "There is no room left for this adapter. Ask the operator for a larger disk."}
	}
	return store(err)
}
