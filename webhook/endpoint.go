package webhook

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Status says whether an endpoint gets events.
type Status string

const (
	// Enabled endpoints get events. One that keeps failing is left alone for a while (Failing), and stays enabled.
	Enabled Status = "enabled"
	// Paused endpoints were stopped by their owner. Their events wait, for GiveUp at most.
	Paused Status = "paused"
	// Disabled endpoints answered 410, or failed for GiveUp. No events are kept for them; their owner may enable them.
	Disabled Status = "disabled"
)

// Sentinels for errors.Is.
var (
	// ErrNoEndpoint is an endpoint that never was, is deleted, or is another tenant's.
	ErrNoEndpoint = errors.New("no such webhook endpoint")
	// ErrManyEndpoints is a tenant with as many endpoints as it may have.
	ErrManyEndpoints = fmt.Errorf("a tenant may have %d webhook endpoints", MaxEndpoints)
	// ErrIdle is an endpoint that is not enabled, and takes no test.
	ErrIdle = errors.New("the webhook endpoint is not enabled")
	// ErrNoDelivery is a delivery that is not in the log (any more).
	ErrNoDelivery = errors.New("no such delivery in the log")
	// ErrForgotten is a delivery whose event can't be made again: the record of what it tells of is gone.
	ErrForgotten = errors.New("the record of what the event tells of is gone")
	// ErrEvent is a name that no event has.
	ErrEvent = errors.New("no such event")
)

// Bounds of endpoints.
const (
	MaxEndpoints = 32
	MaxEvents    = 64
)

// Types of events. Endpoints may ask for others that begin with lorry.alert. too: newer versions send them.
var Types = []string{"batch.completed", "batch.failed", "batch.expired", "batch.cancelled",
	"response.completed", "response.failed", "response.cancelled", "response.incomplete",
	"lorry.job.succeeded", "lorry.job.failed", "lorry.job.cancelled", "lorry.job.expired",
	AlertPaused, AlertDisabled}

// groups are the types by their common beginning; "*" is all of them.
var groups = []string{"*", "batch.*", "response.*", "lorry.job.*", "lorry.alert.*"}

var alertType = regexp.MustCompile(`^lorry\.alert\.[a-z0-9_]{1,64}$`)

// CheckEvent says whether an endpoint may ask for events by this name: a type, or a group as "batch.*".
func CheckEvent(name string) error {
	if slices.Contains(Types, name) || slices.Contains(groups, name) || alertType.MatchString(name) {
		return nil
	}
	return fmt.Errorf("webhook: %w: it is none of %s, another lorry.alert.…, or a group of them as batch.* or *", ErrEvent, strings.Join(Types, ", "))
}

// Endpoint is where a tenant wants events sent. Times are unix milliseconds.
type Endpoint struct {
	V           int      `json:"v"`
	ID          string   `json:"id"`
	Tenant      string   `json:"tenant"`
	URL         string   `json:"url"`
	Events      []string `json:"events"`
	Description string   `json:"description,omitempty"`
	Status      Status   `json:"status"`
	// Reason is why it is disabled.
	Reason  string `json:"reason,omitempty"`
	Created int64  `json:"created"`
	// Updated is when its owner last changed it.
	Updated int64 `json:"updated"`
	// Secrets are sealed for this endpoint alone.
	Secrets keyring `json:"secrets"`
	// Failing is set while no attempt succeeds.
	Failing *Failing `json:"failing,omitempty"`
}

// Failing is a breaker that is open: no attempts until Until, then one after the other. A success closes it.
type Failing struct {
	Since int64 `json:"since"` // unix milliseconds, as Until
	Until int64 `json:"until"`
	// Opened counts the pauses: each is twice as long as the one before.
	Opened int `json:"opened"`
	// Error is the last attempt's.
	Error string `json:"error"`
}

const (
	firstPause = time.Minute
	longPause  = time.Hour
)

// breakerPause is how long an endpoint is left alone that failed behind opened pauses.
func breakerPause(opened int) time.Duration {
	return min(firstPause<<min(max(opened, 0), 10), longPause)
}

// Wants says whether events of a type are to be kept for the endpoint.
func (e *Endpoint) Wants(kind string) bool {
	return e.Status != Disabled && slices.ContainsFunc(e.Events, func(name string) bool { return matches(name, kind) })
}

// WantsAny says whether it may want a type that begins so.
func (e *Endpoint) WantsAny(prefix string) bool {
	return e.Status != Disabled && slices.ContainsFunc(e.Events, func(name string) bool {
		return name == "*" || strings.HasPrefix(name, prefix)
	})
}

func matches(name, kind string) bool {
	prefix, group := strings.CutSuffix(name, "*")
	return name == kind || group && strings.HasPrefix(kind, prefix)
}

// fail takes in that an attempt failed while the breaker was to open: the pause grows, and ends at GiveUp. It says
// whether anything changed: many attempts may fail at the same moment.
func (e *Endpoint) fail(now time.Time, since time.Time, why string) bool {
	f := cmp.Or(e.Failing, &Failing{Since: since.UnixMilli()})
	if e.Status == Disabled || now.UnixMilli() < f.Until {
		return false
	}
	e.Failing = &Failing{Since: f.Since, Until: now.Add(breakerPause(f.Opened)).UnixMilli(), Opened: f.Opened + 1, Error: why}
	if now.Sub(time.UnixMilli(f.Since)) >= GiveUp {
		e.disable(fmt.Sprintf("no attempt succeeded for %s; the last one: %s", GiveUp, why))
	}
	return true
}

func (e *Endpoint) disable(why string) { e.Status, e.Reason, e.Failing = Disabled, why, nil }

// Overlap is when the secret before the current one stops signing, in unix seconds; 0 if there is none.
func (e *Endpoint) Overlap(now time.Time) int64 { return e.Secrets.overlap(now) }

const endpointPrefix = "we_"

func (e *Endpoint) key() string { return endpointKey(e.Tenant, e.ID) }
func (e *Endpoint) context() string {
	return "webhook secret of endpoint " + e.ID + " of tenant " + e.Tenant
}

func endpointKey(tenant, id string) string { return endpointKeys + tenant + "." + id }

// endpointKeys is where endpoints are in the bucket.
const endpointKeys = "endpoint."

var endpointID = regexp.MustCompile(`^we_[0-9a-z]{26}$`)

// ValidID says whether an ID has an endpoint's form. IDs are in the order of their making.
func ValidID(id string) bool { return endpointID.MatchString(id) }
