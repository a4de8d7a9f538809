package worker

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"lorry/engine"
)

// loopCollector turns the engine's own counts into metrics. They begin anew with each engine's process, as Prometheus
// expects of counters.
type loopCollector struct {
	worker string

	mu   sync.Mutex
	last *engine.Snapshot
}

// figure is one metric: a value for each value of its label, or a single one without.
type figure struct {
	name, help, label string
	kind              prometheus.ValueType
	values            func(*engine.Snapshot) map[string]float64
}

func single(f func(*engine.Snapshot) int) func(*engine.Snapshot) map[string]float64 {
	return func(s *engine.Snapshot) map[string]float64 { return map[string]float64{"": float64(f(s))} }
}

var figures = []figure{
	{"failed_calls_total", "Native calls that failed.", "", prometheus.CounterValue, single(func(s *engine.Snapshot) int { return s.Totals.Failed })},
	{"shared_tokens_total", "Tokens of prompts that were found in the KV cache.", "", prometheus.CounterValue, single(func(s *engine.Snapshot) int { return s.Totals.Shared })},
	{"preempted_total", "Sequences that lost their cells to older ones.", "", prometheus.CounterValue, single(func(s *engine.Snapshot) int { return s.Totals.Preempted })},
	{"parked_total", "Sequences that gave their slots to those of another adapter, and kept their cells.", "", prometheus.CounterValue, single(func(s *engine.Snapshot) int { return s.Totals.Parked })},
	{"rows_total", "Tokens computed, by kind: prompt, answer.", "kind", prometheus.CounterValue, func(s *engine.Snapshot) map[string]float64 {
		return map[string]float64{"prompt": float64(s.Totals.PromptRows), "answer": float64(s.Totals.AnswerRows)}
	}},
	{"step_part_seconds_total", "Time in steps, by part: plan, compute, draw, settle.", "part", prometheus.CounterValue, func(s *engine.Snapshot) map[string]float64 {
		p := s.Totals.Parts
		return map[string]float64{"plan": p.Plan, "compute": p.Compute, "draw": p.Draw, "settle": p.Settle}
	}},
	{"cells", "Cells of the KV cache, by use: busy, idle (kept for requests that begin alike), free.", "use", prometheus.GaugeValue, func(s *engine.Snapshot) map[string]float64 {
		return map[string]float64{"busy": float64(s.Cells.Busy), "idle": float64(s.Cells.Idle), "free": float64(s.Cells.Free)}
	}},
	{"adapters", "LoRA adapters that are loaded.", "", prometheus.GaugeValue, single(func(s *engine.Snapshot) int { return s.Adapters.Loaded })},
	{"adapter_bytes", "Memory that they take.", "", prometheus.GaugeValue, single(func(s *engine.Snapshot) int { return int(s.Adapters.Bytes) })},
	{"adapter_loads_total", "Adapters that were loaded.", "", prometheus.CounterValue, single(func(s *engine.Snapshot) int { return s.Adapters.Loads })},
	{"adapter_evictions_total", "Adapters that were freed to make room for others.", "", prometheus.CounterValue, single(func(s *engine.Snapshot) int { return s.Adapters.Evicted })},
	{"adapter_changes_total", "Changes of the adapter that is computed with.", "", prometheus.CounterValue, single(func(s *engine.Snapshot) int { return s.Adapters.Changes })},
	{"adapter_change_seconds", "What a change costs, by the moving mean.", "", prometheus.GaugeValue, seconds(func(s *engine.Snapshot) float64 { return s.Adapters.ChangeSeconds })},
	{"adapter_turns_total", "Turns that ended while another adapter waited for its own.", "", prometheus.CounterValue, single(func(s *engine.Snapshot) int { return s.Adapters.Turns })},
	{"adapter_turn_seconds_total", "How long these took.", "", prometheus.CounterValue, seconds(func(s *engine.Snapshot) float64 { return s.Adapters.TurnSeconds })},
}

func seconds(f func(*engine.Snapshot) float64) func(*engine.Snapshot) map[string]float64 {
	return func(s *engine.Snapshot) map[string]float64 { return map[string]float64{"": f(s)} }
}

func (c *loopCollector) take(s engine.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = &s
}

func (c *loopCollector) desc(f figure) *prometheus.Desc {
	var labels []string
	if f.label != "" {
		labels = []string{f.label}
	}
	return prometheus.NewDesc("lorry_engine_"+f.name, f.help, labels, prometheus.Labels{"worker": c.worker})
}

// stepTimes is the histogram, which stands beside figures.
var stepTimes = figure{name: "step_seconds", help: "Time of a step: a native call with what goes before and after it."}

// Describe tells two workers of one process apart by their names.
func (c *loopCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.desc(stepTimes)
	for _, f := range figures {
		out <- c.desc(f)
	}
}

// Collect sends what the last look has shown.
func (c *loopCollector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	s := c.last
	c.mu.Unlock()
	if s == nil {
		return
	}
	out <- c.times(s.Totals)
	for _, f := range figures {
		for of, x := range f.values(s) {
			if f.label == "" {
				out <- prometheus.MustNewConstMetric(c.desc(f), f.kind, x)
			} else {
				out <- prometheus.MustNewConstMetric(c.desc(f), f.kind, x, of)
			}
		}
	}
}

func (c *loopCollector) times(t engine.Totals) prometheus.Metric {
	buckets, below := map[float64]uint64{}, uint64(0)
	for i, bound := range engine.StepBounds {
		if i < len(t.Times) {
			below += uint64(t.Times[i])
		}
		buckets[bound] = below
	}
	return prometheus.MustNewConstHistogram(c.desc(stepTimes), uint64(t.Steps), t.Parts.Sum(), buckets)
}
