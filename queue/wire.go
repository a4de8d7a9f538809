package queue

import (
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"lorry/engine"
)

// Names of streams, subjects, durables and headers: what others read. B is engine.Model.B, T a tenant's slug.
const (
	StreamBacklog = "BACKLOG"
	StreamLater   = "LATER"
	StreamJobs    = "JOBS"
	StreamResults = "RESULTS"
	StreamOutbox  = "OUTBOX"
	StreamDead    = "DEAD"

	// DurableAnnounce reads RESULTS for the outbox.
	DurableAnnounce = "announce"

	// HeaderJob names the job of a message of one job (in LATER, DEAD and the interactive lane of JOBS).
	HeaderJob = "Lorry-Job"
)

// DueSubject is where the server itself moves a retry at its time.
func DueSubject(l Lane, b, tenant string) string { return "due." + string(l) + "." + b + "." + tenant }

// LaterSubject holds a retry until then. Purging it cancels the retry.
func LaterSubject(job string) string { return "later." + job }

// JobsSubject is the ready window of a lane and base.
func JobsSubject(l Lane, b string) string { return "jobs." + string(l) + "." + b }

// Durable is the consumer of that window.
func Durable(l Lane, b string) string { return string(l) + "-" + b }

// ResultSubject is where a job's verdict is committed: the first one stands.
func ResultSubject(j *Job) string {
	if j.Batch != "" {
		return "results.line." + j.Tenant + "." + j.Batch + "." + strings.TrimPrefix(j.ID, "job_"+j.Batch+"-")
	}
	return "results.single." + j.Tenant + "." + j.ID
}

// EndSubject is where a batch's end is committed.
func EndSubject(tenant, batch string) string { return "results.end." + tenant + "." + batch }

// LinesSubject is a filter for the verdicts of a batch's lines.
func LinesSubject(tenant, batch string) string { return "results.line." + tenant + "." + batch + ".*" }

// LineOf is the number at the end of a line's result subject or job ID, 0 where there is none.
func LineOf(name string) int {
	n, _ := strconv.Atoi(name[strings.LastIndexAny(name, ".-")+1:])
	return n
}

// HookSubject is an event on its way to one receiver.
func HookSubject(tenant, delivery string) string { return "hook." + tenant + "." + delivery }

// HookMsg is that message. It is refused where it stands already, and a duplicate just behind its removal.
func HookMsg(tenant, delivery string, data []byte) *nats.Msg {
	m := nats.NewMsg(HookSubject(tenant, delivery))
	m.Data = data
	m.Header.Set(jetstream.MsgIDHeader, delivery)
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
	return m
}

// DeadSubject is a dead letter.
func DeadSubject(j *Job) string { return "dead." + j.Tenant + "." + j.Request.Model.B() + "." + j.ID }

// Core NATS subjects: hints and views. Nothing depends on them.
//
// TokensSubject carries the chunks of one attempt, DoneSubject a job's verdict once it is projected, CancelSubject the
// wish to stop a job, FleetSubject a worker's heartbeat, WakeSubject (with the backlog's subject as body) news in the
// backlog of a base, EventsSubject a change of jobs' states, HookHintSubject (with the event's subject as body) an event
// that an owner asked for.
func TokensSubject(job, attempt string) string { return "tokens." + job + "." + attempt }
func DoneSubject(job string) string            { return "done." + job }
func CancelSubject(job string) string          { return "cancel." + job }
func FleetSubject(worker string) string        { return "fleet." + worker }
func WakeSubject(b string) string              { return "wake." + b }
func EventsSubject(tenant string) string       { return "events.jobs." + tenant }
func HookHintSubject(tenant string) string     { return "events.hook." + tenant }

// LinesDone is the hint of ended lines of a batch, on DoneSubject of the batch's ID.
type LinesDone struct {
	V     int        `json:"v"`
	Lines []LineDone `json:"lines"`
}

// LineDone is one of them: its number, and the tokens that its run cost.
type LineDone struct {
	Line   int `json:"line"`
	Tokens int `json:"tokens,omitempty"`
}

// TokenMessage is one piece of a running answer, published on TokensSubject for jobs with Stream set. Seq counts from 0
// within the attempt: a gap means that a hint was lost, and the verdict has the rest.
type TokenMessage struct {
	V     int          `json:"v"`
	Seq   int          `json:"seq"`
	Chunk engine.Chunk `json:"chunk"`
}
