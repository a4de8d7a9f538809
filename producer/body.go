package producer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds nesting: a parser further down (a template, a grammar) may not bound its own.
const maxDepth = 64

// readBody reads a JSON body within the limit and checks what holds for all of them (checkText).
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if err := checkType(r.Header.Get("Content-Type")); err != nil {
		return nil, err
	}
	var body bytes.Buffer
	body.Grow(int(min(max(r.ContentLength, 0), limit)) + bytes.MinRead) // in one piece, where its length is known
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &apiError{Status: http.StatusRequestEntityTooLarge, Type: typeInvalid, Code: codeTooLarge,
			Message: "The request's body is over the limit of " + size(limit) + ". Send less text, or ask the operator to raise LORRY_MAX_BODY."}
	}
	if err != nil {
		return nil, refuse(codeJSON, "", "The request's body could not be read: the connection ended before its end.")
	}
	return body.Bytes(), checkText(body.Bytes())
}

// checkType refuses what says that it is something else than JSON. Silence is taken for JSON.
func checkType(ct string) error {
	if ct == "" || ct == "application/json" {
		return nil
	}
	t, _, err := mime.ParseMediaType(ct)
	// curl -d says "form" of whatever it is given: people's first request would fail for nothing.
	if err == nil && (t == "application/json" || t == "application/x-www-form-urlencoded" || strings.HasSuffix(t, "+json")) {
		return nil
	}
	return &apiError{Status: http.StatusUnsupportedMediaType, Type: typeInvalid, Code: "unsupported_media_type",
		Message: "The request's Content-Type must be application/json."}
}

// checkText refuses bodies that are not UTF-8, not JSON, nested too deep, or that hold U+0000 or half a surrogate pair
// in any string: no text below this line can end a C string early.
func checkText(body []byte) error {
	if !utf8.Valid(body) {
		return malformed(body, invalidUTF8(body), "it is not valid UTF-8")
	}
	if e := (scanner{b: body}).check(); e != nil {
		return e
	}
	if json.Valid(body) {
		return nil
	}
	var raw json.RawMessage
	err := json.Unmarshal(body, &raw)
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return malformed(body, int(e.Offset), e.Error())
	}
	return malformed(body, len(body), fmt.Sprint(err))
}

// invalidUTF8 is where text stops being UTF-8; -1 if it does not.
func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// malformed says where the JSON went wrong, counted as editors do.
func malformed(body []byte, offset int, why string) *apiError {
	before := body[:min(max(offset, 0), len(body))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - bytes.LastIndexByte(before, '\n')
	if offset > 0 && offset <= len(body) && why != "it is not valid UTF-8" {
		column-- // encoding/json counts the byte at fault
	}
	return refuse(codeJSON, "", "We could not parse the JSON body of your request: %s (line %d, column %d, byte %d of %d).",
		why, line, max(column, 1), len(before), len(body))
}

// scanner walks over JSON text without understanding more of it than strings and brackets.
type scanner struct {
	b     []byte
	i     int
	depth int
}

func (s scanner) check() *apiError {
	for ; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case '{', '[':
			if s.depth++; s.depth > maxDepth {
				return refuse(codeValue, "", "The JSON body is nested deeper than %d levels (byte %d).", maxDepth, s.i)
			}
		case '}', ']':
			s.depth--
		case 0:
			return nul(s.i)
		case '"':
			if e := s.str(); e != nil {
				return e
			}
		}
	}
	return nil
}

// readString reads a string of a body that is known to be JSON (checkText). One without an escape, as most are, stands
// between its quotes as it is.
func readString(v json.RawMessage, dst *string) error {
	if len(v) >= 2 && v[0] == '"' && bytes.IndexByte(v, '\\') < 0 {
		*dst = string(v[1 : len(v)-1])
		return nil
	}
	return json.Unmarshal(v, dst)
}

// str walks to a string's closing quote. A plain string is passed over in one go.
func (s *scanner) str() *apiError {
	rest := s.b[s.i+1:]
	if n := bytes.IndexByte(rest, '"'); n >= 0 && bytes.IndexByte(rest[:n], '\\') < 0 && bytes.IndexByte(rest[:n], 0) < 0 {
		s.i += 1 + n
		return nil
	}
	for s.i++; s.i < len(s.b) && s.b[s.i] != '"'; s.i++ {
		switch s.b[s.i] {
		case 0:
			return nul(s.i)
		case '\\':
			if e := s.escape(); e != nil {
				return e
			}
		}
	}
	return nil
}

// escape walks over one escape, to its last byte.
func (s *scanner) escape() *apiError {
	u, ok := s.unit(s.i)
	if !ok {
		s.i++ // a short one, or malformed: the parser tells
		return nil
	}
	at := s.i
	s.i += 5
	switch {
	case u == 0:
		return nul(at)
	case u >= 0xDC00 && u < 0xE000:
		return lone(at)
	case u >= 0xD800 && u < 0xDC00:
		low, ok := s.unit(s.i + 1)
		if !ok || low < 0xDC00 || low >= 0xE000 {
			return lone(at)
		}
		s.i += 6
	}
	return nil
}

// unit is the UTF-16 unit of a \u escape at i.
func (s *scanner) unit(i int) (u uint16, ok bool) {
	if i+6 > len(s.b) || s.b[i] != '\\' || s.b[i+1] != 'u' {
		return 0, false
	}
	for _, c := range s.b[i+2 : i+6] {
		d := bytes.IndexByte([]byte("0123456789abcdef"), c|0x20)
		if d < 0 || c < '0' {
			return 0, false
		}
		u = u<<4 | uint16(d)
	}
	return u, true
}

func nul(at int) *apiError {
	return refuse(codeValue, "", "The request holds U+0000 (a zero byte) at byte %d. Remove it: no text may contain it.", at)
}

func lone(at int) *apiError {
	return refuse(codeValue, "", "The request holds half of a surrogate pair at byte %d: it is not a character.", at)
}
