package dashboard

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"lorry/access"
)

// sessionLife is how long a login lasts.
const sessionLife = 12 * time.Hour

// sessions signs and reads session cookies. A cookie holds a key's ID and its end, never the key; a revoked key ends its
// sessions. The signing key is random and dies with the process: after a restart people log in again.
type sessions struct {
	key []byte
	now func() time.Time
}

func newSessions(now func() time.Time) *sessions {
	s := &sessions{key: make([]byte, 32), now: now}
	_, _ = rand.Read(s.key) // never fails
	return s
}

// seal is "<key ID>.<unix end>.<signature>".
func (s *sessions) seal(keyID string) string {
	text := keyID + "." + strconv.FormatInt(s.now().Add(sessionLife).Unix(), 10)
	return text + "." + base64.RawURLEncoding.EncodeToString(s.mac(text))
}

// open is the key's ID of a cookie that we signed and whose end has not come.
func (s *sessions) open(cookie string) (keyID string, ok bool) {
	i := strings.LastIndexByte(cookie, '.')
	if i < 0 {
		return "", false
	}
	sig, err := base64.RawURLEncoding.DecodeString(cookie[i+1:])
	if err != nil || !hmac.Equal(sig, s.mac(cookie[:i])) {
		return "", false
	}
	keyID, end, _ := strings.Cut(cookie[:i], ".")
	t, err := strconv.ParseInt(end, 10, 64)
	return keyID, err == nil && s.now().Unix() < t
}

func (s *sessions) mac(text string) []byte {
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// cookieName has the port in it: browsers share cookies between the ports of a host, and several Lorrys may run there.
func cookieName(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return "lorry_session_" + port
	}
	return "lorry_session"
}

// setCookie sets or, with an empty value, ends the session.
func setCookie(w http.ResponseWriter, r *http.Request, value string) {
	c := &http.Cookie{Name: cookieName(r), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https", MaxAge: int(sessionLife / time.Second)}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// errHost is a request without keys that did not come to localhost.
var errHost = errors.New("without a key made, Lorry answers only to localhost and addresses: make one with `lorry key create`, or use such a name")

// reader says who asks: by bearer, by session, or because everybody may.
func (d *Dashboard) reader(r *http.Request) (access.Principal, error) {
	if d.cfg.Access.IsOpen() {
		if !localHost(r) {
			return access.Principal{}, errHost
		}
		return d.cfg.Access.Authenticate("")
	}
	if b, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return d.cfg.Access.Authenticate(b)
	}
	if c, err := r.Cookie(cookieName(r)); err == nil {
		if id, ok := d.sessions.open(c.Value); ok {
			return d.cfg.Access.Holder(id)
		}
	}
	_, err := d.cfg.Access.Authenticate("")
	return access.Principal{}, errors.Join(access.ErrNoKey, err)
}

// page is a handler for one who may look.
type page func(w http.ResponseWriter, r *http.Request, p access.Principal)

// guard lets in who may look. People are sent to the login form; programs, streams and posts get 401.
func (d *Dashboard) guard(next page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := d.reader(r)
		switch {
		case err == nil:
			next(w, r, p)
		case errors.Is(err, errHost):
			d.problem(w, r, http.StatusMisdirectedRequest, err.Error())
		case errors.Is(err, access.ErrNotReady):
			w.Header().Set("Retry-After", "1")
			d.problem(w, r, http.StatusServiceUnavailable, "The keys are not loaded yet. Try again in a moment.")
		case r.Method == http.MethodGet && wantsHTML(r):
			http.Redirect(w, r, "/dashboard/login?next="+escape(r.URL.RequestURI()), http.StatusSeeOther)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="lorry"`)
			d.problem(w, r, http.StatusUnauthorized, "Sign in, or send a key as bearer.")
		}
	})
}

func wantsHTML(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/html") && r.Header.Get("HX-Request") == "" && r.Header.Get("Authorization") == ""
}

func (d *Dashboard) loginPage(w http.ResponseWriter, r *http.Request) {
	next := local(r.FormValue("next"))
	if _, err := d.reader(r); err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	d.write(w, http.StatusOK, "login", loginData{shell: shell{Title: "Sign in"}, Next: next})
}

type loginData struct {
	shell
	Next, Error string
}

// maxForm bounds the body of a form.
const maxForm = 16 << 10

func (d *Dashboard) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	next := local(r.FormValue("next"))
	p, err := d.cfg.Access.Authenticate(strings.TrimSpace(r.FormValue("key")))
	if err != nil {
		status, text := http.StatusUnauthorized, "That key is not valid. It may have been revoked."
		if errors.Is(err, access.ErrNotReady) {
			status, text = http.StatusServiceUnavailable, "The keys are not loaded yet. Try again in a moment."
		}
		d.write(w, status, "login", loginData{shell: shell{Title: "Sign in"}, Next: next, Error: text})
		return
	}
	if p.KeyID != "" {
		setCookie(w, r, d.sessions.seal(p.KeyID))
		d.cfg.Log.Info().Str("key", p.KeyID).Str("tenant", p.Tenant).Msg("signed in to the dashboard")
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (d *Dashboard) logout(w http.ResponseWriter, r *http.Request) {
	setCookie(w, r, "")
	http.Redirect(w, r, "/dashboard/login", http.StatusSeeOther)
}

// local is a path of ours, or /: a login must not lead away.
func local(next string) string {
	for _, p := range []string{"/?", "/dashboard/jobs/", "/queues"} {
		if strings.HasPrefix(next, p) && !strings.ContainsAny(next, "\\\r\n") {
			return next
		}
	}
	return "/"
}
