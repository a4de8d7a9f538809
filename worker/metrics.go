package worker

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"lorry/queue"
)

var (
	jobsTotal = promauto.NewCounterVec(prometheus.CounterOpts{Name: "lorry_worker_jobs_total",
		Help: "Jobs that this process ended, by lane and terminal state."}, []string{"lane", "state"})
	tokensTotal = promauto.NewCounter(prometheus.CounterOpts{Name: "lorry_worker_completion_tokens_total",
		Help: "Tokens of answers computed."})
	resumedTotal = promauto.NewCounter(prometheus.CounterOpts{Name: "lorry_worker_resumed_tokens_total",
		Help: "Tokens of answers that earlier runs had computed, and this process went on from."})
	handedTotal = promauto.NewCounter(prometheus.CounterOpts{Name: "lorry_worker_handed_over_total",
		Help: "Jobs handed back half-way, for their next owner to go on with."})
	deadTotal = promauto.NewCounter(prometheus.CounterOpts{Name: "lorry_worker_dead_letters_total",
		Help: "Jobs given up at their attempt cap."})
	queueWait = promauto.NewHistogram(prometheus.HistogramOpts{Name: "lorry_worker_queue_wait_seconds",
		Help: "Time from acceptance to the start of a run.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 10)})
	slotsGauge = promauto.NewGaugeVec(prometheus.GaugeOpts{Name: "lorry_worker_slots",
		Help: "Slots of a worker, by whether they run."}, []string{"worker", "use"})
	crashesGauge = promauto.NewGaugeVec(prometheus.GaugeOpts{Name: "lorry_worker_engine_crashes",
		Help: "Ends of the engine's process since the worker started."}, []string{"worker"})
	deviceGauge = promauto.NewGaugeVec(prometheus.GaugeOpts{Name: "lorry_device",
		Help: "Accelerators: utilization (0 to 1), memory_used and memory_total (bytes), power (watts), temperature (celsius)."},
		[]string{"worker", "index", "name", "what"})
)

// observe turns a heartbeat into gauges.
func observe(h queue.Heartbeat) {
	slotsGauge.WithLabelValues(h.Worker, "busy").Set(float64(h.Busy))
	slotsGauge.WithLabelValues(h.Worker, "free").Set(float64(h.Slots - h.Busy))
	crashesGauge.WithLabelValues(h.Worker).Set(float64(h.Crashes))
	for _, d := range h.Devices {
		for what, x := range map[string]float64{"utilization": d.Utilization, "memory_used": float64(d.MemoryUsed),
			"memory_total": float64(d.MemoryTotal), "power": d.PowerWatts, "temperature": d.Celsius} {
			deviceGauge.WithLabelValues(h.Worker, strconv.Itoa(d.Index), d.Name, what).Set(x)
		}
	}
}
