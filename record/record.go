// Package record reads JSON that this program wrote itself (jobs, verdicts, hints) in one pass. encoding/json goes twice
// through a text, and once more through what it hands on; on the road of a batch's lines that was a fifth of all computing.
// It is to go when encoding/json reads in one pass, as that of Go 1.27 should: a job's 15 µs became 4.5 (go1.26).
package record

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Unmarshal is json.Unmarshal: it takes and refuses the same texts, with the same values and errors. What it has no short
// way for (a field that v does not know, an escape in a name, a type with a method of its own), encoding/json reads. Unlike
// there, an error may leave a part of the text in v.
func Unmarshal(text []byte, v any) error {
	to := reflect.ValueOf(v)
	if to.Kind() == reflect.Pointer && !to.IsNil() {
		s := scanner{text: text}
		if s.value(readerOf(to.Type().Elem()), to.Elem()) && s.next() == 0 && s.at == len(text) {
			return nil
		}
	}
	return json.Unmarshal(text, v)
}

// reader reads the value that comes next into v, which is of the type that the reader was made for. False: encoding/json
// must.
type reader func(s *scanner, v reflect.Value) bool

var readers sync.Map // reflect.Type → reader

func readerOf(t reflect.Type) reader {
	if r, ok := readers.Load(t); ok {
		return r.(reader)
	}
	r, _ := readers.LoadOrStore(t, newReader(t))
	return r.(reader)
}

var (
	rawMessage = reflect.TypeFor[json.RawMessage]()
	ownJSON    = reflect.TypeFor[json.Unmarshaler]()
	ownText    = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func newReader(t reflect.Type) reader {
	p := reflect.PointerTo(t)
	switch {
	case t == rawMessage:
		return (*scanner).raw
	case p.Implements(ownJSON) || p.Implements(ownText):
		return (*scanner).other
	}
	switch t.Kind() {
	case reflect.String:
		return (*scanner).str
	case reflect.Int, reflect.Int32, reflect.Int64:
		return (*scanner).integer
	case reflect.Uint64:
		return (*scanner).unsigned
	case reflect.Float64:
		return (*scanner).float
	case reflect.Bool:
		return (*scanner).boolean
	case reflect.Pointer:
		return pointer(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 {
			return list(t)
		}
	case reflect.Struct:
		return object(t)
	}
	return (*scanner).other
}

// pointer reads null as nil. (Types that hold themselves are why a reader looks for the next one when it runs.)
func pointer(t reflect.Type) reader {
	return func(s *scanner, v reflect.Value) bool {
		if s.null() {
			v.SetZero()
			return true
		}
		if v.IsNil() {
			v.Set(reflect.New(t))
		}
		return s.value(readerOf(t), v.Elem())
	}
}

// list reads an array into a slice that has nothing yet.
func list(t reflect.Type) reader {
	return func(s *scanner, v reflect.Value) bool {
		if !v.IsNil() || !s.take('[') {
			return false
		}
		v.Set(reflect.MakeSlice(t, 0, 1))
		if s.next() == ']' {
			return s.take(']')
		}
		for r, n, from := readerOf(t.Elem()), 0, s.at; ; n++ {
			if n == v.Cap() {
				v.Grow(s.more(n, from))
			}
			v.SetLen(n + 1)
			if !s.value(r, v.Index(n)) {
				return false
			}
			if !s.take(',') {
				return s.take(']')
			}
		}
	}
}

// mostAhead bounds what more says.
const mostAhead = 32

// more is for how many values a list of n, which began at from, is to have room at once: for as many as the text may hold.
func (s *scanner) more(n, from int) int {
	return min(1+n*(len(s.text)-s.at)/(s.at-from), max(n, mostAhead))
}

// field is one of a struct's.
type field struct {
	index int
	read  reader
}

// object reads a struct. One with embedded fields or options of tags beyond omitempty is encoding/json's.
func object(t reflect.Type) reader {
	fields := sync.OnceValue(func() map[string]field { return fieldsOf(t) })
	return func(s *scanner, v reflect.Value) bool {
		known := fields()
		if known == nil || !s.take('{') {
			return false
		}
		if s.next() == '}' {
			return s.take('}')
		}
		for {
			name, plain := s.quoted()
			f, ok := known[string(name)]
			if !plain || !ok || !s.take(':') || !s.value(f.read, v.Field(f.index)) {
				return false
			}
			if !s.take(',') {
				return s.take('}')
			}
		}
	}
}

func fieldsOf(t reflect.Type) map[string]field {
	out := map[string]field{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous || options != "" && options != "omitempty" && options != "omitzero":
			return nil
		case !f.IsExported() || name == "-":
			continue
		case name == "":
			name = f.Name
		}
		if _, twice := out[name]; twice {
			return nil
		}
		out[name] = field{i, readerOf(f.Type)}
	}
	return out
}

// scanner goes through a text.
type scanner struct {
	text  []byte
	at    int
	depth int
}

// maxDepth is how deep values may be nested here.
const maxDepth = 100

func (s *scanner) value(r reader, v reflect.Value) bool {
	if s.depth++; s.depth > maxDepth {
		return false
	}
	s.next()
	ok := r(s, v)
	s.depth--
	return ok
}

// next is the byte that comes next but for white space, 0 at the end. (A zero byte in the text is met as a value, which it
// is not.)
func (s *scanner) next() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// take passes over c if it comes next.
func (s *scanner) take(c byte) bool {
	if s.next() != c {
		return false
	}
	s.at++
	return true
}

func (s *scanner) null() bool { return s.word("null") }

func (s *scanner) word(w string) bool {
	if len(s.text)-s.at < len(w) || string(s.text[s.at:s.at+len(w)]) != w {
		return false
	}
	s.at += len(w)
	return true
}

// quoted is the inside of a string. plain says that it stands for itself: nothing in it is escaped, and all of it is UTF-8.
// It is nil where no string comes.
func (s *scanner) quoted() (inside []byte, plain bool) {
	if s.next() != '"' {
		return nil, false
	}
	from, ascii := s.at+1, true
	plain = true
	for i := from; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			s.at = i + 1
			inside = s.text[from:i]
			return inside, plain && (ascii || utf8.Valid(inside))
		case c == '\\':
			plain = false
			i++
		case c < ' ':
			return nil, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, false
}

func (s *scanner) str(v reflect.Value) bool {
	from := s.at
	inside, plain := s.quoted()
	switch {
	case plain:
		v.SetString(string(inside))
		return true
	case inside == nil:
		return false
	}
	return json.Unmarshal(s.text[from:s.at], v.Addr().Interface()) == nil
}

// digits are those of a whole number without a sign; empty where something else comes, such as a fraction.
func (s *scanner) digits() []byte {
	from := s.at
	for s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9' {
		s.at++
	}
	out := s.text[from:s.at]
	if len(out) > 1 && out[0] == '0' || s.at < len(s.text) && bytes.IndexByte([]byte(".eE"), s.text[s.at]) >= 0 {
		return nil
	}
	return out
}

func (s *scanner) unsigned(v reflect.Value) bool {
	n, err := strconv.ParseUint(string(s.digits()), 10, 64)
	v.SetUint(n)
	return err == nil
}

func (s *scanner) integer(v reflect.Value) bool {
	minus := s.word("-")
	u, err := strconv.ParseUint(string(s.digits()), 10, 63)
	n := int64(u)
	if minus {
		n = -n
	}
	v.SetInt(n)
	return err == nil && !v.OverflowInt(n)
}

func (s *scanner) float(v reflect.Value) bool {
	from := s.at
	s.skip()
	text := s.text[from:s.at]
	n, err := strconv.ParseFloat(string(text), 64)
	v.SetFloat(n)
	return err == nil && json.Valid(text)
}

func (s *scanner) boolean(v reflect.Value) bool {
	yes := s.word("true")
	v.SetBool(yes)
	return yes || s.word("false")
}

// raw keeps a value as it stands.
func (s *scanner) raw(v reflect.Value) bool {
	from := s.at
	s.skip()
	v.SetBytes(bytes.Clone(s.text[from:s.at]))
	return json.Valid(s.text[from:s.at])
}

// other leaves a value to encoding/json.
func (s *scanner) other(v reflect.Value) bool {
	from := s.at
	s.skip()
	return json.Unmarshal(s.text[from:s.at], v.Addr().Interface()) == nil
}

// skip passes over a value. Whether it is one is for others to say.
func (s *scanner) skip() {
	for depth := 0; s.at < len(s.text); {
		switch c := s.text[s.at]; c {
		case '"':
			if inside, _ := s.quoted(); inside == nil {
				return
			}
			s.at--
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return
			}
		}
		s.at++
	}
}
