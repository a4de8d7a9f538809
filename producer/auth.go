package producer

import (
	"errors"
	"net/http"
	"strings"

	"lorry/access"
)

// who says who sends the request.
func (s *Server) who(r *http.Request) (access.Principal, error) {
	p, err := s.cfg.Access.Authenticate(bearer(r.Header.Get("Authorization")))
	switch {
	case err == nil:
		return p, nil
	case errors.Is(err, access.ErrNoKey):
		return p, unauthorized("", "Missing bearer or basic authentication in header")
	case errors.Is(err, access.ErrBadKey):
		return p, unauthorized(codeKey, "Incorrect API key provided. Keys are made by the operator with: lorry key create")
	case errors.Is(err, access.ErrNotReady):
		return p, unavailable(codeAway, "The keys are not loaded yet. Try again in a moment.")
	}
	return p, err
}

// admin is who, for what only admins may do.
func (s *Server) admin(r *http.Request) (access.Principal, error) {
	p, err := s.who(r)
	if err == nil && !p.Admin {
		err = &apiError{Status: http.StatusForbidden, Type: typePermission, Code: codeForbidden,
			Message: "You have insufficient permissions for this operation: it needs an admin key (lorry key create --admin)."}
	}
	return p, err
}

// bearer is the token of an Authorization header.
func bearer(h string) string {
	scheme, token, ok := strings.Cut(h, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

func unauthorized(code, text string) error {
	return &apiError{Status: http.StatusUnauthorized, Type: typeInvalid, Code: code, Message: text}
}
