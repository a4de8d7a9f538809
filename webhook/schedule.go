package webhook

import "time"

// GiveUp is how long an event is tried.
const GiveUp = 72 * time.Hour

// steps are the pauses behind the first failures; the last one repeats.
var steps = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 4 * time.Hour}

// maxRetryAfter bounds what a receiver may ask for.
const maxRetryAfter = 12 * time.Hour

// Next is how long to wait behind a failed attempt. failed counts the failures so far (1 behind the first), age is the
// event's, after what the receiver asked for (0: nothing), and u is a random number in [0, 1) that spreads the attempts
// of many events by a fifth. The last attempt is made when the event is GiveUp old; ok is false behind it.
func Next(failed int, age, after time.Duration, u float64) (wait time.Duration, ok bool) {
	left := GiveUp - age
	if left <= 0 {
		return 0, false
	}
	step := steps[min(max(failed, 1), len(steps))-1]
	wait = time.Duration(float64(step) * (0.9 + 0.2*u))
	wait = max(wait, min(after, maxRetryAfter))
	return min(wait, left), true
}
