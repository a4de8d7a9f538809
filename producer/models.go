package producer

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"lorry/access"
	"lorry/registry"
)

// model is OpenAI's, how long its context is, and what it is made of.
type model struct {
	ID      string  `json:"id"`
	Object  string  `json:"object"` // "model"
	Created int64   `json:"created"`
	OwnedBy string  `json:"owned_by"`
	Context int     `json:"context_length,omitempty"`
	Lorry   weights `json:"lorry"`
}

// weights say which files a model is.
type weights struct {
	Runtime string `json:"runtime,omitempty"`
	Base    string `json:"base"`
	Adapter string `json:"adapter,omitempty"`
	// Pushed says that any worker can fetch them; Size and Format are of a pushed file, Source what it was quantized from.
	Pushed bool   `json:"pushed"`
	Size   int64  `json:"size,omitempty"`
	Format string `json:"format,omitempty"`
	Source string `json:"source,omitempty"`
}

func modelObject(m registry.Model) model {
	return model{m.Name, "model", m.Created, cmp.Or(m.OwnedBy, "lorry"), m.Context,
		weights{m.Runtime, m.Base, m.Adapter, m.Stored || m.Adapter != "", m.Size, m.Format, m.Source}}
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

// deleteModel takes the name of a pushed model or adapter away: its owner's tenant may, and admins. Jobs that were accepted
// run with it all the same; then its file goes.
func (s *Server) deleteModel(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	name := r.PathValue("id")
	err = s.cfg.Registry.Delete(ctx, name, func(m registry.Model) error { return mayDelete(who, m) })
	if errors.Is(err, registry.ErrNotFound) || errors.Is(err, registry.ErrName) {
		return noModel(name)
	}
	if err != nil {
		return deleteError(name, err)
	}
	s.cfg.Log.Info().Str("model", name).Str("tenant", who.Tenant).Msg("model's name deleted")
	writeJSON(w, http.StatusOK, map[string]any{"id": name, "object": "model", "deleted": true})
	return nil
}

// deleteError is what the client is told of a model that stays.
func deleteError(name string, err error) error {
	switch {
	case errors.Is(err, registry.ErrHeld):
		_, why, _ := strings.Cut(err.Error(), registry.ErrHeld.Error())
		return conflict(codeConflict, "The model `%s` can't be deleted: %v%s. Delete these first.", clip(name), registry.ErrHeld, why)
	case errors.Is(err, registry.ErrGoing):
		return unavailable(codeAway, "The model's file is being removed. Try again in a moment.")
	}
	return store(err)
}

func mayDelete(who access.Principal, m registry.Model) error {
	e := &apiError{Status: http.StatusForbidden, Type: typePermission, Code: codeForbidden, Param: "model"}
	switch {
	case m.Adapter == "" && !m.Stored:
		e.Message = fmt.Sprintf("The model `%s` was not pushed: workers serve it from a file or an engine of their own (--model-file, --engine), as long as they are told to. Only pushed models and adapters can be deleted.", clip(m.Name))
		return e
	case !who.Admin && m.OwnedBy != who.Tenant:
		e.Message = fmt.Sprintf("You have insufficient permissions for this operation: the model `%s` is another tenant's. Its owner or an admin key can delete it.", clip(m.Name))
		return e
	}
	return nil
}
