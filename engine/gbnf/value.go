package gbnf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// value is JSON as the client wrote it: members keep their order, numbers their text.
type value struct {
	kind    kindSet // exactly one
	text    string  // a string's content, a number's or literal's text
	items   []*value
	members []member
}

type member struct {
	key   string
	value *value
}

// get is a member's value, nil where there is none. Schemas are small: a scan is fast enough.
func (v *value) get(key string) *value {
	for _, m := range v.members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// is says whether v, nil or not, is the literal text (true, false, null) or a number written so.
func (v *value) is(text string) bool { return v != nil && v.kind&kindString == 0 && v.text == text }

// decoder reads one JSON text, within bounds.
type decoder struct {
	*json.Decoder
	nesting int
	again   bool // a key may stand twice; what comes last counts
}

// decode reads a schema.
func decode(text []byte, size, nesting int) (*value, error) {
	return (&decoder{nesting: nesting}).read(text, size)
}

// decodeAnswer reads an answer. A grammar can't know which keys were written, so one may stand twice where the schema
// does not name it: JSON has it so, readers take the last, and each value was held to the schema.
func decodeAnswer(text []byte) (*value, error) {
	return (&decoder{nesting: maxAnswerNesting, again: true}).read(text, maxAnswer)
}

func (d *decoder) read(text []byte, size int) (*value, error) {
	switch {
	case len(text) > size:
		return nil, fmt.Errorf("longer than %d bytes", size)
	case !utf8.Valid(text):
		return nil, errors.New("not UTF-8")
	}
	d.Decoder = json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := d.value(0)
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the end")
	}
	return v, nil
}

func (d *decoder) value(depth int) (*value, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		return d.nested(t, depth+1)
	case string:
		return &value{kind: kindString, text: t}, nil
	case json.Number:
		return &value{kind: numberKind(t.String()), text: t.String()}, nil
	case bool:
		return &value{kind: kindBoolean, text: fmt.Sprint(t)}, nil
	default:
		return &value{kind: kindNull, text: "null"}, nil
	}
}

func numberKind(text string) kindSet {
	if strings.ContainsAny(text, ".eE") {
		return kindNumber
	}
	return kindInteger
}

func (d *decoder) nested(open json.Delim, depth int) (*value, error) {
	if depth > d.nesting {
		return nil, fmt.Errorf("nested deeper than %d", d.nesting)
	}
	v := &value{kind: kindArray}
	fill := d.item
	if open == '{' {
		v.kind = kindObject
		fill = d.members()
	}
	for d.More() {
		if err := fill(v, depth); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return v, err
}

func (d *decoder) item(v *value, depth int) error {
	item, err := d.value(depth)
	v.items = append(v.items, item)
	return err
}

// members reads members one by one. In a schema a key that stands twice is refused: readers disagree about which of
// them counts.
func (d *decoder) members() func(*value, int) error {
	seen := map[string]bool{}
	return func(v *value, depth int) error {
		t, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string)
		if seen[key] && !d.again {
			return fmt.Errorf("key %q stands twice", key)
		}
		seen[key] = true
		val, err := d.value(depth)
		v.members = append(v.members, member{key, val})
		return err
	}
}

// dump is v as compact JSON, keys in order, text unescaped where JSON allows it: the form that models write.
func (v *value) dump() string {
	var b strings.Builder
	v.dumpTo(&b)
	return b.String()
}

func (v *value) dumpTo(b *strings.Builder) {
	switch v.kind {
	case kindString:
		b.WriteString(quote(v.text))
	case kindArray:
		sep := "["
		for _, item := range v.items {
			b.WriteString(sep)
			item.dumpTo(b)
			sep = ","
		}
		b.WriteString(closing(sep, "[", "]"))
	case kindObject:
		sep := "{"
		for _, m := range v.members {
			b.WriteString(sep + quote(m.key) + ":")
			m.value.dumpTo(b)
			sep = ","
		}
		b.WriteString(closing(sep, "{", "}"))
	default:
		b.WriteString(v.text)
	}
}

// closing ends a list; one without members was not even opened.
func closing(sep, open, end string) string {
	if sep == open {
		return open + end
	}
	return end
}

// quote is s as a JSON string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		b.WriteString(escapeRune(r))
	}
	b.WriteByte('"')
	return b.String()
}

// escapeRune is r as it stands inside a JSON string.
func escapeRune(r rune) string {
	if short, ok := shortEscapes[r]; ok {
		return short
	}
	if r < 0x20 {
		return fmt.Sprintf(`\u%04x`, r)
	}
	return string(r)
}

var shortEscapes = map[rune]string{
	'"': `\"`, '\\': `\\`, '\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`,
}
