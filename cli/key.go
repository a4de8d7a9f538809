package cli

import (
	"context"
	"net/http"
	"net/url"
)

// Key is an API key, as the admin API shows it.
type Key struct {
	ID        string `json:"id"`
	Object    string `json:"object"`
	Tenant    string `json:"tenant"`
	Admin     bool   `json:"admin"`
	Name      string `json:"name,omitempty"`
	CreatedAt int64  `json:"created_at"`
	RevokedAt int64  `json:"revoked_at,omitempty"`
	// Key is the key itself: shown once, when it is made.
	Key string `json:"key,omitempty"`
}

// KeyWish is a key to be made.
type KeyWish struct {
	Tenant string `json:"tenant"`
	Admin  bool   `json:"admin,omitempty"`
	Name   string `json:"name,omitempty"`
}

// CreateKey makes a key. The client's own must be an admin's, as for the other two.
func (c *Client) CreateKey(ctx context.Context, w KeyWish) (k Key, err error) {
	return k, c.do(ctx, http.MethodPost, "/lorry/v1/keys", nil, w, &k)
}

// Keys are all keys, without their secrets.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	var list struct {
		Data []Key `json:"data"`
	}
	return list.Data, c.do(ctx, http.MethodGet, "/lorry/v1/keys", nil, nil, &list)
}

// RevokeKey ends a key.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/lorry/v1/keys/"+url.PathEscape(id), nil, nil, nil)
}
