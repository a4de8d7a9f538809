package batch

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"

	"lorry/engine"
	"lorry/queue"
)

// errLong is a line longer than MaxLine.
var errLong = errors.New("line too long")

// lineReader cuts a file into lines. It holds one of them at a time. A byte order mark, white space around a line and
// blank lines are passed over.
type lineReader struct {
	r      *bufio.Reader
	offset int64 // of what is read next
	number int   // of the line returned last, from 1, blank ones counted
	buf    []byte
}

func newLineReader(r io.Reader) *lineReader { return &lineReader{r: bufio.NewReaderSize(r, 128<<10)} }

var bom = []byte("\xef\xbb\xbf")

// next is the next line that is not blank, valid until the next call, and where it begins. io.EOF is the end.
func (l *lineReader) next() (text []byte, at int64, err error) {
	for {
		at = l.offset
		raw, err := l.read()
		if err != nil {
			return nil, 0, err
		}
		l.number++
		text = raw
		if at == 0 {
			text = bytes.TrimPrefix(text, bom)
		}
		if text = bytes.TrimLeft(text, " \t\r\n"); len(text) > 0 {
			return bytes.TrimRight(text, " \t\r\n"), at + int64(len(raw)-len(text)), nil
		}
	}
}

// read takes one line with its end. The file's last one may have none.
func (l *lineReader) read() ([]byte, error) {
	part, err := l.r.ReadSlice('\n')
	if err == nil {
		l.offset += int64(len(part))
		return part, nil
	}
	l.buf = l.buf[:0]
	for errors.Is(err, bufio.ErrBufferFull) {
		if l.buf = append(l.buf, part...); len(l.buf) > MaxLine {
			l.number++
			return nil, errLong
		}
		part, err = l.r.ReadSlice('\n')
	}
	l.buf = append(l.buf, part...)
	l.offset += int64(len(l.buf))
	switch {
	case len(l.buf) > MaxLine:
		l.number++
		return nil, errLong
	case err == nil, errors.Is(err, io.EOF) && len(l.buf) > 0:
		return l.buf, nil
	}
	return nil, err
}

// Line is one line of an input file.
type Line struct {
	CustomID string
	Body     json.RawMessage
	// Model is the body's.
	Model string
	// Inputs counts what the body has under "input", which is what an embeddings line embeds.
	Inputs int
	// answer is how many tokens the answer may have, 0 where the body does not say; choices are how many answers.
	answer, choices int
}

// completionTokens is OpenAI's bound of answers of /v1/completions that name none.
const completionTokens = 16

// Work is what the line may cost in tokens, as far as its text shows: queue.Job.Cost, without reading the request.
func (l *Line) Work(e queue.Endpoint) int {
	prompt, bound := len(l.Body)/4, queue.DefaultAnswer
	switch e {
	case queue.Embeddings:
		return max(1, prompt)
	case queue.Completions:
		bound = completionTokens
	}
	return prompt + cmp.Or(l.answer, bound)*max(1, l.choices)
}

// Codes of lines that are not in the shape of lines. The first three are OpenAI's.
const (
	codeJSON      = "invalid_json_line"
	codeDuplicate = "duplicate_custom_id"
	codeURL       = "url_mismatch"
	codeModel     = "model_mismatch"
	codeMethod    = "invalid_method"
	codeMissing   = "missing_required_parameter"
	codeType      = "invalid_type"
)

// maxCustomID bounds a custom_id, in bytes.
const maxCustomID = 512

func lineError(code, param, format string, args ...any) *LineError {
	return &LineError{Code: code, Param: param, Message: fmt.Sprintf(format, args...)}
}

// ParseLine reads a line for an endpoint. Its error is the shape's: what the endpoint makes of the body is another matter.
// Fields of the line that are not known are passed over, those of the body stay in it.
func ParseLine(text []byte, endpoint queue.Endpoint) (l Line, _ *LineError) {
	switch {
	case !utf8.Valid(text):
		return l, lineError(codeJSON, "", "This line is not parseable as valid JSON: it is not valid UTF-8.")
	case !json.Valid(text):
		return l, lineError(codeJSON, "", "This line is not parseable as valid JSON.")
	case text[0] != '{':
		return l, lineError(codeJSON, "", "This line is not a JSON object.")
	}
	var f fields
	if e := f.split(text); e != nil {
		return l, e
	}
	return f.line(endpoint)
}

// fields are the parts of a line, as JSON.
type fields struct{ customID, method, url, body []byte }

func (f *fields) split(text []byte) (e *LineError) {
	for name, value := range members(text) {
		to := f.part(name)
		if to == nil {
			continue
		}
		if *to != nil && e == nil {
			e = lineError(engine.CodeInvalidValue, name, "'%s' is given twice.", name)
		}
		*to = value
	}
	return e
}

// part is where a field goes, nil for one that is passed over.
func (f *fields) part(name string) *[]byte {
	switch name {
	case "custom_id":
		return &f.customID
	case "method":
		return &f.method
	case "url":
		return &f.url
	case "body":
		return &f.body
	}
	return nil
}

func (f *fields) line(endpoint queue.Endpoint) (l Line, e *LineError) {
	method, url := "", ""
	for _, x := range []struct {
		name string
		raw  []byte
		to   *string
	}{{"custom_id", f.customID, &l.CustomID}, {"method", f.method, &method}, {"url", f.url, &url}} {
		if e := text(x.name, x.raw, x.to); e != nil {
			return l, e
		}
	}
	switch {
	case l.CustomID == "" || len(l.CustomID) > maxCustomID || bytes.IndexByte([]byte(l.CustomID), 0) >= 0:
		return l, lineError(engine.CodeInvalidValue, "custom_id", "'custom_id' must hold 1 to %d bytes, none of them zero.", maxCustomID)
	case method != "POST":
		return l, lineError(codeMethod, "method", "'method' must be POST.")
	case url != string(endpoint):
		return l, lineError(codeURL, "url", "The URL provided for this request does not match the batch endpoint %s.", endpoint)
	}
	l.Body = f.body
	return l, l.readBody()
}

// text reads a string that must be there.
func text(name string, raw []byte, to *string) *LineError {
	switch {
	case raw == nil || string(raw) == "null":
		return lineError(codeMissing, name, "Missing required parameter: '%s'.", name)
	case raw[0] != '"':
		return lineError(codeType, name, "Invalid type for '%s': expected a string.", name)
	}
	if s := raw[1 : len(raw)-1]; bytes.IndexByte(s, '\\') < 0 {
		*to = string(s)
		return nil
	}
	_ = json.Unmarshal(raw, to) // it is a string
	return nil
}

// readBody looks at what all lines of a batch must have in common.
func (l *Line) readBody() *LineError {
	switch {
	case l.Body == nil || string(l.Body) == "null":
		return lineError(codeMissing, "body", "Missing required parameter: 'body'.")
	case l.Body[0] != '{':
		return lineError(codeType, "body", "Invalid type for 'body': expected an object.")
	}
	var model, stream []byte
	for name, value := range members(l.Body) {
		switch name {
		case "model":
			model = value
		case "stream":
			stream = value
		case "input":
			l.Inputs = inputs(value)
		case "max_tokens", "max_completion_tokens", "max_output_tokens":
			l.answer = number(value)
		case "n":
			l.choices = number(value)
		}
	}
	if string(stream) == "true" {
		return lineError(engine.CodeUnsupported, "body.stream", "A batch's lines can't be streamed: leave 'stream' out.")
	}
	if e := text("body.model", model, &l.Model); e != nil || l.Model != "" {
		return e
	}
	return lineError(codeMissing, "body.model", "Missing required parameter: 'body.model'.")
}

// mostCounted bounds a number that nobody has checked yet.
const mostCounted = 1 << 20

// number is a whole number in a body; 0 for anything else, which is refused when the line is read.
func number(value []byte) int {
	n, err := strconv.Atoi(string(value))
	if err != nil || n < 0 {
		return 0
	}
	return min(n, mostCounted)
}

// inputs counts what is to be embedded: a list of numbers is one input, as a text is; a list of anything else is many.
func inputs(value []byte) (n int) {
	if value[0] != '[' {
		return 1
	}
	for i := space(value, 1); value[i] != ']'; i = space(value, i) {
		if value[i] == ',' {
			i = space(value, i+1)
		}
		if n == 0 && value[i] != '"' && value[i] != '[' {
			return 1
		}
		i, n = skip(value, i), n+1
	}
	return n
}

// members walks over a JSON object's fields without understanding them. The text must be a valid object.
func members(b []byte) func(yield func(name string, value []byte) bool) {
	return func(yield func(string, []byte) bool) {
		for i := space(b, 1); b[i] == '"' || b[i] == ','; i = space(b, i) {
			if b[i] == ',' {
				i = space(b, i+1)
			}
			end := skip(b, i)
			name := b[i:end]
			i = space(b, space(b, end)+1) // behind the colon
			end = skip(b, i)
			if !yield(unquoted(name), b[i:end]) {
				return
			}
			i = end
		}
	}
}

func unquoted(raw []byte) (s string) {
	if inner := raw[1 : len(raw)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return string(inner)
	}
	_ = json.Unmarshal(raw, &s) // it is a string
	return s
}

func space(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n' {
		i++
	}
	return i
}

// skip is where the value that begins at i ends.
func skip(b []byte, i int) int {
	depth := 0
	for ; ; i++ {
		switch b[i] {
		case '"':
			i = closing(b, i)
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		case ',', ':', ' ', '\t', '\r', '\n':
			continue
		default: // a number, true, false, null
			for i+1 < len(b) && bytes.IndexByte([]byte(",:}] \t\r\n"), b[i+1]) < 0 {
				i++
			}
		}
		if depth == 0 {
			return i + 1
		}
	}
}

// closing is the quote that ends the string whose opening one is at i.
func closing(b []byte, i int) int {
	for i++; ; i++ {
		i += bytes.IndexByte(b[i:], '"')
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
}
