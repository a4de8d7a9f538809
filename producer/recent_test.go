package producer

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"lorry/engine"
)

func TestRecent(t *testing.T) {
	var r recent
	long := &engine.Completion{Choices: []engine.Choice{{Text: strings.Repeat("x", 900<<10)}}}
	if r.get("a", testNow) != nil {
		t.Error("something from nothing")
	}
	r.put("a", whole("hi"), testNow)
	r.put("a", whole("hi"), testNow)
	if r.get("a", testNow.Add(recentFor)) == nil || r.get("a", testNow.Add(recentFor+time.Nanosecond)) != nil || r.bytes != 0 {
		t.Errorf("an answer is kept for %s; %d bytes are left", recentFor, r.bytes)
	}
	for i := range 200 {
		r.put(strconv.Itoa(i), long, testNow)
		if r.bytes > recentBytes || len(r.kept) > recentBytes/(900<<10) {
			t.Fatalf("%d bytes in %d answers", r.bytes, len(r.kept))
		}
	}
	if r.get("199", testNow) != long {
		t.Error("the newest is gone")
	}
	r.put("huge", &engine.Completion{Choices: []engine.Choice{{Text: strings.Repeat("x", 2<<20)}}}, testNow)
	if r.get("huge", testNow) != nil {
		t.Error("one answer took the room of many")
	}
}
