// Package batch keeps what batches are made of: files, as OpenAI's API knows them.
//
// A file's bytes are a blob; its record stands in the KV bucket "files" under <tenant>.<id>. Equal bytes are kept once,
// whoever uploads them, so the bucket also counts the files of a digest, under _blob.<digest>: the bytes go with the last
// one. Nobody can see that count, or that bytes were there already: an upload is read to its end in any case.
//
// The order keeps every crash harmless. A file comes by: count, bytes, record. It goes by: record, count, bytes. What
// dies in between leaves a count that is too high, never too low, and Sweep puts it right.
package batch

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

// FilesBucket is the KV bucket's name.
const FilesBucket = "files"

// V is the version of records here. Readers take V and V-1.
const V = 1

// Sentinels for errors.Is.
var (
	// ErrNotFound is a file that never was, is deleted or expired, or is another tenant's.
	ErrNotFound = errors.New("no such file")
	// ErrBusy is a file whose equal is being deleted at this moment. The same upload will do a little later.
	ErrBusy = errors.New("an equal file is being deleted")
	// ErrExists is a file of an ID that another file has.
	ErrExists = errors.New("a file of that ID exists")
)

// Processed is the status of all files: lines are checked when a batch is made of them. (The SDKs wait for it.)
const Processed = "processed"

// Purposes that clients may give a file.
var Purposes = []string{"assistants", "batch", "fine-tune", "vision", "user_data", "evals"}

// AllPurposes are those and the ones that only the server gives.
var AllPurposes = slices.Concat(Purposes, []string{"assistants_output", PurposeOutput, "fine-tune-results"})

// PurposeBatch files are read as batches' lines.
const PurposeBatch = "batch"

// PurposeOutput files hold what came of a batch's lines.
const PurposeOutput = "batch_output"

// Bounds of files, OpenAI's.
const (
	MaxFile      = 512 << 20
	MaxBatchFile = 200 << 20
	// BatchExpiry is when batches' files go, unless their owner says otherwise. Others stay.
	BatchExpiry = 30 * 24 * time.Hour
)

// File is a file's record.
type File struct {
	V        int    `json:"v"`
	ID       string `json:"id"`
	Tenant   string `json:"tenant"`
	Filename string `json:"filename"`
	Bytes    int64  `json:"bytes"`
	Purpose  string `json:"purpose"`
	// CreatedAt and ExpiresAt are unix seconds; ExpiresAt 0 is never.
	CreatedAt int64  `json:"created_at"`
	ExpiresAt int64  `json:"expires_at,omitempty"`
	Digest    string `json:"digest"`
	Status    string `json:"status"`
}

const filePrefix = "file-"

func (f File) key() string { return f.Tenant + "." + f.ID }

func (f File) expired(now time.Time) bool { return f.ExpiresAt != 0 && f.ExpiresAt <= now.Unix() }

// validID keeps wildcards out of keys.
func validID(id string) bool {
	rest, ok := strings.CutPrefix(id, filePrefix)
	return ok && len(rest) == 26 && strings.Trim(rest, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("batch: " + err.Error()) // our own types: a bug
	}
	return b
}
