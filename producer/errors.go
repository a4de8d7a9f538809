package producer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
)

// apiError is an answer that is not 2xx, in OpenAI's shape.
type apiError struct {
	Status  int
	Type    string
	Code    string
	Param   string
	Message string
	// RetryAfter is when trying again makes sense; 0 says nothing.
	RetryAfter time.Duration
	// Final tells the SDKs not to retry a status that they would: x-should-retry: false.
	Final bool
}

func (e *apiError) Error() string { return "producer: " + e.Message }

// OpenAI's types of errors.
const (
	typeInvalid    = "invalid_request_error"
	typeRateLimit  = "rate_limit_error"
	typeServer     = "server_error"
	typePermission = "permission_error"
)

// Codes of refused requests: OpenAI's, where it has one.
const (
	codeMissing      = "missing_required_parameter"
	codeUnknown      = "unknown_parameter"
	codeType         = "invalid_type"
	codeValue        = engine.CodeInvalidValue
	codeUnsupported  = engine.CodeUnsupported
	codeJSON         = "invalid_json"
	codeTooLarge     = "request_too_large"
	codeIdem         = "idempotency_key_reused"
	codeRate         = "rate_limit_exceeded"
	codeFull         = "queue_full"
	codeAway         = "service_unavailable"
	codeDraining     = "draining"
	codeWaitedEnough = "wait_timeout"
	codeKey          = "invalid_api_key"
	codeForbidden    = "insufficient_permissions"
	codeNotFound     = "not_found"
	codeURL          = "unknown_url"
	codeMethod       = "method_not_allowed"
	codeConflict     = "conflict"
	codeDiverged     = "answer_diverged"
	codeCombination  = "invalid_parameter_combination"
	codeUnanswered   = "webhook_unanswered"
)

// refuse is a 400 that names the field at fault.
func refuse(code, param, format string, args ...any) *apiError {
	return &apiError{Status: http.StatusBadRequest, Type: typeInvalid, Code: code, Param: param, Message: fmt.Sprintf(format, args...)}
}

// unavailable is a 503: the same request will do later.
func unavailable(code, format string, args ...any) *apiError {
	return &apiError{Status: http.StatusServiceUnavailable, Type: typeServer, Code: code, Message: fmt.Sprintf(format, args...), RetryAfter: 2 * time.Second}
}

// draining refuses new work, and gives the connection up: the next one goes to another server.
func draining(w http.ResponseWriter) error {
	w.Header().Set("Connection", "close")
	return unavailable(codeDraining, "This server is shutting down and takes no new work. Try again: another one will answer.")
}

// asAPI is the one table from what went wrong to what the client is told. What is not in it is a 500, whose text stays
// in the log.
func asAPI(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*engine.Error](err); ok {
		return fromEngine(e)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errHungUp
	case errors.Is(err, queue.ErrFull):
		return &apiError{Status: http.StatusTooManyRequests, Type: typeRateLimit, Code: codeFull, RetryAfter: 5 * time.Second,
			Message: "The queue is full and the job was not accepted. Try again later."}
	case errors.Is(err, queue.ErrAway):
		return unavailable(codeAway, "The queue (NATS) does not answer. Try again in a moment.")
	case errors.Is(err, result.ErrEpoch):
		return unavailable(codeAway, "The result store (Redis) was lost and is being rebuilt. Try again in a moment.")
	case errors.Is(err, result.ErrAway):
		return unavailable(codeAway, "The result store (Redis) does not answer. Try again in a moment.")
	case errors.Is(err, errDiverged):
		return &apiError{Status: http.StatusInternalServerError, Type: typeServer, Code: codeDiverged,
			Message: "The answer had to be computed again and came out differently from what was already sent. Send the request again."}
	case tooLarge(err):
		return &apiError{Status: http.StatusRequestEntityTooLarge, Type: typeInvalid, Code: codeTooLarge,
			Message: "The request is larger than the queue takes. Send less text, or ask the operator to raise max_payload of the NATS server."}
	case errors.Is(err, context.DeadlineExceeded):
		return unavailable(codeAway, "A part of the service did not answer in time. Try again in a moment.")
	}
	return internal()
}

func internal() *apiError {
	return &apiError{Status: http.StatusInternalServerError, Type: typeServer, Code: "internal_error",
		Message: "The server had an error while processing your request. The log has the details under this request's ID."}
}

// fromEngine is how a run failed, by result's table.
func fromEngine(e *engine.Error) *apiError {
	status, body := result.ErrorResponse(e)
	var b struct{ Error result.APIError }
	_ = json.Unmarshal(body, &b) // result's own bytes
	out := &apiError{Status: status, Type: b.Error.Type, Message: b.Error.Message}
	if b.Error.Code != nil {
		out.Code = *b.Error.Code
	}
	if b.Error.Param != nil {
		out.Param = *b.Error.Param
	}
	if status == http.StatusServiceUnavailable {
		out.RetryAfter = 2 * time.Second
	}
	return out
}

// object is the error without its envelope.
func (e *apiError) object() result.APIError {
	return result.APIError{Message: e.Message, Type: e.Type, Param: optional(e.Param), Code: optional(e.Code)}
}

// write answers the request with the error.
func (e *apiError) write(w http.ResponseWriter) {
	h := w.Header()
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int(e.RetryAfter.Round(time.Second)/time.Second))))
	}
	if e.Final {
		h.Set("X-Should-Retry", "false")
	}
	writeJSON(w, e.Status, map[string]result.APIError{"error": e.object()})
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
