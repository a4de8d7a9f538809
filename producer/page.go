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

// onlyQuery refuses query parameters of any other name: nothing is ignored.
func onlyQuery(q url.Values, names ...string) error {
	for name := range q {
		if !slices.Contains(names, name) {
			return refuse(codeUnknown, name, "Unrecognized request argument supplied: %s", clip(name))
		}
	}
	return nil
}
