package scheduler

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var fedTotal = promauto.NewCounterVec(prometheus.CounterOpts{Name: "lorry_scheduler_deliveries_fed_total",
	Help: "Deliveries put into the ready window, by lane."}, []string{"lane"})
