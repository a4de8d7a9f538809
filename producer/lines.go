package producer

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"lorry/engine"
	"lorry/queue"
	"lorry/registry"
	"lorry/webhook"
)

// LinesConfig says how batches' lines are read. Registry is required; the rest is as in Config.
type LinesConfig struct {
	Registry *registry.Registry
	// Sealer opens the compaction items in responses' inputs.
	Sealer  *webhook.Sealer
	MaxBody int64
	MaxN    int
}

// Lines reads the requests in batches' lines exactly as the API reads those that come one by one, without a server. Its
// methods may be called from many goroutines.
type Lines struct{ cfg LinesConfig }

// NewLines makes a Lines. It asks nobody anything.
func NewLines(c LinesConfig) *Lines {
	c.MaxBody, c.MaxN = cmp.Or(c.MaxBody, defaultMaxBody), cmp.Or(c.MaxN, defaultMaxN)
	return &Lines{c}
}

// lineReaders read the bodies of lines, by endpoint.
var lineReaders = map[queue.Endpoint]reader{queue.Chat: readChat, queue.Completions: readCompletions, queue.Embeddings: readEmbeddings, queue.Responses: readResponseLine}

// Resolve says what a model's name stands for now. One that is not here is an *engine.Error of class NotFound.
func (l *Lines) Resolve(_ context.Context, name string) (engine.Model, error) {
	m, err := resolve(l.cfg.Registry, name)
	if err == nil {
		return m.Engine(), nil
	}
	if e := asAPI(err); e.Status == http.StatusNotFound {
		return engine.Model{}, engine.Errorf(engine.NotFound, e.Code, e.Param, "%s", e.Message)
	}
	return engine.Model{}, err
}

// Read fills in the request of a line's job, which has its ID, tenant, endpoint and model. The body is JSON: batch.ParseLine
// has read it. What else is wrong with it is the line's answer, in the API's words.
func (l *Lines) Read(j *queue.Job, body []byte) *engine.Error {
	o, err := l.read(j.Tenant, j.Endpoint, body)
	if err != nil {
		e := asAPI(err)
		return engine.Errorf(engine.Invalid, e.Code, e.Param, "%s", e.Message)
	}
	model := j.Request.Model
	j.Request, j.Metadata, j.Encoding = o.request, o.metadata, o.encoding
	j.Request.Model, j.Request.Scope = model, j.Tenant
	o.name(j, j.ID)
	if o.cacheable() {
		j.CacheKey = CacheKey(j.Tenant, &j.Request)
	}
	return nil
}

func (l *Lines) read(tenant string, e queue.Endpoint, body []byte) (*order, error) {
	read, ok := lineReaders[e]
	if !ok {
		return nil, refuse(codeUnsupported, "url", "Batches for %s are not supported.", e)
	}
	if n := int64(len(body)); n > l.cfg.MaxBody {
		return nil, refuse(codeTooLarge, "", "The request's body is over the limit of %s. Send less text, or ask the operator to raise LORRY_MAX_BODY.", size(l.cfg.MaxBody))
	}
	if e := (scanner{b: body}).check(); e != nil {
		return nil, e
	}
	o, err := read(body, limits{maxN: l.cfg.MaxN, now: time.Now(), vault: vault{l.cfg.Sealer, tenant}})
	if err != nil {
		return nil, err
	}
	return o, forLine(o)
}

// forLine refuses what belongs to a batch, not to its lines. All of them travel in the batch lane, which may be named.
func forLine(o *order) error {
	name := ""
	switch {
	case o.stream:
		name = "stream"
	case !o.deadline.IsZero():
		name = "lorry.deadline"
	case o.webhook != nil:
		name = "lorry.webhook"
	case o.replayOf != "":
		name = "lorry.replay_of"
	case o.lane != "" && o.lane != queue.Batch:
		name = o.laneBy
	default:
		return nil
	}
	return refuse(codeUnsupported, name, "Unsupported parameter: '%s' is not for a batch's lines.", name)
}
