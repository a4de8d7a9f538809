package gbnf

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Answers are bounded too: a model's number 1e999999999 must not be written out.
const (
	maxAnswer        = 16 << 20
	maxAnswerNesting = 1000
	maxExponent      = 1000
)

// Validator holds answers against one schema. It may be used from many goroutines.
type Validator struct{ schema *jsonschema.Schema }

// NewValidator compiles a schema: draft 2020-12 unless it names another with $schema or only fits draft 7. Formats are
// asserted. A schema that points out of itself is refused: nothing is read, from disk or network.
func NewValidator(schema json.RawMessage) (*Validator, error) {
	root, err := decode(schema, MaxSize, MaxNesting)
	if err != nil {
		return nil, fmt.Errorf("gbnf: read schema: %w", err)
	}
	doc, err := root.plain()
	if err != nil {
		return nil, fmt.Errorf("gbnf: read schema: %w", err)
	}
	s, err := compile(doc, jsonschema.Draft2020)
	if err != nil {
		if old, oldErr := compile(doc, jsonschema.Draft7); oldErr == nil {
			s, err = old, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("gbnf: compile schema: %s", firstCause(err))
	}
	return &Validator{s}, nil
}

// place is what the schema is called while it is compiled.
const place = "urn:lorry:schema"

func compile(doc any, draft *jsonschema.Draft) (*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(draft)
	c.AssertFormat()
	c.UseLoader(refuseAll{})
	c.UseRegexpEngine(func(pattern string) (jsonschema.Regexp, error) { return regexp.Compile(goPattern(pattern)) })
	if err := c.AddResource(place, doc); err != nil {
		return nil, err
	}
	return c.Compile(place)
}

// refuseAll reads nothing. The library's own loader reads files.
type refuseAll struct{}

func (refuseAll) Load(url string) (any, error) {
	return nil, fmt.Errorf("%q lies outside the schema: nothing else is read", url)
}

// ecma is what ECMA's regular expressions write otherwise than Go's: \u escapes, and in a class [ and backspace.
var ecma = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|\[\^?|\]`)

// goPattern is a pattern of ECMA's as Go writes it.
func goPattern(pattern string) string {
	class := false
	return ecma.ReplaceAllStringFunc(pattern, func(part string) string {
		switch {
		case class && part[0] == '[':
			return `\` + part
		case class && part == `\b`:
			return `\x08`
		case part[0] == '[' || part == "]":
			class = part[0] == '['
		case len(part) == len(`\u0000`):
			return `\x{` + part[2:] + "}"
		case len(part) == len(`\u0000\u0000`):
			return string(utf16.DecodeRune(hexRune(part[2:6]), hexRune(part[8:])))
		}
		return part
	})
}

func hexRune(digits string) rune {
	n, _ := strconv.ParseUint(digits, 16, 32)
	return rune(n)
}

// Validate says what in answer, a whole JSON text, does not fit the schema; nil if nothing.
func (v *Validator) Validate(answer string) error {
	root, err := decodeAnswer([]byte(answer))
	if err != nil {
		return fmt.Errorf("gbnf: read answer: %w", err)
	}
	doc, err := root.plain()
	if err != nil {
		return fmt.Errorf("gbnf: read answer: %w", err)
	}
	if err := v.schema.Validate(doc); err != nil {
		return fmt.Errorf("gbnf: answer does not fit its schema: %s", firstCause(err))
	}
	return nil
}

// Validate is [NewValidator] and [Validator.Validate] at once.
func Validate(schema json.RawMessage, answer string) error {
	v, err := NewValidator(schema)
	if err != nil {
		return err
	}
	return v.Validate(answer)
}

// firstCause is the first leaf of a tree of errors: where, and what.
func firstCause(err error) string {
	if s, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
		err = s.Err
	}
	e, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return err.Error()
	}
	for len(e.Causes) > 0 {
		e = e.Causes[0]
	}
	text := e.Error()
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// plain is v in the types of encoding/json, numbers as json.Number.
func (v *value) plain() (any, error) {
	switch v.kind {
	case kindString:
		return v.text, nil
	case kindArray:
		return v.plainItems()
	case kindObject:
		return v.plainMembers()
	case kindBoolean:
		return v.text == "true", nil
	case kindNull:
		return nil, nil
	}
	return json.Number(v.text), checkNumber(v.text)
}

func (v *value) plainItems() (_ any, err error) {
	list := make([]any, len(v.items))
	for i, item := range v.items {
		if list[i], err = item.plain(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (v *value) plainMembers() (_ any, err error) {
	object := make(map[string]any, len(v.members))
	for _, m := range v.members {
		if object[m.key], err = m.value.plain(); err != nil {
			return nil, err
		}
	}
	return object, nil
}

func checkNumber(text string) error {
	_, exponent, ok := strings.Cut(strings.ToLower(text), "e")
	n, err := strconv.Atoi(exponent)
	if ok && (err != nil || max(n, -n) > maxExponent) {
		return fmt.Errorf("number %.40s is out of range", text)
	}
	return nil
}
