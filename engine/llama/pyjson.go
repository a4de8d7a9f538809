package llama

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ardanlabs/jinja"
)

// The filter tojson is ours, under a name of its own: the library's sorts keys and escapes < where it indents, and
// writes 1.0 as 1. Models were trained on what Python writes.
const tojson = "lorry_tojson"

var useOfTojson = regexp.MustCompile(`\|(-?\s*)tojson\b`)

func ownTojson(source string) string { return useOfTojson.ReplaceAllString(source, "|${1}"+tojson) }

// pythonJSON writes values as Python's json.dumps does.
type pythonJSON struct {
	indent    int    // 0: on one line
	item, key string // separators; empty are Python's own
	sorted    bool
	ascii     bool
}

// tojsonFilter is the filter, with the arguments that transformers' has.
func tojsonFilter(args []jinja.Value, named map[string]jinja.Value) (jinja.Value, error) {
	if len(args) == 0 {
		return jinja.NewString(""), nil
	}
	p := pythonJSON{sorted: truth(named["sort_keys"]), ascii: truth(named["ensure_ascii"])}
	indent := named["indent"]
	if len(args) > 1 {
		indent = args[1]
	}
	if indent.IsNumber() {
		p.indent = int(indent.AsInt())
	}
	if s := named["separators"]; s.IsList() && s.AsList().Len() == 2 {
		p.item, p.key = s.AsList().Items[0].AsString(), s.AsList().Items[1].AsString()
	}
	var b strings.Builder
	p.write(&b, args[0], 0)
	return jinja.NewString(b.String()), nil
}

func truth(v jinja.Value) bool { return v.IsBool() && v.AsBool() }

func (p pythonJSON) write(b *strings.Builder, v jinja.Value, depth int) {
	switch {
	case v.IsString():
		p.quote(b, v.AsString())
	case v.IsList():
		p.list(b, v, depth)
	case v.IsDict():
		p.dict(b, v, depth)
	case v.IsBool():
		b.WriteString(strconv.FormatBool(v.AsBool()))
	case v.IsFloat():
		b.WriteString(pythonFloat(v.AsFloat()))
	case v.IsNumber():
		b.WriteString(strconv.FormatInt(v.AsInt(), 10))
	default:
		b.WriteString("null")
	}
}

func (p pythonJSON) list(b *strings.Builder, v jinja.Value, depth int) {
	items := v.AsList().Items
	b.WriteByte('[')
	for i, item := range items {
		p.next(b, i, depth+1)
		p.write(b, item, depth+1)
	}
	p.close(b, len(items), depth, ']')
}

func (p pythonJSON) dict(b *strings.Builder, v jinja.Value, depth int) {
	keys := v.AsDict().OrderedKeys()
	if p.sorted {
		keys = slices.Sorted(slices.Values(keys))
	}
	key := p.key
	if key == "" {
		key = ": "
	}
	b.WriteByte('{')
	for i, k := range keys {
		p.next(b, i, depth+1)
		item, _ := v.AsDict().Get(k)
		p.quote(b, k)
		b.WriteString(key)
		p.write(b, item, depth+1)
	}
	p.close(b, len(keys), depth, '}')
}

// next stands before item i: a separator, and where it indents a new line.
func (p pythonJSON) next(b *strings.Builder, i, depth int) {
	separator := p.item
	if separator == "" && p.indent > 0 {
		separator = ","
	} else if separator == "" {
		separator = ", "
	}
	if i > 0 {
		b.WriteString(separator)
	}
	p.line(b, depth)
}

func (p pythonJSON) line(b *strings.Builder, depth int) {
	if p.indent > 0 {
		b.WriteString("\n" + strings.Repeat(" ", p.indent*depth))
	}
}

func (p pythonJSON) close(b *strings.Builder, n, depth int, bracket byte) {
	if n > 0 {
		p.line(b, depth)
	}
	b.WriteByte(bracket)
}

// quote writes a string. Python escapes less than Go does.
func (p pythonJSON) quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString("\\" + string(r))
		case r == '\n' || r == '\r' || r == '\t' || r == '\b' || r == '\f':
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		case r < ' ' || p.ascii && r > '~' && r <= 0xffff:
			fmt.Fprintf(b, "\\u%04x", r)
		case p.ascii && r > 0xffff:
			fmt.Fprintf(b, "\\u%04x\\u%04x", 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

func quoted(s string) string {
	var b strings.Builder
	pythonJSON{}.quote(&b, s)
	return b.String()
}

// pythonFloat is a number as Python's repr writes it: 1.0, 0.0001, 1e+16.
func pythonFloat(f float64) string {
	s := strconv.FormatFloat(f, 'e', -1, 64)
	_, exponent, _ := strings.Cut(s, "e")
	if e, err := strconv.Atoi(exponent); err != nil || e < -4 || e >= 16 {
		return s
	}
	if s = strconv.FormatFloat(f, 'f', -1, 64); !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
