package producer

import (
	"errors"
	"net/http"

	"lorry/access"
)

// key is an API key as admins see it: never its secret, but for Key, once, in the answer that makes it.
type key struct {
	ID        string `json:"id"`
	Object    string `json:"object"` // "lorry.key"
	Tenant    string `json:"tenant"`
	Admin     bool   `json:"admin"`
	Name      string `json:"name,omitempty"`
	CreatedAt int64  `json:"created_at"`
	RevokedAt int64  `json:"revoked_at,omitempty"`
	Key       string `json:"key,omitempty"`
}

func keyObject(k access.Key, secret string) key {
	return key{k.ID, "lorry.key", k.Tenant, k.Admin, k.Name, k.Created, k.Revoked, secret}
}

// createKey makes a key: {"tenant", "admin", "name"}.
func (s *Server) createKey(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.admin(r); err != nil {
		return err
	}
	wish, err := s.readKey(w, r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	secret, k, err := s.cfg.Access.CreateKey(ctx, wish)
	if err != nil {
		return store(err)
	}
	writeJSON(w, http.StatusCreated, keyObject(k, secret))
	return nil
}

func (s *Server) readKey(w http.ResponseWriter, r *http.Request) (k access.CreateKey, err error) {
	body, err := readBody(w, r, s.cfg.MaxBody)
	if err != nil {
		return k, err
	}
	o, err := newObject(body)
	if err != nil {
		return k, err
	}
	if !o.text("tenant", &k.Tenant, maxName) && o.err == nil {
		o.missing("tenant")
	}
	o.flag("admin", &k.Admin)
	o.text("name", &k.Name, 100)
	if o.err == nil && access.Slug(k.Tenant) != nil {
		o.fail(refuse(codeValue, "tenant", "Invalid 'tenant': %v.", access.ErrSlug))
	}
	return k, o.done()
}

func (s *Server) listKeys(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.admin(r); err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	ks, err := s.cfg.Access.Keys(ctx)
	if err != nil {
		return store(err)
	}
	data := []key{}
	for _, k := range ks {
		data = append(data, keyObject(k, ""))
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": data})
	return nil
}

func (s *Server) revokeKey(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.admin(r); err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	id := r.PathValue("id")
	err := s.cfg.Access.Revoke(ctx, id)
	if errors.Is(err, access.ErrNotFound) {
		return &apiError{Status: http.StatusNotFound, Type: typeInvalid, Code: codeNotFound, Param: "id", Message: "No key found with id '" + clip(id) + "'."}
	}
	if err != nil {
		return store(err)
	}
	writeJSON(w, http.StatusOK, map[string]any{"id": id, "object": "lorry.key", "deleted": true})
	return nil
}
