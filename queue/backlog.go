package queue

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// maxBundle is how many jobs one message of BACKLOG carries at most.
const maxBundle = 128

// A message of BACKLOG is a bundle: the jobs of one lane, base and tenant that were submitted at the same moment, one a
// line, oldest first. They share its fsync, which an atomic batch of as many messages would cost a dozen times over (the
// server makes, syncs and deletes a folder for each). The subject's last token says how many jobs there are, so that the
// server's count of messages a subject tells how many jobs wait.

// BacklogSubject is where n accepted jobs wait.
func BacklogSubject(l Lane, b, tenant string, n int) string {
	return "backlog." + string(l) + "." + b + "." + tenant + "." + strconv.Itoa(n)
}

// Place is where jobs wait: a lane, base and tenant of BACKLOG, or of the retries in LATER that are due.
type Place struct {
	Stream  string
	Lane    Lane
	B       string
	Tenant  string
	Subject string // of its messages; with a wildcard in BACKLOG
}

// ParsePlace reads a subject of BACKLOG, with how many jobs each of its messages carries, or a due subject of LATER. ok is
// false for any other.
func ParsePlace(subject string) (p Place, jobs int, ok bool) {
	t := strings.Split(subject, ".")
	switch {
	case len(t) == 5 && t[0] == "backlog":
		n, err := strconv.Atoi(t[4])
		if err != nil || n < 1 {
			return p, 0, false
		}
		p, jobs = Place{Stream: StreamBacklog, Subject: strings.Join(t[:4], ".") + ".*"}, n
	case len(t) == 4 && t[0] == "due":
		p, jobs = Place{Stream: StreamLater, Subject: subject}, 1
	default:
		return p, 0, false
	}
	p.Lane, ok = ParseLane(t[1])
	p.B, p.Tenant = t[2], t[3]
	return p, jobs, ok
}

// Bundled are the encoded jobs of a message of BACKLOG (or of LATER, which carries one), in order. DecodeJob reads each.
func Bundled(data []byte) iter.Seq[[]byte] { return bytes.SplitSeq(data, []byte{'\n'}) }

// Submit accepts an asynchronous job: when it returns nil, the job is in BACKLOG, on disk (or with a quorum). It wakes
// the dispatcher. A job submitted twice may be there twice: its claim, or its verdict, is had once.
func (q *Queue) Submit(ctx context.Context, j *Job) error {
	m := nats.NewMsg(backlogOf(j))
	m.Data = j.Encode()
	m.Header.Set(HeaderJob, j.ID)
	if _, err := q.backlog.Publish(ctx, m); err != nil {
		return fmt.Errorf("queue: submit %s: %w", j.ID, err)
	}
	return nil
}

// backlogOf is BacklogSubject without the count.
func backlogOf(j *Job) string {
	return "backlog." + string(j.Lane) + "." + j.Request.Model.B() + "." + j.Tenant
}

// publishBundled publishes jobs, each handed in as a message of its own, and wakes who feeds them. A bundle that is sent
// again after a lost acknowledgement is stored once.
func (q *Queue) publishBundled(ctx context.Context, ms []*nats.Msg) (seqs []uint64, errs []error) {
	bundles, of := bundle(ms)
	bundleSeqs, bundleErrs := q.PublishAll(ctx, bundles)
	for i, b := range bundles {
		if bundleErrs[i] == nil {
			q.wake(strings.Split(b.Subject, ".")[2], b.Subject)
		}
	}
	seqs, errs = make([]uint64, len(ms)), make([]error, len(ms))
	for i, at := range of {
		seqs[i], errs[i] = bundleSeqs[at], bundleErrs[at]
	}
	return seqs, errs
}

// bundle packs messages of one subject and of a size that fits together, and says in which bundle each went.
func bundle(ms []*nats.Msg) (out []*nats.Msg, of []int) {
	open, count := map[string]int{}, []int{}
	for _, m := range ms {
		at, found := open[m.Subject]
		if !found || count[at] == maxBundle || len(out[at].Data)+len(m.Data) > maxDeliveryBytes {
			at = len(out)
			open[m.Subject] = at
			out, count = append(out, message(m.Subject, nil, jetstream.MsgIDHeader, m.Header.Get(HeaderJob))), append(count, 0)
		}
		if count[at] > 0 {
			out[at].Data = append(out[at].Data, '\n')
		}
		out[at].Data = append(out[at].Data, m.Data...)
		of, count[at] = append(of, at), count[at]+1
	}
	for i, m := range out {
		m.Subject += "." + strconv.Itoa(count[i])
		m.Header.Set(jetstream.MsgIDHeader, m.Header.Get(jetstream.MsgIDHeader)+"+"+strconv.Itoa(count[i]-1))
	}
	return out, of
}
