package main

import (
	"testing"

	"lorry/engine"
	"lorry/engine/enginetest"
	"lorry/engine/remote"
)

// TestRemoteAgainstLorry: Lorry is an OpenAI-compatible server like others, so an engine before it passes the suite.
func TestRemoteAgainstLorry(t *testing.T) {
	b := start(t, t.TempDir(), nil, "up").ready()
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		e, err := remote.New(remote.Config{URL: b.url(), MaxConcurrent: 8})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}, enginetest.Options{})
}
