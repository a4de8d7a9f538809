//go:build !linux

package llama

import "time"

var started = time.Now()

// threadTime is the time that has passed: this system tells of no thread's own in a way that costs little.
func threadTime() time.Duration { return time.Since(started) }
