package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// batchLines is how many lines a round's file has, of about 600 bytes each: OpenAI's bound.
const batchLines = 50_000

// batchRounds is fewer than rounds: each runs 50,000 lines.
const batchRounds = 3

// batchTimes are when a batch got how far, from its creation.
type batchTimes struct{ inProgress, lastLine, completed time.Duration }

// BenchmarkBatch: jobs a second of a batch of echo lines, from its creation to its files, against raw JetStream as in
// BenchmarkQueue; the time until it is in progress against parsing the same file alone; the time from its last line to
// its files; and the most memory that the program took above what it took idle.
func BenchmarkBatch(b *testing.B) {
	b.Logf("fsync median %s", fsyncMedian(b))
	raw := newRaw(b)
	u := startUp(b, "echo", "LORRY_LOG_LEVEL=warn")
	for b.Loop() {
		idle := u.memory(b, "VmRSS")
		var ratios, ours, parses []float64
		var closings []time.Duration
		for round := range batchRounds {
			file := batchFile(round)
			parse := parseAlone(b, file)
			r := raw.round(b)
			t := u.batch(b, file)
			l := batchLines / t.completed.Seconds()
			b.Logf("round %d: raw JetStream %.0f jobs/s, batch %.0f jobs/s, ratio %.2f; parsed alone in %s, in progress after %s, last line after %s, completed after %s",
				round, r, l, l/r, parse, t.inProgress, t.lastLine, t.completed)
			ratios, ours, parses = append(ratios, l/r), append(ours, l), append(parses, float64(t.inProgress)/float64(parse))
			closings = append(closings, t.completed-t.lastLine)
		}
		b.ReportMetric(median(ratios), "lorry/raw")
		b.ReportMetric(median(ours), "lines/s")
		b.ReportMetric(median(parses), "in-progress/parse")
		b.ReportMetric(median(closings).Seconds(), "closing-s")
		b.ReportMetric(float64(u.memory(b, "VmHWM")-idle)/(1<<20), "peak-MiB-above-idle")
		b.ReportMetric(0, "ns/op")
	}
}

// batchFile is the input: unique prompts, which are drawn at temperature 1 and so never deduplicated.
func batchFile(round int) []byte {
	var f bytes.Buffer
	for i := range batchLines {
		fmt.Fprintf(&f, `{"custom_id":"line-%d","method":"POST","url":"/v1/completions","body":{"model":"echo","prompt":%q,"max_tokens":4}}`+"\n",
			i, prompt(round*batchLines+i, 80))
	}
	return f.Bytes()
}

// parseAlone is how long encoding/json takes for the lines.
func parseAlone(b *testing.B, file []byte) time.Duration {
	start := time.Now()
	for line := range bytes.Lines(file) {
		var l struct {
			CustomID string `json:"custom_id"`
			Method   string `json:"method"`
			URL      string `json:"url"`
			Body     struct {
				Model  string `json:"model"`
				Prompt string `json:"prompt"`
			} `json:"body"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}

// batch uploads a file, makes a batch of it and follows it to its end.
func (u *up) batch(b *testing.B, file []byte) (t batchTimes) {
	b.Helper()
	id := u.upload(b, file)
	start := time.Now()
	out, err := u.post("/v1/batches", map[string]any{"input_file_id": id, "endpoint": "/v1/completions", "completion_window": "24h"})
	if err != nil {
		b.Fatal(err)
	}
	var at batchView
	if err := json.Unmarshal(out, &at); err != nil {
		b.Fatal(err)
	}
	for ; at.Status != "completed"; time.Sleep(5 * time.Millisecond) {
		u.get(b, "/v1/batches/"+at.ID, &at)
		since := time.Since(start)
		if t.inProgress == 0 && at.Status != "validating" {
			t.inProgress = since
		}
		if n := at.Counts; t.lastLine == 0 && n.Total > 0 && n.Completed+n.Failed == n.Total {
			t.lastLine = since
		}
		if at.Status == "failed" || at.Status == "expired" || since > 5*time.Minute {
			b.Fatalf("batch %s is %s after %s: %+v", at.ID, at.Status, since, at.Counts)
		}
	}
	t.completed = time.Since(start)
	if at.Counts.Completed != batchLines || at.Output == "" {
		b.Fatalf("%+v", at)
	}
	return t
}

type batchView struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Output string `json:"output_file_id"`
	Counts struct {
		Total     int `json:"total"`
		Completed int `json:"completed"`
		Failed    int `json:"failed"`
	} `json:"request_counts"`
}

func (u *up) upload(b *testing.B, file []byte) string {
	b.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	_ = w.WriteField("purpose", "batch")
	part, err := w.CreateFormFile("file", "in.jsonl")
	if err != nil {
		b.Fatal(err)
	}
	_, _ = part.Write(file)
	_ = w.Close()
	r, err := u.client.Post(u.url+"/v1/files", w.FormDataContentType(), &body)
	if err != nil {
		b.Fatal(err)
	}
	var f struct{ ID string }
	readAnswer(b, r, &f)
	return f.ID
}

func (u *up) get(b *testing.B, path string, into any) {
	b.Helper()
	r, err := u.client.Get(u.url + path)
	if err != nil {
		b.Fatal(err)
	}
	readAnswer(b, r, into)
}

func readAnswer(b *testing.B, r *http.Response, into any) {
	b.Helper()
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil || r.StatusCode != http.StatusOK {
		b.Fatalf("%d %.300s: %v", r.StatusCode, text, err)
	}
}

// memory is a line of the process' /proc status, in bytes: VmRSS is what it takes now, VmHWM the most it took.
func (u *up) memory(b *testing.B, name string) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(u.cmd.Process.Pid) + "/status")
	if err != nil {
		b.Skipf("no memory figures here: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	b.Fatalf("no %s", name)
	return 0
}
