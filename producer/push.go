package producer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"lorry/blob"
	"lorry/engine"
	"lorry/registry"
)

// push is a file on its way to be a model: one that stands on no other, or a LoRA adapter of one.
type push struct {
	what, name string
	most       int64
	add        func(context.Context, io.Reader) (registry.Model, error)
	// fault is what the client is told of an error that is this kind's alone; nil of others.
	fault func(error) error
}

// createModel registers a model: the body is its file (GGUF), the query names it. With a base it is a LoRA adapter of
// that one.
func (s *Server) createModel(w http.ResponseWriter, r *http.Request) error {
	who, err := s.admin(r)
	if err != nil {
		return err
	}
	p, err := s.parsePush(r.URL.Query(), who.Tenant)
	if err != nil {
		return err
	}
	leave, err := s.beginUpload(w, who.Tenant)
	if err != nil {
		return err
	}
	defer leave()
	m, err := s.takeIn(w, r, p)
	if err != nil {
		return err
	}
	s.cfg.Log.Info().Str("model", m.Name).Str("base", m.Base).Str("adapter", m.Adapter).Str("format", m.Format).Int64("bytes", m.Size).Msg(p.what + " registered")
	if err := s.cfg.Queue.SetupBase(r.Context(), m.Engine().B()); err != nil {
		s.cfg.Log.Warn().Err(err).Str("model", m.Name).Msg("its workers will have to make a place for its jobs")
	}
	writeJSON(w, http.StatusCreated, modelObject(m))
	return nil
}

func (s *Server) parsePush(q url.Values, owner string) (push, error) {
	if err := onlyQuery(q, "name", "base", "quantize", "requantize"); err != nil {
		return push{}, err
	}
	if q.Get("name") == "" {
		return push{}, missing("name")
	}
	if q.Has("base") {
		return s.adapterPush(q, owner)
	}
	return s.modelPush(q, owner)
}

func (s *Server) modelPush(q url.Values, owner string) (push, error) {
	b := registry.Base{Name: q.Get("name"), OwnedBy: owner, Most: cmp.Or(s.cfg.MaxModel, registry.MaxModel), Try: s.cfg.TryModel}
	if err := s.quantizePush(q, &b); err != nil {
		return push{}, err
	}
	return push{what: "model", name: b.Name, most: b.Most,
		add: func(ctx context.Context, file io.Reader) (registry.Model, error) {
			return s.cfg.Registry.AddModel(ctx, s.cfg.Weights, b, file)
		},
		fault: func(err error) error { return modelError(b, err) }}, nil
}

// quantizePush has a push served in another format, where an engine is at hand to write that.
func (s *Server) quantizePush(q url.Values, b *registry.Base) error {
	again, err := strconv.ParseBool(cmp.Or(q.Get("requantize"), "false"))
	to := q.Get("quantize")
	switch {
	case err != nil:
		return refuse(codeValue, "requantize", "Invalid 'requantize': it is true or false.")
	case again && to == "":
		return refuse(codeValue, "requantize", "'requantize' says nothing without 'quantize'.")
	case to == "":
		return nil
	case s.cfg.QuantizeModel == nil:
		return refuse(codeValue, "quantize", "No engine is at hand here to write another format: do so first with `lorry quantize`, and push what it writes.")
	}
	b.Quantize = func(ctx context.Context, digest string) (io.ReadCloser, error) {
		return s.cfg.QuantizeModel(ctx, digest, to, again)
	}
	return nil
}

// modelError is what the client is told of a model that was not registered; nil: nothing of its own.
func modelError(b registry.Base, err error) error {
	why := strings.TrimPrefix(err.Error(), "registry: model "+b.Name+": ")
	switch {
	case errors.Is(err, registry.ErrTaken):
		return refuse(codeValue, "name", "Invalid 'name': %s. Give the model another name, or a version of its own (NAME:VERSION).", why)
	case errors.Is(err, registry.ErrModel):
		return refuse("invalid_model", "", "The file can't be used: %s.", why)
	case errors.Is(err, engine.ErrInvalid):
		return refuse("invalid_model", "quantize", "The model can't be quantized: %s", engine.AsError(err).Message)
	}
	return nil
}

// takeIn streams the body into the store. A client that stands still, or a drain's end, cuts it.
func (s *Server) takeIn(w http.ResponseWriter, r *http.Request, p push) (registry.Model, error) {
	if r.ContentLength > p.most {
		return registry.Model{}, pushTooLarge(p)
	}
	b := &uploadBody{r: http.MaxBytesReader(w, r.Body, p.most+formOverhead), control: http.NewResponseController(w)}
	defer b.refused()
	defer context.AfterFunc(s.over, b.cut)()
	m, err := p.add(r.Context(), b)
	if err == nil {
		return m, nil
	}
	if b.failed != nil {
		return m, b.fault()
	}
	b.drain()
	return m, pushError(p, err)
}

// pushError is what the client is told of a file that was not registered.
func pushError(p push, err error) error {
	if own := p.fault(err); own != nil {
		return own
	}
	switch {
	case errors.Is(err, registry.ErrNotReady):
		return unavailable(codeAway, "The models are not loaded yet. Try again in a moment.")
	case errors.Is(err, registry.ErrName):
		return refuse(codeValue, "name", "Invalid 'name': %v.", registry.ErrName)
	case errors.Is(err, registry.ErrGoing):
		return unavailable(codeAway, "The file can't be taken right now: %v.", registry.ErrGoing)
	case errors.Is(err, engine.ErrUnavailable):
		return unavailable(codeAway, "The %s could not be tried: %s. Push it again.", p.what, engine.AsError(err).Message)
	case errors.Is(err, blob.ErrTooLarge):
		return pushTooLarge(p)
	case errors.Is(err, blob.ErrFull):
		return &apiError{Status: http.StatusInsufficientStorage, Type: typeServer, Code: "insufficient_storage", Final: true,
			Message: fmt.Sprintf("There is no room left for this %s. Ask the operator for a larger disk.", p.what)}
	}
	return store(err)
}

func pushTooLarge(p push) error {
	return &apiError{Status: http.StatusRequestEntityTooLarge, Type: typeInvalid, Code: codeTooLarge,
		Message: fmt.Sprintf("The %s is over the limit of %s.", p.what, size(p.most))}
}
