// Package gbnf makes grammars that hold a model's answer to a form, and guards the ones that clients send.
//
// [FromSchema] turns a JSON schema into GBNF, llama.cpp's grammar language; [Check] reads a client's grammar before
// llama.cpp does; [Validate] holds a finished answer against its schema.
//
// The conversion follows llama.cpp v0.5.0's common/json-schema.cpp and common/json-schema-to-grammar.cpp (MIT, see
// LICENSE.llama-cpp) and passes its table of cases. It differs where llama.cpp's grammar lets text through that is
// no JSON or breaks the schema; testdata/cases.json names each difference and why. What is promised:
//
//   - Text that the grammar accepts is JSON, and fits the schema. One thing is left to Validate: that at most one
//     branch of oneOf fits. A key that the schema does not name may be written twice; each value fits then.
//   - Not every text that fits the schema is accepted: properties come in the schema's order, objects with properties
//     are closed unless additionalProperties opens them, and numbers have at most 16 digits on each side of the
//     point and an exponent of two, so that every parser can hold them.
//   - A keyword that cannot be kept is refused with an [*Unsupported]. None is ignored but annotations.
package gbnf

import (
	"fmt"
)

// JSON is the grammar of any JSON object: response_format json_object. Lines break and indent by two blanks at most
// a level, so that a model cannot go on printing blanks.
const JSON = `array ::= "[" space ( value ("," space value)* )? space "]"
boolean ::= ("true" | "false")
char ::= ` + charRule + `
decimal-part ::= [0-9]{1,16}
integral-part ::= [0] | [1-9] [0-9]{0,15}
null ::= "null"
number ::= ("-"? integral-part) ("." decimal-part)? ([eE] [-+]? [0-9]{1,2})?
object ::= "{" space ( string ":" space value ("," space string ":" space value)* )? space "}"
root ::= object
space ::= | " " | "\n"{1,2} [ \t]{0,20}
string ::= "\"" char* "\""
value ::= object | array | string | number | boolean | null
`

// Limits on what a client may send. Each stands for a way in which llama.cpp ended or stalled.
const (
	// MaxSize is the longest grammar or schema, in bytes.
	MaxSize = 64 << 10
	// MaxNesting is how deep parentheses, or a schema's objects and arrays, may nest: deep ones overflow C's stack.
	MaxNesting = 64
	// MaxRules is the most rules in a client's grammar.
	MaxRules = 500
	// MaxRepeat is the highest bound of a repetition; above 2,000 llama.cpp takes it for no bound.
	MaxRepeat = 1000
)

// Unsupported is a schema that is refused: it asks for what a grammar cannot hold, or is no valid schema.
type Unsupported struct {
	// Path leads to the place, as "#/properties/age".
	Path string
	// Keyword is the one at fault; empty where it is the schema as a whole.
	Keyword string
	// Reason says what is wrong with it.
	Reason string
}

func (e *Unsupported) Error() string {
	if e.Keyword == "" {
		return fmt.Sprintf("gbnf: schema at %s: %s", e.Path, e.Reason)
	}
	return fmt.Sprintf("gbnf: schema at %s: %s: %s", e.Path, e.Keyword, e.Reason)
}

// SyntaxError is a grammar that is refused, and where in its text.
type SyntaxError struct {
	Line, Column int // both from 1, columns in characters
	Reason       string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("gbnf: grammar %d:%d: %s", e.Line, e.Column, e.Reason)
}
