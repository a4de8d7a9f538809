package producer

import (
	"encoding/json"
	"net/http"
	"strings"

	"lorry/engine"
	"lorry/queue"
	"lorry/result"
	"lorry/webhook"
)

// vault seals the summaries that a tenant's clients keep, and opens those that they hand back: only what was sealed here,
// for this tenant, and was not changed.
type vault struct {
	sealer *webhook.Sealer
	tenant string
}

func (s *Server) vault(tenant string) vault { return vault{s.cfg.Sealer, tenant} }

// compactedV is the version of what is sealed.
const compactedV = 1

// compacted is what a compaction item holds.
type compacted struct {
	V       int    `json:"v"`
	Summary string `json:"summary"`
}

// context binds what is sealed to its use and its owner.
func (v vault) context() string { return "compacted conversation of tenant " + v.tenant }

// ready is an error where there is no master key: what can't be sealed, anybody could write.
func (v vault) ready() error {
	if v.sealer.Seals() {
		return nil
	}
	return &apiError{Status: http.StatusNotImplemented, Type: typeServer, Code: "no_master_key", Final: true,
		Message: "Conversations can't be compacted here: their summaries are sealed, and this server has no master key. Ask the operator to set LORRY_MASTER_KEY."}
}

func (v vault) seal(summary string) string {
	return v.sealer.Seal(v.context(), string(must(json.Marshal(compacted{compactedV, summary}))))
}

// open is the summary in a compaction item; the error is webhook.ErrSealed where it is not one of ours.
func (v vault) open(sealed string) (string, error) {
	text, err := v.sealer.OpenSealed(v.context(), sealed)
	if err != nil {
		return "", err
	}
	var c compacted
	if json.Unmarshal([]byte(text), &c) != nil || c.V != compactedV {
		return "", webhook.ErrSealed
	}
	return c.Summary, nil
}

// openAll opens the items of a conversation, but those that are open: others may read them at this moment.
func (v vault) openAll(items []inputItem) (err error) {
	for i := range items {
		if items[i].Type != itemCompaction || items[i].summary != "" {
			continue
		}
		if items[i].summary, err = v.open(items[i].Sealed); err != nil {
			return unopened("previous_response_id", "the compaction item of the conversation")
		}
	}
	return nil
}

func unopened(param, what string) *apiError {
	return refuse("invalid_encrypted_content", param, "Invalid '%s': %s can't be opened. It was changed, it is another tenant's, or this server's master key is another one. Send the conversation itself.", param, what)
}

// readCompaction reads the item that a compaction ended with.
func readCompaction(m *object, it *inputItem, v vault) {
	m.accept("created_by")
	needs(m, "encrypted_content", &it.Sealed)
	if m.err != nil {
		return
	}
	var err error
	if it.summary, err = v.open(it.Sealed); err != nil {
		m.fail(unopened(m.at+"encrypted_content", "the content"))
	}
}

// A summary has at most maxSummary tokens, and no more than what was said has, of which one has about bytesOfToken: a
// small model would go on and on. Fewer than leastSummary say nothing.
const (
	maxSummary   = 1024
	leastSummary = 64
	bytesOfToken = 4
)

// readCompact reads the body of POST /v1/responses/compact. The summary is drawn at temperature 0, so that the same
// conversation has the same one, and the cache may have it.
func readCompact(body []byte, l limits) (*order, error) {
	if err := l.vault.ready(); err != nil {
		return nil, err
	}
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	d := &order{endpoint: queue.Compact, request: engine.Request{Kind: engine.Chat, Sampling: defaults()}, response: &responseWish{echo: result.NewResponseEcho(), compact: true}}
	d.request.Sampling.Temperature = 0
	if _, given := o.fields["model"]; !given { // null is the server's choice, as the SDKs have it
		o.missing("model")
	}
	o.text("model", &d.model, maxName)
	readThread(o, &d.response.echo)
	if o.has("input") || d.response.echo.PreviousResponseID == nil {
		d.response.items = readItems(o, l.vault)
	}
	readTier(o, d)
	readLorry(o, d, l)
	if d.webhook != nil {
		o.fail(refuse(codeUnsupported, "lorry.webhook", "Unsupported parameter: 'lorry.webhook' is not for compactions, whose answer takes a connection that waits."))
	}
	o.accept("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")
	readUncommon(o)
	return d, o.done()
}

const (
	summaryWish = "Summarize the conversation below, so that it can be continued from your summary alone. Keep names, numbers, decisions, what tools answered, " +
		"and what is still to be done; leave out greetings and repetitions. Answer with the summary and nothing else.\n\n"
	// summaryLead stands before a summary, wherever a model reads one.
	summaryLead = "Summary of the conversation so far:\n"
)

// wishSummary asks for a summary in one message that holds the conversation as a script: models' templates differ in
// which roles they know, and in which order.
func wishSummary(r *engine.Request, instructions *string, items []inputItem) {
	var script strings.Builder
	for _, it := range items {
		script.WriteString(scriptLine(it))
	}
	r.Messages = messagesOf(instructions, []inputItem{said("user", summaryWish+script.String())})
	r.Sampling.MaxTokens = min(max(script.Len()/bytesOfToken, leastSummary), maxSummary)
}

func scriptLine(it inputItem) string {
	switch it.Type {
	case itemCall:
		return "assistant calls " + it.Name + ": " + *it.Arguments + "\n"
	case itemOutcome:
		return "tool: " + outcomeText(it.Output) + "\n"
	case itemCompaction:
		return summaryLead + it.summary + "\n"
	}
	var text strings.Builder
	for _, p := range it.Content {
		text.WriteString(p.Text)
	}
	return it.Role + ": " + text.String() + "\n"
}

// compactedBody is OpenAI's CompactedResponse.
type compactedBody struct {
	ID        string                `json:"id"`
	Object    string                `json:"object"` // "response.compaction"
	CreatedAt int64                 `json:"created_at"`
	Model     string                `json:"model"`
	Output    []inputItem           `json:"output"`
	Usage     *result.ResponseUsage `json:"usage"`
}

// compacted answers with what the user said, word for word, and the summary of all that was said.
func (t *trip) compacted(v *result.Verdict) error {
	summary := v.Completion.Choices[0].Text
	if strings.TrimSpace(summary) == "" {
		return &apiError{Status: http.StatusInternalServerError, Type: typeServer, Code: "no_summary", Final: true,
			Message: "The model answered without a summary. Try another model, or send the conversation itself."}
	}
	r := result.EndedResponse(v, t.order.response.echo)
	out := compactedBody{ID: r.ID, Object: "response.compaction", CreatedAt: r.CreatedAt, Model: r.Model, Usage: r.Usage}
	for _, it := range t.order.response.items {
		if it.Type == itemMessage && it.Role == "user" {
			out.Output = append(out.Output, it)
		}
	}
	out.Output = named(append(out.Output, inputItem{Type: itemCompaction, Sealed: t.s.vault(t.job.Tenant).seal(summary)}), r.ID)
	writeJSON(t.w, http.StatusOK, out)
	return nil
}
