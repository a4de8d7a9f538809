package main

import "errors"

// makeAdapters writes n adapters of random weights, each under its digest, and returns these.
func (o *options) makeAdapters(n int) ([]string, error) {
	if n == 0 {
		return nil, nil
	}
	return nil, errors.New("this lorry-engine has no adapters yet")
}
