package scheduler

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"lorry/queue"
)

var (
	waitingGauge = promauto.NewGaugeVec(prometheus.GaugeOpts{Name: "lorry_queue_waiting_jobs",
		Help: "Accepted jobs that are not in the ready window yet, by lane and base: what autoscaling should look at, with the next two."}, []string{"lane", "base"})
	readyGauge = promauto.NewGaugeVec(prometheus.GaugeOpts{Name: "lorry_queue_ready_deliveries",
		Help: "Deliveries that wait to be pulled, by lane and base."}, []string{"lane", "base"})
	heldGauge = promauto.NewGaugeVec(prometheus.GaugeOpts{Name: "lorry_queue_held_deliveries",
		Help: "Deliveries that workers hold, by lane and base."}, []string{"lane", "base"})
	keptGauge = promauto.NewGaugeVec(prometheus.GaugeOpts{Name: "lorry_queue_messages",
		Help: "Messages of LATER (retries that wait), DEAD, OUTBOX (events not delivered) and RESULTS."}, []string{"stream"})
)

// depthsEvery is between looks at the streams.
const depthsEvery = 5 * time.Second

// gauge shows how much waits where, for Prometheus. Every scheduler does, since each is scraped by itself.
func (s *Scheduler) gauge(ctx context.Context) error {
	for ctx.Err() == nil {
		d, err := s.cfg.Queue.Depths(ctx)
		if err == nil {
			show(d)
		}
		pause(ctx, depthsEvery)
	}
	return nil
}

func show(d queue.Depths) {
	waitingGauge.Reset()
	for _, b := range d.Backlog {
		waitingGauge.WithLabelValues(string(b.Lane), b.Base).Add(float64(b.Jobs))
	}
	for _, w := range d.Windows {
		waitingGauge.WithLabelValues(string(w.Lane), w.Base).Add(0) // none waiting is a value too
		readyGauge.WithLabelValues(string(w.Lane), w.Base).Set(float64(w.Ready))
		heldGauge.WithLabelValues(string(w.Lane), w.Base).Set(float64(w.Held))
	}
	for stream, n := range map[string]uint64{queue.StreamLater: d.Later, queue.StreamDead: d.Dead, queue.StreamOutbox: d.Outbox, queue.StreamResults: d.Results} {
		keptGauge.WithLabelValues(stream).Set(float64(n))
	}
}
