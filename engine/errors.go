package engine

import (
	"errors"
	"fmt"
)

// Class says whose fault an error is, and so what may be done about it.
type Class string

const (
	// Invalid requests never succeed: the client must change them.
	Invalid Class = "invalid"
	// NotFound means that the model is not served here.
	NotFound Class = "not_found"
	// Unavailable engines did not look at the request, or gave it back; it may run elsewhere or later.
	Unavailable Class = "unavailable"
	// Crashed engines died with this request in the native call: it is a suspect.
	Crashed Class = "crashed"
	// Internal failures are the engine's own, of this request alone.
	Internal Class = "internal"
	// Cancelled is a run that its caller ended.
	Cancelled Class = "cancelled"
	// Expired is a run that its deadline ended.
	Expired Class = "expired"
)

// Error is a failed run. It crosses pipes and queues as JSON.
type Error struct {
	Class Class `json:"class"`
	// Code is OpenAI's, as "context_length_exceeded"; empty where there is none.
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
	// Param names the field at fault.
	Param string `json:"param,omitempty"`
	// Stderr is a crashed engine's last words.
	Stderr string `json:"stderr,omitempty"`
}

func (e *Error) Error() string { return "engine: " + string(e.Class) + ": " + e.Message }

// Is matches the sentinels below by class, and by code where they have one.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Class == e.Class && (t.Code == "" || t.Code == e.Code)
}

// Sentinels for errors.Is.
var (
	// ErrInvalid is any request that can't succeed.
	ErrInvalid error = &Error{Class: Invalid}
	// ErrContextLength is a prompt that does not fit the model's context.
	ErrContextLength error = &Error{Class: Invalid, Code: CodeContextLength}
	// ErrNotFound is a model that this engine does not serve.
	ErrNotFound error = &Error{Class: NotFound}
	// ErrUnavailable is an engine that is closed, restarting, or full.
	ErrUnavailable error = &Error{Class: Unavailable}
	// ErrCrashed is an engine that died in a call that held the request.
	ErrCrashed error = &Error{Class: Crashed}
)

// OpenAI's codes that engines use.
const (
	CodeContextLength = "context_length_exceeded"
	CodeModelNotFound = "model_not_found"
	CodeUnsupported   = "unsupported_parameter"
	CodeInvalidValue  = "invalid_value"
)

// Errorf makes an *Error.
func Errorf(c Class, code, param, format string, args ...any) *Error {
	return &Error{Class: c, Code: code, Param: param, Message: fmt.Sprintf(format, args...)}
}

// AsError is err as an *Error: itself, the one that it wraps, or Internal with its text.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Class: Internal, Message: err.Error()}
}
