package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static/*.js static/*.css static/*.svg
var assetFiles embed.FS

// assets are the static files by name, with a digest that stands in their addresses, so that they can be kept for ever.
var assets = readAssets()

type asset struct {
	body   []byte
	digest string
}

func readAssets() map[string]asset {
	out := map[string]asset{}
	files, _ := assetFiles.ReadDir("static")
	for _, f := range files {
		b, _ := assetFiles.ReadFile("static/" + f.Name())
		sum := sha256.Sum256(b)
		out[f.Name()] = asset{b, hex.EncodeToString(sum[:6])}
	}
	return out
}

func serveAsset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	a, ok := assets[name]
	if !ok {
		jsonNotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	w.Header().Set("Cache-Control", "no-cache")
	if r.URL.RawQuery == a.digest {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.Header().Set("ETag", `"`+a.digest+`"`)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(a.body))
}

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"asset":   func(name string) string { return "/dashboard/static/" + name + "?" + assets[name].digest },
	"meter":   func(label string, share float64, text, note string) meter { return meter{label, text, note, share} },
	"pct":     func(x float64) string { return strconv.Itoa(int(x*100+0.5)) + " %" },
	"rate":    rate,
	"ofBytes": sizeOf,
	"dur":     duration,
	"count":   count,
	"short":   shortID,
	"iso":     func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) },
	"clock":   func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.DateTime) },
	"since":   func(t time.Time) int64 { return t.UnixMilli() },
	"now":     now,
	"div":     func(a, b int) float64 { return float64(a) / max(float64(b), 1) },
	"json":    func(v any) string { b, _ := json.MarshalIndent(v, "", "  "); return string(b) },
	"plural":  plural,
	"lanes":   func(t tiles, l []laneView) lanesData { return lanesData{t, l} },
	"percent": func(x float64) float64 { return 100 * x },
	"at":      func(path string, sc scope) string { return path + "?" + sc.query() },
	"batchAt": func(id string, sc scope) string {
		return "/dashboard/batches/" + id + "?" + scope{tenant: sc.tenant}.query()
	},
	"fileAt": func(id string, sc scope) string {
		return "/dashboard/files/" + id + "?" + scope{tenant: sc.tenant}.query()
	},
	"isoS":   func(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) },
	"clockS": func(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.DateTime) },
	"ms":     func(unix int64) int64 { return unix * 1000 },
	"size":   func(n int64) string { return wholeSize(uint64(n)) },
	"step": func(b batchView, step, label, confirm string) batchStep {
		return batchStep{b.ID, b.Tenant, step, label, confirm}
	},
	"hookStep": func(id, tenant, step, label string) hookStep { return hookStep{id, tenant, step, label} },
	"micros":   micros,
	"workerAt": func(name string) string { return "/dashboard/workers/" + url.PathEscape(name) },
	"jobAt": func(id string, sc scope) string {
		return "/dashboard/jobs/" + id + "?" + scope{tenant: sc.tenant}.query()
	},
}).ParseFS(templateFiles, "templates/*.html"))

// meter is a bar with its text, and a note for those who look closer.
type meter struct {
	Label, Text, Note string
	Share             float64
}

// Percent is the bar's length.
func (m meter) Percent() string {
	return strconv.FormatFloat(100*min(max(m.Share, 0), 1), 'f', 1, 64)
}

// Level colours the bar: only what wants a look is coloured.
func (m meter) Level() string {
	if m.Share >= 0.9 && (m.Label == "Memory" || m.Label == "Temperature") {
		return "high"
	}
	return "normal"
}

// write answers with a page. A template that fails is a bug, and gets no half page.
func (d *Dashboard) write(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name+".html", data); err != nil {
		d.cfg.Log.Error().Err(err).Str("page", name).Msg("page can't be made")
		http.Error(w, "This page can't be made; the log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// put renders a section of a page.
func (d *Dashboard) put(out sections, name string, data any) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		d.cfg.Log.Error().Err(err).Str("section", name).Msg("section can't be made")
		return
	}
	out[name] = b.Bytes()
}

type problemData struct {
	shell
	Status int
	Text   string
}

// problem says what went wrong: a page for people, a line for scripts, JSON for programs.
func (d *Dashboard) problem(w http.ResponseWriter, r *http.Request, status int, text string) {
	switch {
	case r.Header.Get("HX-Request") != "":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	case strings.Contains(r.Header.Get("Accept"), "text/html"):
		d.write(w, status, "problem", problemData{shell{Title: http.StatusText(status)}, status, text})
	default:
		jsonProblem(w, status, text)
	}
}

// jsonProblem is an error in OpenAI's shape, as the API's.
func jsonProblem(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": text, "type": "invalid_request_error", "param": nil, "code": nil}})
}

func jsonNotFound(w http.ResponseWriter, r *http.Request) {
	jsonProblem(w, http.StatusNotFound, "Unknown path: "+r.Method+" "+r.URL.Path)
}

func escape(s string) string { return url.QueryEscape(s) }

// shortID is an ID's end, which is what tells IDs of one time apart.
func shortID(id string) string {
	if len(id) > 14 {
		return "…" + id[len(id)-8:]
	}
	return id
}

// rate is three digits, or all before the point.
func rate(x float64) string {
	switch {
	case x >= 100:
		return count(uint64(x + 0.5))
	case x >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	case x == 0:
		return "0"
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}

// count parts thousands by a thin space.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// sizeOf is a part of bytes and the whole, in the whole's unit: "3.2 / 24 GiB".
func sizeOf(part, whole uint64) string {
	const units = "KMGTPE"
	div, i := float64(1<<10), 0
	for float64(whole) >= 1024*div && i < len(units)-1 {
		div, i = div*1024, i+1
	}
	figure := func(n uint64) string {
		x := float64(n) / div
		if x >= 100 || x == float64(int(x)) {
			return strconv.FormatFloat(x, 'f', 0, 64)
		}
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return figure(part) + " / " + figure(whole) + " " + units[i:i+1] + "iB"
}

// wholeSize is bytes with their unit.
func wholeSize(n uint64) string {
	if n < 1<<10 {
		return strconv.FormatUint(n, 10) + " B"
	}
	_, text, _ := strings.Cut(sizeOf(0, n), "/ ")
	return text
}

// duration has two figures that matter.
func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "0 ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Hour:
		return fmt.Sprintf("%d m %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d m", int(d.Hours()), int(d.Minutes())%60)
	}
	return strconv.Itoa(int(d.Hours())/24) + " d"
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
