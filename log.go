package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

type logger = zerolog.Logger

// newLog writes events to w: for people on a terminal, as JSON elsewhere. The settings are checked.
func newLog(c *Config, w io.Writer) logger {
	zerolog.TimeFieldFormat = time.RFC3339Nano
	zerolog.DurationFieldUnit = time.Millisecond
	level, _ := zerolog.ParseLevel(c.LogLevel)
	if c.LogFormat == "console" || c.LogFormat == "auto" && isTerminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w) || os.Getenv("NO_COLOR") != ""}
	}
	log := zerolog.New(w).Level(level).With().Timestamp().Logger()
	redis.SetLogger(redisLog{log})
	return log
}

// redisLog takes the client's own messages: what matters of them comes back as errors.
type redisLog struct{ log logger }

func (l redisLog) Printf(_ context.Context, f string, v ...any) { l.log.Debug().Msgf(f, v...) }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
