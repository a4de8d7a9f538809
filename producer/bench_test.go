package producer

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"lorry/engine"
)

var benchBody = []byte(chatBody(`"temperature":0,"max_tokens":64,"stop":["\n"]`))

func BenchmarkReadChat(b *testing.B) {
	for b.Loop() {
		if checkText(benchBody) != nil {
			b.Fatal("refused")
		}
		if _, err := readChat(benchBody, testLimits()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCacheKey(b *testing.B) {
	r := keyedRequest()
	for b.Loop() {
		CacheKey("acme", &r)
	}
}

// BenchmarkCachedAnswer is a cached answer over HTTP; BenchmarkRedisGet is the look-up that it can't do without.
func BenchmarkCachedAnswer(b *testing.B) {
	benchRoad(b, func(b *testing.B, r *road) {
		body := chat("hello", `"temperature":0`)
		for b.Loop() {
			res, err := http.Post(r.url+chats, "application/json", strings.NewReader(body))
			if err != nil || res.StatusCode != 200 {
				b.Fatal(res, err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		http.DefaultClient.CloseIdleConnections()
	})
}

func BenchmarkRedisGet(b *testing.B) {
	benchRoad(b, func(b *testing.B, r *road) {
		if err := r.redis.Set(b.Context(), "k", strings.Repeat("x", 200), 0).Err(); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if r.redis.Get(b.Context(), "k").Err() != nil {
				b.Fatal("no answer")
			}
		}
	})
}

func benchRoad(b *testing.B, f func(*testing.B, *road)) {
	r := setup(b, Config{})
	r.work(func(context.Context, *engine.Request, func(engine.Chunk)) (*engine.Completion, error) {
		return &engine.Completion{Choices: []engine.Choice{{Text: "hello", Finish: engine.FinishStop}}}, nil
	})
	r.post(chats, chat("hello", `"temperature":0`)).want(b, 200)
	f(b, r)
}
