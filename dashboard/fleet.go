package dashboard

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"lorry/queue"
)

// snapshot is the fleet at one moment.
type snapshot struct {
	at      time.Time
	workers []queue.Heartbeat
	depths  queue.Depths
	known   time.Time // when depths were read; zero: never
	err     error     // why they could not be read since
}

// fresh is how old the depths may be that a page shows.
const fresh = 900 * time.Millisecond

// fleet is the snapshot now. NATS is asked by one reader at a time, and not again while its answer is fresh.
func (d *Dashboard) fleet(ctx context.Context) snapshot {
	d.look.Lock()
	defer d.look.Unlock()
	if now := time.Now(); now.Sub(d.facts.at) >= fresh {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		depths, err := d.cfg.Queue.Depths(ctx)
		if d.facts.err = err; err == nil {
			d.facts.depths, d.facts.known = depths, now
		}
		d.facts.at = time.Now()
	}
	d.facts.workers = d.cfg.Fleet.Workers()
	return d.facts
}

// tiles are the figures at the top of the page.
type tiles struct {
	Workers, Slots, Busy   int
	Tokens, Jobs           float64
	Wait                   time.Duration
	Waiting                uint64
	Flight                 int
	Later, Outbox, Dead    uint64
	ShowFleet, DepthsKnown bool
}

func (s snapshot) tiles(sc scope) tiles {
	t := tiles{Workers: len(s.workers), ShowFleet: sc.admin, DepthsKnown: !s.known.IsZero(), Waiting: s.waiting(sc)}
	var weighted float64
	for _, w := range s.workers {
		t.Slots, t.Busy = t.Slots+w.Slots, t.Busy+w.Busy
		t.Tokens, t.Jobs = t.Tokens+w.TokensPerSecond, t.Jobs+w.JobsPerSecond
		weighted += w.JobsPerSecond * float64(w.QueueWait)
	}
	if t.Jobs > 0 {
		t.Wait = time.Duration(weighted / t.Jobs)
	}
	for _, w := range s.depths.Windows {
		t.Flight += w.Held
	}
	t.Later, t.Outbox, t.Dead = s.depths.Later, s.depths.Outbox, s.depths.Dead
	return t
}

// waiting is the jobs of the backlog that the reader may know of.
func (s snapshot) waiting(sc scope) (n uint64) {
	for _, b := range s.depths.Backlog {
		if sc.admin || b.Tenant == sc.tenant {
			n += b.Jobs
		}
	}
	return n
}

// laneView is one row of the table of lanes.
type laneView struct {
	Lane    queue.Lane
	Waiting uint64 // jobs in the backlog
	Ready   uint64 // deliveries that no worker holds yet
	Flight  int    // deliveries at workers
}

func (s snapshot) lanes(sc scope) []laneView {
	out := make([]laneView, len(queue.Lanes))
	for i, l := range queue.Lanes {
		out[i].Lane = l
		for _, b := range s.depths.Backlog {
			if b.Lane == l && (sc.admin || b.Tenant == sc.tenant) {
				out[i].Waiting += b.Jobs
			}
		}
		for _, w := range s.depths.Windows {
			if w.Lane == l {
				out[i].Ready, out[i].Flight = out[i].Ready+w.Ready, out[i].Flight+w.Held
			}
		}
	}
	return out
}

// tenantView is one row of the table of backlogs.
type tenantView struct {
	Tenant            string
	Flex, Batch, Jobs uint64
	Share             float64 // of the longest one
}

// maxTenants is how many backlogs are shown, the longest first.
const maxTenants = 20

func (s snapshot) tenants() (out []tenantView, more int) {
	at := map[string]*tenantView{}
	for _, b := range s.depths.Backlog {
		t := cmp.Or(at[b.Tenant], &tenantView{Tenant: b.Tenant})
		at[b.Tenant] = t
		t.Jobs += b.Jobs
		if b.Lane == queue.Batch {
			t.Batch += b.Jobs
		} else {
			t.Flex += b.Jobs
		}
	}
	for _, t := range at {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b tenantView) int {
		return cmp.Or(cmp.Compare(b.Jobs, a.Jobs), cmp.Compare(a.Tenant, b.Tenant))
	})
	for i := range out {
		out[i].Share = float64(out[i].Jobs) / float64(out[0].Jobs)
	}
	more = max(0, len(out)-maxTenants)
	return out[:len(out)-more], more
}

// workerView is one worker's card.
type workerView struct {
	queue.Heartbeat
	ShowHost bool
	Devices  []deviceView
}

// deviceView is one device's row.
type deviceView struct {
	queue.Device
	Memory, Heat, Power float64 // 0 to 1
	Peak                float64 // watts: what Power is a share of
}

// modelView is one row of the table of models.
type modelView struct {
	Name, Runtime string
	Context       int
	Workers       int // that serve it now
}

// models are the registry's, and how many workers serve each.
func (d *Dashboard) models(s snapshot) (out []modelView) {
	if d.cfg.Registry == nil {
		return nil
	}
	served := map[string]int{}
	for _, w := range s.workers {
		for _, m := range w.Models {
			served[m]++
		}
	}
	for _, m := range d.cfg.Registry.List() {
		out = append(out, modelView{m.Name, m.Runtime, m.Context, served[m.Name]})
	}
	return out
}

// hot is the temperature of a full bar.
const hot = 100

func (d *Dashboard) workers(s snapshot, sc scope) []workerView {
	out := make([]workerView, 0, len(s.workers))
	for _, h := range s.workers {
		w := workerView{Heartbeat: h, ShowHost: sc.admin}
		for _, dev := range h.Devices {
			v := deviceView{Device: dev, Heat: dev.Celsius / hot, Peak: d.peak(h.Worker, dev)}
			if dev.MemoryTotal > 0 {
				v.Memory = float64(dev.MemoryUsed) / float64(dev.MemoryTotal)
			}
			if v.Peak > 0 {
				v.Power = dev.PowerWatts / v.Peak
			}
			w.Devices = append(w.Devices, v)
		}
		out = append(out, w)
	}
	return out
}

// maxPeaks bounds the memory of peaks: workers come and go under new names.
const maxPeaks = 4096

// peak is the highest draw of a device that was seen: NVML's heartbeat has no limit to compare with.
func (d *Dashboard) peak(worker string, dev queue.Device) float64 {
	if dev.PowerWatts <= 0 {
		return 0
	}
	d.peaksMu.Lock()
	defer d.peaksMu.Unlock()
	if d.peaks == nil || len(d.peaks) >= maxPeaks {
		d.peaks = map[string]float64{}
	}
	k := fmt.Sprintf("%s/%d/%s", worker, dev.Index, dev.UUID)
	d.peaks[k] = max(d.peaks[k], dev.PowerWatts)
	return d.peaks[k]
}
