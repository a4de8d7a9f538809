package llama

import (
	"slices"
	"testing"
)

// brief is enough where the numbers do not matter.
var brief = lengths{prompt: 16, begins: 2, answer: 2, times: 1}

// Tuning looks at every knob, suggests what it has tried, and leaves a core to the rest.
func TestTune(t *testing.T) {
	c := config(t)
	c.Context = 0
	c.Threads = 0
	stages := 0
	u := &tuner{cfg: c, progress: func(string, int, int) { stages++ }, lengths: brief}
	u.t.Cores = 2
	if err := u.run(); err != nil {
		t.Fatal(err)
	}
	got := u.t
	tried := map[string]int{}
	for _, x := range got.Trials {
		tried[x.Knob]++
		if x.Error != "" || x.Together <= 0 {
			t.Errorf("%+v", x)
		}
	}
	for knob, least := range map[string]int{"threads": 1, "rows": 5, "slots": 5, "kv_type": 2} {
		if tried[knob] < least {
			t.Errorf("%s: tried %d times: %v", knob, tried[knob], tried)
		}
	}
	s := got.Suggest
	if s.Threads < 1 || s.Threads > max(1, got.Cores-1) || !slices.Contains([]int{1, 2, 4, 8, 16}, s.Slots) || s.Rows < 32 || stages != 5 || got.Format != "q4_1" {
		t.Errorf("got %+v after %d stages", got, stages)
	}
	if _, err := kvType(Config{KVType: s.KVType, NoFlash: !s.Flash}); err != nil {
		t.Errorf("what is suggested can't be: %v", err)
	}
}
