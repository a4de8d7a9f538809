package producer

import (
	"cmp"
	"errors"
	"net/http"

	"lorry/registry"
)

// model is OpenAI's, and how long its context is.
type model struct {
	ID      string `json:"id"`
	Object  string `json:"object"` // "model"
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	Context int    `json:"context_length,omitempty"`
}

func modelObject(m registry.Model) model {
	return model{m.Name, "model", m.Created, cmp.Or(m.OwnedBy, "lorry"), m.Context}
}

func (s *Server) listModels(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.who(r); err != nil {
		return err
	}
	data := []model{}
	for _, m := range s.cfg.Registry.List() {
		data = append(data, modelObject(m))
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": data})
	return nil
}

func (s *Server) getModel(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.who(r); err != nil {
		return err
	}
	name := r.PathValue("id")
	m, err := s.cfg.Registry.Resolve(name)
	if errors.Is(err, registry.ErrNotReady) {
		return unavailable(codeAway, "The models are not loaded yet. Try again in a moment.")
	}
	if err != nil {
		return noModel(name)
	}
	writeJSON(w, http.StatusOK, modelObject(m))
	return nil
}
