package producer

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	metricRequests = promauto.NewCounterVec(prometheus.CounterOpts{Name: "lorry_http_requests_total",
		Help: "HTTP requests answered, by route and status."}, []string{"route", "code"})
	metricSeconds = promauto.NewHistogramVec(prometheus.HistogramOpts{Name: "lorry_http_seconds",
		Help:    "Time from a request's arrival to the end of its answer, by route.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}}, []string{"route"})
	metricFirst = promauto.NewHistogram(prometheus.HistogramOpts{Name: "lorry_stream_first_seconds",
		Help:    "Time from a streaming request's arrival to its first chunk.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}})
	metricCache = promauto.NewCounterVec(prometheus.CounterOpts{Name: "lorry_cache_requests_total",
		Help: "Requests by what the response cache did: hit (cached), joined (answered by an equal one under way), miss, bypass."}, []string{"result"})
	metricAccepted = promauto.NewCounterVec(prometheus.CounterOpts{Name: "lorry_jobs_accepted_total",
		Help: "Jobs accepted, by lane and how the answer travels: waited or async."}, []string{"lane", "road"})
	metricWaiting = promauto.NewGauge(prometheus.GaugeOpts{Name: "lorry_http_waiting",
		Help: "Requests that wait for a job's answer now."})
	metricSockets = promauto.NewGauge(prometheus.GaugeOpts{Name: "lorry_http_sockets",
		Help: "Websockets of the Responses API that are open now."})
	metricHangups = promauto.NewCounter(prometheus.CounterOpts{Name: "lorry_http_hangups_total",
		Help: "Clients that hung up before their answer; their jobs were cancelled unless they are recorded."})
	metricUnrecorded = promauto.NewCounter(prometheus.CounterOpts{Name: "lorry_cache_unrecorded_total",
		Help: "Cached answers that left without a job's record: under load, or because a store was away."})
)
