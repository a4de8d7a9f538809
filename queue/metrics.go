package queue

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	commitSeconds = promauto.NewHistogram(prometheus.HistogramOpts{Name: "lorry_queue_commit_seconds",
		Help: "Time of one group commit of accepted jobs.", Buckets: prometheus.ExponentialBuckets(0.0002, 2, 14)})
	commitMessages = promauto.NewHistogram(prometheus.HistogramOpts{Name: "lorry_queue_commit_messages",
		Help: "Messages that one group commit carried.", Buckets: prometheus.ExponentialBuckets(1, 2, 11)})
)
