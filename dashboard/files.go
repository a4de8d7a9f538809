package dashboard

import (
	"context"
	"mime"
	"net/http"
	"time"

	"lorry/access"
	"lorry/batch"
)

// filesView is a page of the list.
type filesView struct {
	Scope scope
	Files []batch.File
	More  bool
	Last  string
	Error string
}

func (d *Dashboard) fileList(ctx context.Context, sc scope) filesView {
	ctx, cancel := context.WithTimeout(ctx, askRedis)
	defer cancel()
	list, more, err := d.cfg.Files.List(ctx, sc.tenant, batch.FileFilter{After: sc.after, Limit: perPage})
	v := filesView{Scope: sc, Files: list, More: more}
	if err != nil {
		v.Error = d.explain(err)
	}
	if n := len(list); n > 0 {
		v.Last = list[n-1].ID
	}
	return v
}

type filesData struct {
	shell
	Status status
	List   filesView
}

func (d *Dashboard) files(w http.ResponseWriter, r *http.Request, p access.Principal) {
	sc, err := on(pageFiles, r, p)
	if err != nil {
		d.badAddress(w, r, err)
		return
	}
	s := d.fleet(r.Context())
	d.write(w, http.StatusOK, "files", filesData{d.shell("Files", sc, p, s), d.status(r.Context(), s, sc), d.fileList(r.Context(), sc)})
}

// file is a file's content, to be kept: somebody's bytes are no page of ours.
func (d *Dashboard) file(w http.ResponseWriter, r *http.Request, p access.Principal) {
	sc, err := on(pageFiles, r, p)
	if err != nil {
		d.badAddress(w, r, err)
		return
	}
	f, err := d.cfg.Files.Get(r.Context(), sc.tenant, r.PathValue("file"))
	if err != nil {
		d.problem(w, r, statusOf(err), d.explain(err))
		return
	}
	body, err := d.cfg.Files.Open(r.Context(), f)
	if err != nil {
		d.problem(w, r, statusOf(err), d.explain(err))
		return
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": f.Filename}))
	http.ServeContent(w, r, "", time.Unix(f.CreatedAt, 0), body)
}
