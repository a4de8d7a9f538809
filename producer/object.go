package producer

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
)

// object is a JSON object that is read field by field. Names are exact (encoding/json's structs are not), null is as
// good as absent, the first error sticks, and a field that nobody has read by the time of done is refused by name:
// nothing is ignored.
type object struct {
	at     string // what stands before a name in errors, as "lorry."
	names  []string
	fields map[string]json.RawMessage
	known  []string // names that were asked for, to tell them to who sent another
	err    *apiError
}

// commonFields is room for the names that a request of the API is asked for.
const commonFields = 64

// newObject reads a body that is known to be JSON.
func newObject(body []byte) (*object, error) {
	o := &object{fields: map[string]json.RawMessage{}, known: make([]string, 0, commonFields)}
	o.fill(body)
	return o, o.done0()
}

// fill takes the fields in the order of the text; one given twice is an error, since parsers differ on which one wins.
func (o *object) fill(raw []byte) {
	m := members{b: raw}
	if !m.open() {
		o.fail(refuse(codeType, strings.TrimSuffix(o.at, "."), "The request's body must be a JSON object."))
		return
	}
	for m.next() {
		if _, twice := o.fields[m.name]; twice {
			o.fail(refuse(codeValue, o.at+m.name, "Duplicate parameter: '%s%s' is given twice.", o.at, m.name))
		}
		o.names, o.fields[m.name] = append(o.names, m.name), m.value
	}
}

// members walks over an object's fields. The text must be JSON (checkText): it is split, not understood, without a copy.
type members struct {
	b     []byte
	i     int
	name  string
	value json.RawMessage
}

// open steps into the object; false if the text is none.
func (m *members) open() bool {
	m.space()
	if m.i >= len(m.b) || m.b[m.i] != '{' {
		return false
	}
	m.i++
	return true
}

// next reads a field.
func (m *members) next() bool {
	m.space()
	if m.i < len(m.b) && m.b[m.i] == ',' {
		m.i++
		m.space()
	}
	if m.i >= len(m.b) || m.b[m.i] != '"' {
		return false
	}
	if m.name = ""; readString(m.take(), &m.name) != nil {
		return false
	}
	m.space()
	m.i++ // the colon
	m.space()
	m.value = m.take()
	return true
}

// take reads a value.
func (m *members) take() json.RawMessage {
	s, from := scanner{b: m.b, i: m.i}, m.i
	for ; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case '"':
			_ = s.str()
		case '{', '[':
			s.depth++
		case '}', ']':
			if s.depth--; s.depth < 0 {
				return m.cut(from, s.i)
			}
		case ',', ':':
			if s.depth == 0 {
				return m.cut(from, s.i)
			}
		}
	}
	return m.cut(from, len(s.b))
}

func (m *members) cut(from, to int) json.RawMessage {
	m.i = to
	return bytes.TrimRight(m.b[from:to], " \t\r\n")
}

func (m *members) space() {
	for m.i < len(m.b) && bytes.IndexByte([]byte(" \t\r\n"), m.b[m.i]) >= 0 {
		m.i++
	}
}

func (o *object) fail(e *apiError) {
	if o.err == nil && e != nil {
		o.err = e
	}
}

// done0 is the error so far.
func (o *object) done0() error {
	if o.err != nil {
		return o.err
	}
	return nil
}

// done is the first error, or the first field that nobody read.
func (o *object) done() error {
	for _, n := range o.names {
		if _, left := o.fields[n]; left {
			slices.Sort(o.known)
			o.fail(refuse(codeUnknown, o.at+n, "Unrecognized request argument supplied: %s%s. Known are: %s", o.at, n, strings.Join(slices.Compact(o.known), ", ")))
		}
	}
	return o.done0()
}

// take is a field's value; false for null and absent ones.
func (o *object) take(name string) (json.RawMessage, bool) {
	o.known = append(o.known, name)
	v, ok := o.fields[name]
	if !ok {
		return nil, false
	}
	delete(o.fields, name)
	return v, kind(v) != "null"
}

// put replaces a field's value by one that others read.
func (o *object) put(name string, v json.RawMessage) { o.fields[name] = v }

// has says whether a field is there and not null, and leaves it.
func (o *object) has(name string) bool {
	v, ok := o.fields[name]
	return ok && kind(v) != "null"
}

// missing refuses a request without a field that it must have.
func (o *object) missing(name string) {
	o.fail(refuse(codeMissing, o.at+name, "Missing required parameter: '%s%s'.", o.at, name))
}

// accept takes fields that are documented as without effect on the answer.
func (o *object) accept(names ...string) {
	for _, n := range names {
		delete(o.fields, n)
	}
	o.known = append(o.known, names...)
}

// unsupported refuses fields that the API knows and Lorry doesn't do, unless they are null or hold what is the case
// anyway (JSON text).
func (o *object) unsupported(name string, harmless ...string) {
	v, ok := o.take(name)
	if !ok {
		return
	}
	for _, h := range harmless {
		if string(compact(v)) == h {
			return
		}
	}
	o.fail(refuse(codeUnsupported, o.at+name, "Unsupported parameter: '%s%s' is not supported.", o.at, name))
}

// wrong refuses a value of another JSON type.
func (o *object) wrong(name, want string, v json.RawMessage) {
	o.fail(refuse(codeType, o.at+name, "Invalid type for '%s%s': expected %s, but got %s instead.", o.at, name, want, article(kind(v))))
}

// text reads a string of at most n bytes.
func (o *object) text(name string, dst *string, n int) bool {
	v, ok := o.take(name)
	if !ok {
		return false
	}
	if kind(v) != "string" || json.Unmarshal(v, dst) != nil {
		o.wrong(name, "a string", v)
		return false
	}
	if len(*dst) > n {
		o.fail(refuse("string_above_max_length", o.at+name, "Invalid '%s%s': string too long. Expected a string with maximum length %d, but got a string with length %d instead.", o.at, name, n, len(*dst)))
	}
	return true
}

// oneOf reads a string that must be among values.
func (o *object) oneOf(name string, dst *string, values ...string) bool {
	if !o.text(name, dst, math.MaxInt) {
		return false
	}
	if slices.Contains(values, *dst) {
		return true
	}
	o.fail(refuse(codeValue, o.at+name, "Invalid value: '%s'. Supported values for '%s%s' are: '%s'.", clip(*dst), o.at, name, strings.Join(values, "', '")))
	return false
}

// flag reads a boolean.
func (o *object) flag(name string, dst *bool) bool {
	v, ok := o.take(name)
	if !ok {
		return false
	}
	if kind(v) != "boolean" {
		o.wrong(name, "a boolean", v)
		return false
	}
	*dst = v[0] == 't'
	return true
}

// number reads a number within a range.
func (o *object) number(name string, dst *float64, lo, hi float64) bool {
	v, ok := o.take(name)
	if !ok {
		return false
	}
	if k := kind(v); k != "integer" && k != "decimal" {
		o.wrong(name, "a decimal", v)
		return false
	}
	f, _ := strconv.ParseFloat(string(v), 64) // out of range is infinite, which the range refuses
	if o.within(name, "decimal", f, lo, hi) {
		*dst = f
		return true
	}
	return false
}

// integer reads a whole number within a range.
func (o *object) integer(name string, dst *int, lo, hi int) bool {
	v, ok := o.take(name)
	if !ok {
		return false
	}
	if kind(v) != "integer" {
		o.wrong(name, "an integer", v)
		return false
	}
	f, _ := strconv.ParseFloat(string(v), 64)
	if !o.within(name, "integer", f, float64(lo), float64(hi)) {
		return false
	}
	*dst = int(f)
	return true
}

// within refuses a number outside of a range, in OpenAI's words.
func (o *object) within(name, what string, f, lo, hi float64) bool {
	side, sign, bound := "above maximum", "<=", hi
	code := what + "_above_max_value"
	if f < lo {
		side, sign, bound, code = "below minimum", ">=", lo, what+"_below_min_value"
	}
	if f >= lo && f <= hi {
		return true
	}
	o.fail(refuse(code, o.at+name, "Invalid '%s%s': %s %s value. Expected a value %s %s, but got %s instead.",
		o.at, name, what, side, sign, plain(bound), plain(f)))
	return false
}

// object reads a nested object, to be done by the caller; nil where there is none. Its errors are the outer one's.
func (o *object) object(name string) *object {
	v, ok := o.take(name)
	if !ok {
		return nil
	}
	if kind(v) != "object" {
		o.wrong(name, "an object", v)
		return nil
	}
	in := &object{at: o.at + name + ".", fields: map[string]json.RawMessage{}}
	in.fill(v)
	return in
}

// close takes over a nested object's errors.
func (o *object) close(in *object) {
	if in.done() != nil {
		o.fail(in.err)
	}
}

// list reads an array of lo to hi values.
func (o *object) list(name string, lo, hi int) ([]json.RawMessage, bool) {
	v, ok := o.take(name)
	if !ok {
		return nil, false
	}
	if kind(v) != "array" {
		o.wrong(name, "an array", v)
		return nil, false
	}
	var out []json.RawMessage
	if err := json.Unmarshal(v, &out); err != nil {
		o.fail(refuse(codeJSON, o.at+name, "We could not parse '%s%s'.", o.at, name))
		return nil, false
	}
	return out, o.length(name, len(out), lo, hi)
}

func (o *object) length(name string, n, lo, hi int) bool {
	switch {
	case n < lo:
		o.fail(refuse("empty_array", o.at+name, "Invalid '%s%s': empty array. Expected an array with minimum length %d, but got an empty array instead.", o.at, name, lo))
	case n > hi:
		o.fail(refuse("array_above_max_length", o.at+name, "Invalid '%s%s': array too long. Expected an array with maximum length %d, but got an array with length %d instead.", o.at, name, hi, n))
	}
	return n >= lo && n <= hi
}

// kind is a JSON value's type by its first byte.
func kind(v json.RawMessage) string {
	v = bytes.TrimLeft(v, " \t\r\n")
	if len(v) == 0 {
		return "null"
	}
	switch v[0] {
	case '"':
		return "string"
	case '{':
		return "object"
	case '[':
		return "array"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	}
	if bytes.ContainsAny(v, ".eE") {
		return "decimal"
	}
	return "integer"
}

func article(kind string) string {
	switch kind {
	case "object", "array", "integer":
		return "an " + kind
	case "null":
		return kind
	}
	return "a " + kind
}

// plain prints a number as people write it.
func plain(f float64) string {
	if math.IsInf(f, 0) {
		return "a number that is too large"
	}
	if f == math.Trunc(f) && math.Abs(f) < 1e15 {
		return strconv.FormatInt(int64(f), 10)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// clip keeps what is quoted in an error short.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "…"
}

// compact is the value without white space between its tokens.
func compact(v json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, v) != nil {
		return v
	}
	return b.Bytes()
}

func size(n int64) string {
	if n >= 1<<20 && n%(1<<20) == 0 {
		return strconv.FormatInt(n>>20, 10) + " MiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}
