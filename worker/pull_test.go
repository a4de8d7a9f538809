package worker

import (
	"testing"
	"time"

	"lorry/queue"
)

// TestRoom: a worker claims what its slots and its look-ahead hold, and beyond free slots no more than its share.
func TestRoom(t *testing.T) {
	for name, c := range map[string]struct {
		slots, waiting, running int
		ahead                   int // in the engine
		jobsPerSecond           int
		share                   int
		room                    int
	}{
		"idle: its slots":                             {slots: 8, room: 8},
		"idle, much is ready: a look-ahead too":       {slots: 8, share: 500, room: minLookahead},
		"busy: as many as its slots":                  {slots: 8, running: 8, room: 8},
		"busy, much is ready":                         {slots: 8, running: 8, share: 500, room: minLookahead},
		"busy, some wait":                             {slots: 8, running: 8, waiting: 60, share: 500, room: minLookahead - 60},
		"busy, enough wait":                           {slots: 8, running: 8, waiting: 8, room: 0},
		"busy, some wait in the engine":               {slots: 8, running: 8, ahead: 8, share: 500, room: minLookahead - 8},
		"busy, enough wait in the engine":             {slots: 8, running: 8, ahead: 8, room: 0},
		"fast: what it ends in a tenth of a second":   {slots: 8, running: 8, jobsPerSecond: 5000, share: 5000, room: 500},
		"fast, little is ready":                       {slots: 8, running: 8, jobsPerSecond: 5000, share: 20, room: 20},
		"very fast: bounded by what a death holds up": {slots: 8, running: 8, jobsPerSecond: 1e6, share: 1e6, room: maxLookahead},
	} {
		t.Run(name, func(t *testing.T) {
			w := &Worker{cfg: Config{Slots: c.slots}, slots: newSlots(c.slots, c.ahead), rates: newRates()}
			w.rates.cells[0].jobs = c.jobsPerSecond
			w.slots.waiting[queue.Flex] = make([]*run, c.waiting)
			for i := range c.running + c.ahead {
				r := &run{}
				if i < c.running {
					r.since = time.Now()
				}
				w.slots.inside = append(w.slots.inside, r)
			}
			if got := w.room(c.share); got != c.room {
				t.Errorf("room for %d jobs, want %d", got, c.room)
			}
		})
	}
}
