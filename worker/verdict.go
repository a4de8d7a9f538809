package worker

import (
	"time"

	"lorry/engine"
)

// decision is what becomes of a failed run.
type decision string

const (
	fail    decision = "fail"    // the request's fault: an answer now
	again   decision = "again"   // not looked at: run it again here
	suspect decision = "suspect" // the engine died with it: run it alone
	later   decision = "later"   // the engine's fault: retry after a pause
	dead    decision = "dead"    // the attempt cap: a dead letter
)

// verdict is the one table from errors to what is done. attempt counts runs begun, this one included.
func verdict(e *engine.Error, attempt, maxAttempts int) decision {
	switch e.Class {
	case engine.Invalid, engine.NotFound:
		return fail
	case engine.Unavailable, engine.Cancelled:
		return again
	case engine.Crashed:
		return suspect
	}
	if attempt >= maxAttempts {
		return dead
	}
	return later
}

// backoff is the pause before a retry: 1 s, doubling to a minute; an eighth of that when someone waits.
func backoff(attempt int, waited bool) time.Duration {
	d := min(time.Second<<min(attempt-1, 6), time.Minute)
	if waited {
		d /= 8
	}
	return d
}
