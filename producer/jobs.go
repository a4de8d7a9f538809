package producer

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"lorry/queue"
	"lorry/result"
)

func (s *Server) getJob(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	st, err := s.cfg.Results.Get(ctx, who.Tenant, r.PathValue("id"))
	if err != nil {
		return noJob(err, r.PathValue("id"))
	}
	w.Header().Set(headerJob, st.Job)
	writeJSON(w, http.StatusOK, st.Object(true))
	return nil
}

func noJob(err error, id string) error {
	if !errors.Is(err, result.ErrNotFound) {
		return err
	}
	return &apiError{Status: http.StatusNotFound, Type: typeInvalid, Code: codeNotFound, Param: "id", Message: fmt.Sprintf("No job found with id '%s'.", clip(id))}
}

// cancelJob ends a job that is not over. Cancelling twice is fine; a job that was quicker is a conflict for good.
func (s *Server) cancelJob(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	st, err := s.cfg.Results.Cancel(ctx, who.Tenant, r.PathValue("id"))
	if err != nil {
		return noJob(err, r.PathValue("id"))
	}
	w.Header().Set(headerJob, st.Job)
	if st.State.Terminal() && st.State != queue.Cancelled {
		return &apiError{Status: http.StatusConflict, Type: typeInvalid, Code: codeConflict, Final: true,
			Message: fmt.Sprintf("Cannot cancel a job with status '%s'.", st.State)}
	}
	writeJSON(w, http.StatusOK, st.Object(true))
	return nil
}

// listJobs shows the tenant's jobs, the newest first, without their answers.
func (s *Server) listJobs(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	f, err := readFilter(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	sts, more, err := s.cfg.Results.List(ctx, who.Tenant, f)
	if errors.Is(err, result.ErrNotFound) {
		return refuse(codeValue, "after", "Invalid 'after': no job found with id '%s'. It may be older than jobs are kept.", clip(f.After))
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, pageOf(sts, more, func(st *result.Status) any { return st.Object(false) }, func(st *result.Status) string { return st.Job }))
	return nil
}

const (
	defaultLimit = 20
	maxLimit     = 100
)

var states = []queue.State{queue.Queued, queue.Running, queue.Succeeded, queue.Failed, queue.Cancelled, queue.Expired}

func readFilter(r *http.Request) (f result.Filter, err error) {
	q := r.URL.Query()
	if err := onlyQuery(q, "after", "limit", "status"); err != nil {
		return f, err
	}
	f.After, f.State, f.Limit = q.Get("after"), queue.State(q.Get("status")), defaultLimit
	if f.State != "" && !slices.Contains(states, f.State) {
		return f, refuse(codeValue, "status", "Invalid value: '%s'. Supported values for 'status' are: 'queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired'.", clip(string(f.State)))
	}
	if q.Has("limit") {
		f.Limit, err = wholeNumber("limit", q.Get("limit"), 1, maxLimit)
	}
	return f, err
}

// wholeNumber reads a number within bounds, and refuses others in OpenAI's words.
func wholeNumber(param, text string, least, most int) (int, error) {
	n, err := strconv.Atoi(text)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, refuse(codeType, param, "Invalid type for '%s': expected an integer, but got '%s' instead.", param, clip(text))
	case n < least:
		return 0, refuse("integer_below_min_value", param, "Invalid '%s': integer below minimum value. Expected a value >= %d, but got %d instead.", param, least, n)
	case n > most:
		return 0, refuse("integer_above_max_value", param, "Invalid '%s': integer above maximum value. Expected a value <= %d, but got %d instead.", param, most, n)
	}
	return n, nil
}
