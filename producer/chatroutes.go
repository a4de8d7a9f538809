package producer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// chatRoutes are those of stored chat completions.
func (s *Server) chatRoutes(mux *http.ServeMux) {
	for pattern, h := range map[string]handler{
		"GET /v1/chat/completions":               s.listChats,
		"GET /v1/chat/completions/{id}":          s.getChat,
		"POST /v1/chat/completions/{id}":         s.changeChat,
		"DELETE /v1/chat/completions/{id}":       s.deleteChat,
		"GET /v1/chat/completions/{id}/messages": s.chatMessages,
	} {
		mux.Handle(pattern, s.answer(h))
	}
}

// onChat is a handler that answers with what do makes of the completion which the path names.
func (s *Server) onChat(w http.ResponseWriter, r *http.Request, do func(ctx context.Context, tenant string, found *keptChat) (any, error)) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	found, err := s.storedChat(ctx, who.Tenant, r.PathValue("id"))
	var answer any
	if err == nil {
		answer, err = do(ctx, who.Tenant, found)
	}
	if errors.Is(err, errNoRecord) {
		return &apiError{Status: http.StatusNotFound, Type: typeInvalid, Code: codeNotFound, Param: "id",
			Message: fmt.Sprintf("Chat completion %s not found. Those are kept for 72 hours that are made with 'store': true.", clip(r.PathValue("id")))}
	}
	if err != nil {
		return store(err)
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

func (s *Server) getChat(w http.ResponseWriter, r *http.Request) error {
	return s.onChat(w, r, func(_ context.Context, _ string, found *keptChat) (any, error) { return found.object(), nil })
}

// changeChat gives a completion other metadata; null takes all of it away.
func (s *Server) changeChat(w http.ResponseWriter, r *http.Request) error {
	return s.onChat(w, r, func(ctx context.Context, tenant string, found *keptChat) (any, error) {
		metadata, err := s.readMetadataOnly(w, r)
		if err != nil {
			return nil, err
		}
		found.Echo.Metadata = metadata
		return found.object(), s.chats.change(ctx, tenant, found.id, func(c *chatRecord) { c.Echo.Metadata = metadata })
	})
}

func (s *Server) readMetadataOnly(w http.ResponseWriter, r *http.Request) (map[string]string, error) {
	body, err := readBody(w, r, s.cfg.MaxBody)
	if err != nil {
		return nil, err
	}
	o, err := newObject(body)
	if err != nil {
		return nil, err
	}
	if _, given := o.fields["metadata"]; !given {
		o.missing("metadata")
	}
	metadata := readMetadata(o)
	if metadata == nil {
		metadata = map[string]string{}
	}
	return metadata, o.done()
}

func (s *Server) deleteChat(w http.ResponseWriter, r *http.Request) error {
	return s.onChat(w, r, func(ctx context.Context, tenant string, found *keptChat) (any, error) {
		return map[string]any{"id": found.id, "object": "chat.completion.deleted", "deleted": true}, s.chats.delete(ctx, tenant, found.id)
	})
}

// listChats pages over a tenant's completions, the oldest first unless told otherwise. A page goes on behind one that is
// deleted meanwhile, too: IDs are in the order of their making.
func (s *Server) listChats(w http.ResponseWriter, r *http.Request) error {
	who, err := s.who(r)
	if err != nil {
		return err
	}
	c, match, err := readChatQuery(r.URL.Query())
	if err != nil {
		return err
	}
	if c.after != "" && !s.chats.id.MatchString(c.after) {
		return refuse(codeValue, "after", "Invalid 'after': '%s' is no chat completion's ID.", clip(c.after))
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	ids, err := s.chats.ids(ctx, who.Tenant, match)
	if err != nil {
		return store(err)
	}
	page, more, err := s.readChats(ctx, who.Tenant, behind(ids, c), c.limit)
	if err != nil {
		return store(err)
	}
	writeJSON(w, http.StatusOK, pageOf(page, more, func(c **keptChat) any { return (*c).object() }, func(c **keptChat) string { return (*c).id }))
	return nil
}

// behind are the IDs of a cursor's page, and those after it.
func behind(ids []string, c cursor) []string {
	if c.desc {
		slices.Reverse(ids)
	}
	return slices.DeleteFunc(ids, func(id string) bool {
		return c.after != "" && (c.desc && id >= c.after || !c.desc && id <= c.after)
	})
}

// readChats are the first completions of these that are there, and whether there are more.
func (s *Server) readChats(ctx context.Context, tenant string, ids []string, limit int) (page []*keptChat, more bool, err error) {
	for _, id := range ids {
		c, err := s.storedChat(ctx, tenant, id)
		switch {
		case errors.Is(err, errNoRecord): // no answer, or gone meanwhile
		case err != nil:
			return nil, false, err
		case len(page) == limit:
			return page, true, nil
		default:
			page = append(page, c)
		}
	}
	return page, false, nil
}

// readChatQuery reads the page that is wanted, and what its completions are to match: a model's name, and metadata as
// metadata[key]=value. A nil match takes all.
func readChatQuery(q url.Values) (c cursor, match func(chatRecord) bool, err error) {
	wanted, fields := map[string]string{}, []string{"model"}
	for name := range q {
		if key, ok := strings.CutPrefix(name, "metadata["); ok && strings.HasSuffix(key, "]") {
			wanted[strings.TrimSuffix(key, "]")], fields = q.Get(name), append(fields, name)
		}
	}
	if c, err = readCursor(q, false, fields...); err != nil {
		return c, nil, err
	}
	model := q.Get("model")
	if model == "" && len(wanted) == 0 {
		return c, nil, nil
	}
	return c, func(r chatRecord) bool {
		has := maps.Clone(wanted)
		maps.DeleteFunc(has, func(k, v string) bool { got, ok := r.Echo.Metadata[k]; return ok && got == v })
		return len(has) == 0 && (model == "" || r.Model == model)
	}, nil
}

// chatMessages lists what a completion was asked, the first first unless told otherwise.
func (s *Server) chatMessages(w http.ResponseWriter, r *http.Request) error {
	c, err := readCursor(r.URL.Query(), false)
	if err != nil {
		return err
	}
	return s.onChat(w, r, func(_ context.Context, _ string, found *keptChat) (any, error) {
		all, err := storedMessages(found.id, found.Messages)
		if err != nil {
			return nil, err
		}
		return pageOfAll(all, c, func(m *storedMessage) any { return *m }, func(m *storedMessage) string { return m.id })
	})
}

// storedMessage is one that a completion was asked, as it came, under an ID.
type storedMessage struct {
	id     string
	fields map[string]json.RawMessage
}

// MarshalJSON writes the message.
func (m storedMessage) MarshalJSON() ([]byte, error) { return json.Marshal(m.fields) }

func storedMessages(id string, raw json.RawMessage) ([]storedMessage, error) {
	var all []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("producer: messages of %s: %w", id, err)
	}
	out := make([]storedMessage, len(all))
	for i, fields := range all {
		out[i] = storedMessage{id + "-" + strconv.Itoa(i), fields}
		fields["id"] = must(json.Marshal(out[i].id))
		parts := fields["content"]
		fields["content_parts"] = json.RawMessage("null")
		if kind(parts) == "array" {
			fields["content"], fields["content_parts"] = must(json.Marshal(outcomeText(parts))), parts
		}
	}
	return out, nil
}
