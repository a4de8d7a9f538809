package engine

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
)

// Check refuses what no engine can run, whatever its model: an unknown kind, no messages, no answer asked for, and
// U+0000 anywhere, which ends a string in native code. It costs one pass over the text.
func (r *Request) Check() error {
	if err := r.checkKind(); err != nil {
		return err
	}
	return r.checkNUL()
}

func (r *Request) checkKind() error {
	if r.Sampling.N < 1 && r.Samples() {
		return Errorf(Invalid, CodeInvalidValue, "n", "n must be at least 1")
	}
	switch r.Kind {
	case Chat, Count:
		return checkMessages(r.Messages)
	case Embed:
		return r.checkInputs()
	case Text, Tokenize, Detokenize:
		return nil
	}
	return Errorf(Invalid, CodeInvalidValue, "kind", "unknown kind of request %q", r.Kind)
}

// Samples says whether the request's answer is drawn token by token. The other kinds only compute.
func (r *Request) Samples() bool { return r.Kind == Chat || r.Kind == Text }

func (r *Request) checkInputs() error {
	if len(r.Inputs) == 0 {
		return Errorf(Invalid, CodeInvalidValue, "input", "input must hold at least one text")
	}
	for i, in := range r.Inputs {
		if in.Text == "" && len(in.Tokens) == 0 {
			return Errorf(Invalid, CodeInvalidValue, "input", "input %d is empty", i)
		}
		if strings.ContainsRune(in.Text, 0) {
			return errNUL("input")
		}
	}
	return nil
}

func checkMessages(raw json.RawMessage) error {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return Errorf(Invalid, CodeInvalidValue, "messages", "messages must be an array of messages")
	}
	if len(list) == 0 {
		return Errorf(Invalid, CodeInvalidValue, "messages", "messages must hold at least one message")
	}
	return nil
}

func (r *Request) checkNUL() error {
	for _, f := range []struct {
		param string
		raw   json.RawMessage
	}{{"messages", r.Messages}, {"tools", r.Tools}, {"tool_choice", r.ToolChoice}, {"response_format", r.ResponseFormat}} {
		if jsonHasNUL(f.raw) {
			return errNUL(f.param)
		}
	}
	for _, f := range []struct{ param, text string }{{"prompt", r.Prompt}, {"suffix", r.Suffix}, {"grammar", r.Grammar}} {
		if strings.ContainsRune(f.text, 0) {
			return errNUL(f.param)
		}
	}
	for _, s := range r.Sampling.Stop {
		if strings.ContainsRune(s, 0) {
			return errNUL("stop")
		}
	}
	return nil
}

func errNUL(param string) error {
	return Errorf(Invalid, CodeInvalidValue, param, "%s holds the character U+0000, which no model can read", param)
}

// jsonHasNUL says whether a string or key of the JSON value holds U+0000. Only text that may hold it is parsed.
func jsonHasNUL(raw json.RawMessage) bool {
	return (bytes.Contains(raw, []byte(`\u0000`)) || bytes.IndexByte(raw, 0) >= 0) && parsedHasNUL(raw)
}

// parsedHasNUL is apart for its decoder, which would have the stack of every request's goroutine grow.
func parsedHasNUL(raw json.RawMessage) bool {
	for d := json.NewDecoder(bytes.NewReader(raw)); ; {
		switch t, err := d.Token(); {
		case err != nil:
			return err != io.EOF // JSON that can't be parsed is not passed on
		default:
			if s, ok := t.(string); ok && strings.ContainsRune(s, 0) {
				return true
			}
		}
	}
}
