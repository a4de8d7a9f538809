package producer

import (
	"net/url"
	"slices"
)

// list is a page, as OpenAI's SDKs walk over them: after is the last ID of the page before.
type list struct {
	Object  string  `json:"object"` // "list"
	Data    []any   `json:"data"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
	HasMore bool    `json:"has_more"`
}

// pageOf is a page of items, as show shows each, under its ID.
func pageOf[T any](items []T, more bool, show func(*T) any, id func(*T) string) list {
	out := list{Object: "list", Data: []any{}, HasMore: more}
	for i := range items {
		out.Data = append(out.Data, show(&items[i]))
	}
	if n := len(items); n > 0 {
		out.FirstID, out.LastID = new(id(&items[0])), new(id(&items[n-1]))
	}
	return out
}

// cursor says which page of a list is wanted.
type cursor struct {
	after string
	limit int
	desc  bool
}

// readCursor reads after, limit and order, and refuses anything else but more.
func readCursor(q url.Values, desc bool, more ...string) (c cursor, err error) {
	c = cursor{after: q.Get("after"), limit: defaultLimit, desc: desc}
	if err := onlyQuery(q, append(more, "after", "limit", "order")...); err != nil {
		return c, err
	}
	if q.Has("order") {
		if err := oneOf("order", q.Get("order"), []string{"asc", "desc"}); err != nil {
			return c, err
		}
		c.desc = q.Get("order") == "desc"
	}
	if q.Has("limit") {
		c.limit, err = wholeNumber("limit", q.Get("limit"), 1, maxLimit)
	}
	return c, err
}

// pageOfAll is a page of items that are there in full, the oldest first.
func pageOfAll[T any](items []T, c cursor, show func(*T) any, id func(*T) string) (list, error) {
	items = slices.Clone(items)
	if c.desc {
		slices.Reverse(items)
	}
	if c.after != "" {
		i := slices.IndexFunc(items, func(it T) bool { return id(&it) == c.after })
		if i < 0 {
			return list{}, refuse(codeValue, "after", "Invalid 'after': the list has nothing with id '%s'.", clip(c.after))
		}
		items = items[i+1:]
	}
	return pageOf(items[:min(c.limit, len(items))], len(items) > c.limit, show, id), nil
}

// onlyQuery refuses query parameters of any other name: nothing is ignored.
func onlyQuery(q url.Values, names ...string) error {
	for name := range q {
		if !slices.Contains(names, name) {
			return refuse(codeUnknown, name, "Unrecognized request argument supplied: %s", clip(name))
		}
	}
	return nil
}
