package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// secrets are what scripts/secrets would make.
var secrets = map[string]string{
	"LORRY_NATS_TOKEN":     "t0123456789abcdef",
	"LORRY_REDIS_PASSWORD": "p0123456789abcdef",
	"LORRY_MASTER_KEY":     "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
}

// load reads docker-compose.yml as compose does, with these variables and profiles.
func load(vars map[string]string, profiles ...string) (*types.Project, error) {
	var env []string
	for k, v := range vars {
		env = append(env, k+"="+v)
	}
	opts, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")},
		cli.WithWorkingDirectory(root), cli.WithEnv(env), cli.WithProfiles(profiles), cli.WithResolvedPaths(true))
	if err != nil {
		return nil, err
	}
	return opts.LoadProject(context.Background())
}

// TestComposeSecrets: without its secrets the fleet does not start, and the error says how to make them.
func TestComposeSecrets(t *testing.T) {
	for name := range secrets {
		vars := map[string]string{}
		for k, v := range secrets {
			if k != name {
				vars[k] = v
			}
		}
		if _, err := load(vars); err == nil || !strings.Contains(err.Error(), "scripts/secrets") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// TestComposeServices looks at what the file promises beside its commands.
func TestComposeServices(t *testing.T) {
	project, err := load(secrets, "gpu")
	if err != nil {
		t.Fatal(err)
	}
	names := project.ServiceNames()
	if want := []string{"dashboard", "nats", "producer", "scheduler", "valkey", "worker", "worker-gpu"}; !slices.Equal(names, want) {
		t.Errorf("services %v, want %v", names, want)
	}
	gpu := project.Services["worker-gpu"]
	if d := gpu.Deploy.Resources.Reservations.Devices; len(d) != 1 || d[0].Driver != "nvidia" || gpu.Build.Args["VARIANT"] == nil || *gpu.Build.Args["VARIANT"] != "cuda" {
		t.Errorf("worker-gpu reserves %v, built with %v", d, gpu.Build.Args)
	}
	for name, s := range project.Services {
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %s on %q: only loopback is safe by default", name, p.Published, p.HostIP)
			}
		}
		if (name == "nats" || name == "valkey") && len(s.Ports) > 0 {
			t.Errorf("%s is published", name)
		}
	}
}

// fleet runs the compose file's services as processes: the same commands and the same environment, where only what a
// container brings is put in its place: its address, its folder, and the program behind the image's name.
type fleet struct {
	t       *testing.T
	project *types.Project
	// at is host:port of what listens, by service name, as containers would resolve it.
	at map[string]string
}

// places are the ports in the file, and the service that listens there.
var places = map[string]string{"nats": "4222", "valkey": "6379", "producer": "8080", "dashboard": "8080"}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	project, err := load(secrets, "cli")
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, project: project, at: map[string]string{}}
	for service := range places {
		f.at[service] = "127.0.0.1:" + freePort(t)
	}
	return f
}

// freePort is one that nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// env is a service's environment with addresses of this machine in it.
func (f *fleet) env(service string) map[string]string {
	env := map[string]string{"LORRY_DATA": shortDir(f.t)}
	for k, v := range f.project.Services[service].Environment {
		if v != nil {
			env[k] = f.here(*v)
		}
	}
	if env["LORRY_LISTEN"] != "" {
		env["LORRY_LISTEN"] = f.at[service]
	}
	env["LORRY_WEBHOOK_ALLOW"] = "127.0.0.0/8" // the test's receiver
	return env
}

// here replaces a service's name and port, as a container would see it, by where that is on this machine.
func (f *fleet) here(value string) string {
	for service, port := range places {
		for _, before := range []string{"@", "//"} {
			value = strings.ReplaceAll(value, before+service+":"+port, before+f.at[service])
		}
	}
	return value
}

// lorry starts a service of our image: its entry point is the program.
func (f *fleet) lorry(service string, more ...string) *process {
	f.t.Helper()
	s := f.project.Services[service]
	if !strings.HasPrefix(s.Image, "lorry:") {
		f.t.Fatalf("%s runs the image %s", service, s.Image)
	}
	args := []string(s.Command)
	if len(more) > 0 {
		args = more
	}
	return start(f.t, service, built(f.t, "lorry"), args, f.env(service))
}

// valkey starts the store with the file's own arguments.
func (f *fleet) valkey() {
	f.t.Helper()
	command := f.onHost("valkey")
	_, port, _ := net.SplitHostPort(f.at["valkey"])
	start(f.t, "valkey", built(f.t, "runtime/bin/"+command[0]), append(command[1:], "--bind", "127.0.0.1", "--port", port), nil)
}

// nats starts the server that the file's image holds, built from the same source, with the file's own settings.
func (f *fleet) nats() {
	f.t.Helper()
	_, port, _ := net.SplitHostPort(f.at["nats"])
	args := append(f.onHost("nats"), "--addr", "127.0.0.1", "--port", port, "--http_port", freePort(f.t))
	token := f.project.Services["nats"].Environment["LORRY_NATS_TOKEN"]
	start(f.t, "nats", natsServer(f.t), args, map[string]string{"LORRY_NATS_TOKEN": *token})
}

// onHost is a service's command where mounted files and volumes have their places outside of the container.
func (f *fleet) onHost(service string) []string {
	s := f.project.Services[service]
	command := slices.Clone([]string(s.Command))
	for i, arg := range command {
		for _, v := range s.Volumes {
			switch {
			case v.Target != arg:
			case v.Type == types.VolumeTypeBind:
				command[i] = v.Source
			default:
				command[i] = shortDir(f.t)
			}
		}
	}
	return command
}

// natsServer is go.mod's own version of the server, which must be that of the compose file's image.
func natsServer(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "tool", "-n", "nats-server").CombinedOutput()
	if err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestComposeVersions: the images are the versions that everything else is tested with.
func TestComposeVersions(t *testing.T) {
	project, err := load(secrets)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/nats-io/nats-server/v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	valkey, err := exec.Command(built(t, "runtime/bin/valkey-server"), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"nats":   "nats:" + strings.TrimPrefix(strings.TrimSpace(string(out)), "v") + "-alpine",
		"valkey": "valkey/valkey:" + strings.TrimPrefix(string(bytes.Fields(valkey)[2]), "v=") + "-alpine",
	}
	for service, image := range want {
		if got := project.Services[service].Image; got != image {
			t.Errorf("%s runs %s, tested is %s", service, got, image)
		}
	}
}

// TestComposeFleet sends 200 jobs of mixed kinds through the services of docker-compose.yml, with two producers and two
// workers, as processes.
func TestComposeFleet(t *testing.T) {
	f := newFleet(t)
	f.nats()
	f.valkey()
	key := f.key()
	roles := []*process{f.lorry("scheduler"), f.lorry("worker"), f.lorry("worker"), f.lorry("dashboard")}
	urls := []string{f.producer(), f.producer()}
	f.refusesStrangers(urls[0])
	f.served(urls[0], key)

	var turn atomic.Int64
	c := newCrowd(&client{key: key, urls: func() string { return urls[int(turn.Add(1))%len(urls)] }}, "smollm2", newHooks(t))
	u, err := url.Parse(f.env("worker")["LORRY_NATS"])
	if err != nil {
		t.Fatal(err)
	}
	js := connect(t, "nats://"+u.Host, u.User.Username())
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	if err := c.run(ctx, 200, 16); err != nil {
		look(t, js)
		t.Fatal(err)
	}
	c.books(t, js)
	t.Logf("asked again: %s", &c.again)
	for _, p := range roles {
		p.stop()
	}
}

// key makes the fleet's first key as the file's head says; it is the last line of what the command prints.
func (f *fleet) key() string {
	f.t.Helper()
	lines := strings.Fields(finished(f.t, f.lorry("producer", "key", "create", "--tenant", "default")))
	if len(lines) == 0 {
		f.t.Fatal("key create printed nothing")
	}
	return lines[len(lines)-1]
}

// producer starts one on a port of its own and waits until it can accept work.
func (f *fleet) producer() string {
	f.t.Helper()
	f.at["producer"] = "127.0.0.1:" + freePort(f.t)
	at := "http://" + f.at["producer"]
	p := f.lorry("producer")
	f.t.Cleanup(p.stop)
	eventually(f.t, time.Minute, "the producer is ready", func(ctx context.Context) error {
		if p.ended() {
			return fmt.Errorf("it ended: %v", p.err)
		}
		return ready(ctx, at)
	})
	return at
}

// refusesStrangers: once a key was made, nobody gets in without one.
func (f *fleet) refusesStrangers(at string) {
	f.t.Helper()
	for _, key := range []string{"", "lorry_not_a_key"} {
		a, err := (&client{key: key, urls: func() string { return at }}).do(f.t.Context(), "GET", "/v1/models", nil)
		if err != nil || a.status != 401 {
			f.t.Errorf("with the key %q: %d %s %v", key, a.status, a.body, err)
		}
	}
}

// served waits until a worker has registered the model.
func (f *fleet) served(at, key string) {
	f.t.Helper()
	c := &client{key: key, urls: func() string { return at }}
	eventually(f.t, time.Minute, "smollm2 is served", func(ctx context.Context) error {
		a, err := c.do(ctx, "GET", "/v1/models", nil)
		var list struct{ Data []struct{ ID string } }
		if err := errors.Join(err, json.Unmarshal(a.body, &list)); err != nil {
			return err
		}
		if len(list.Data) == 0 {
			return errors.New("no models: " + strconv.Quote(string(a.body)))
		}
		return nil
	})
}
