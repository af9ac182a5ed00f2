package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	atollName = "atoll"
	farName   = "atoll far" // through a zone without leases
	peerName  = "postgresql"
	// startTimeout bounds how long a system may take to come up.
	startTimeout = 90 * time.Second
)

// scripts are pgbench's arguments for each workload.
var scripts = map[string][]string{
	"select": {"-b", "select-only"},
	"tpcb":   {"-b", "tpcb-like"},
	"insert": {"-f", "insert.sql"},
	"past":   {"-f", "past.sql"},
}

// pastScript is select-only as of a time at which the nearest replica can answer; PostgreSQL has no such.
const pastScript = "\\set aid random(1, 100000 * :scale)\nSELECT abalance FROM pgbench_accounts AS OF SYSTEM TIME follower_read_timestamp() WHERE aid = :aid;\n"

const insertScript = "\\set id random(1, 9000000000000000000)\nINSERT INTO bench_insert (id, v) VALUES (:id, 'sixty-four bytes of text, as in the prototypes of the commit path.');\n"

// system is one database under test.
type system struct {
	name   string
	port   int
	http   int // the first node's; Atoll only
	dir    string
	stop   func()
	client string // folder of pgbench
}

// command runs a program and returns its output; the error holds it too.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, tail(out))
	}
	return string(out), nil
}

func tail(b []byte) string {
	if len(b) > 2000 {
		b = b[len(b)-2000:]
	}
	return string(b)
}

// freePorts returns the first of n free ports in a row on loopback.
func freePorts(n int) (int, error) {
search:
	for base := 30000; base < 60000; base += n {
		for p := base; p < base+n; p++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if err != nil {
				continue search
			}
			_ = l.Close()
		}
		return base, nil
	}
	return 0, errors.New("no free ports on loopback")
}

// startAtoll starts a demo with three zones.
func startAtoll(ctx context.Context, o *options) (*system, error) {
	port, err := freePorts(300)
	if err != nil {
		return nil, err
	}
	args := []string{"demo", "--store", filepath.Join(o.dir, "atoll"), "--sql-port", strconv.Itoa(port), "--http-port", strconv.Itoa(port + 200)}
	for _, a := range o.nodeArgs {
		args = append(args, "--node-arg", a)
	}
	cmd := exec.Command(o.atoll, args...)
	var log bytes.Buffer
	ready := make(chan struct{})
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		sc := bufio.NewScanner(stdout)
		up := false
		for sc.Scan() {
			log.WriteString(sc.Text() + "\n")
			if !up && strings.Contains(sc.Text(), "Atoll is up") {
				up = true
				close(ready)
			}
		}
	}()
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	select {
	case <-ready:
	case <-ctx.Done():
		stop()
		return nil, ctx.Err()
	case <-time.After(startTimeout):
		stop()
		return nil, fmt.Errorf("atoll demo is not up after %s", startTimeout)
	}
	o.firstPort = port
	return &system{name: atollName, port: port, http: port + 200, dir: o.dir, stop: stop, client: o.pgBin}, nil
}

// startPostgres starts a primary with two synchronous standbys (ANY 1), all on loopback.
func startPostgres(ctx context.Context, o *options) (*system, error) {
	p := &postgres{bin: o.pgBin, dir: filepath.Join(o.dir, "pg")}
	var err error
	if p.port, err = freePorts(10); err != nil {
		return nil, err
	}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return &system{name: peerName, port: p.port, dir: o.dir, stop: p.stop, client: o.pgBin}, nil
}

type postgres struct {
	bin, dir string
	port     int
	cred     *syscall.Credential // the server refuses root
	started  []string
}

func (p *postgres) prepare() error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres: %w", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	p.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(p.dir, uid, gid)
}

// do runs one of PostgreSQL's programs as a user it accepts.
func (p *postgres) do(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	out, err := os.CreateTemp("", "bench-pg-") // a pipe would stay open in the server
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		b, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w\n%s", program, err, tail(b))
	}
	return nil
}

func (p *postgres) start(ctx context.Context) error {
	primary := filepath.Join(p.dir, "primary")
	if err := p.do(ctx, "initdb", "-D", primary, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"); err != nil {
		return err
	}
	conf := fmt.Sprintf("port=%d\nlisten_addresses='127.0.0.1'\nunix_socket_directories='%s'\nshared_buffers=512MB\nmax_wal_size=4GB\n"+
		"max_connections=200\nsynchronous_standby_names='ANY 1 (s1,s2)'\nsynchronous_commit=on\nhot_standby=on\n", p.port, p.dir)
	if err := appendFile(filepath.Join(primary, "postgresql.conf"), conf); err != nil {
		return err
	}
	if err := p.launch(ctx, primary); err != nil {
		return err
	}
	for i, name := range []string{"s1", "s2"} {
		dir := filepath.Join(p.dir, name)
		if err := p.do(ctx, "pg_basebackup", "-h", "127.0.0.1", "-p", strconv.Itoa(p.port), "-U", "postgres", "-D", dir, "-R", "-c", "fast"); err != nil {
			return err
		}
		conf := fmt.Sprintf("port=%d\nprimary_conninfo='host=127.0.0.1 port=%d user=postgres application_name=%s'\n", p.port+1+i, p.port, name)
		if err := appendFile(filepath.Join(dir, "postgresql.auto.conf"), conf); err != nil {
			return err
		}
		if err := p.launch(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, werr := f.WriteString(text)
	return errors.Join(werr, f.Close())
}

func (p *postgres) launch(ctx context.Context, data string) error {
	p.started = append(p.started, data)
	return p.do(ctx, "pg_ctl", "-D", data, "-w", "-t", "60", "-l", data+".log", "start")
}

func (p *postgres) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, data := range slices.Backward(p.started) {
		_ = p.do(ctx, "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
	}
}

func (s *system) args(more ...string) []string {
	return append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-U", "postgres"}, more...)
}

// load fills the tables.
func (s *system) load(ctx context.Context, o *options) error {
	if err := os.WriteFile(filepath.Join(s.dir, "insert.sql"), []byte(insertScript), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "past.sql"), []byte(pastScript), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "loading %s, scale %d\n", s.name, o.scale)
	if _, err := command(ctx, s.dir, filepath.Join(s.client, "pgbench"), s.args("-i", "-q", "-s", strconv.Itoa(o.scale), "postgres")...); err != nil {
		return err
	}
	_, err := command(ctx, s.dir, filepath.Join(s.client, "psql"), s.args("-d", "postgres", "-v", "ON_ERROR_STOP=1",
		"-c", "CREATE TABLE bench_insert (id bigint PRIMARY KEY, v text)")...)
	return err
}

// byLeases returns the SQL ports of the node that leads most of the data and of one that leads least.
func (s *system) byLeases(ctx context.Context) (near, far int, err error) {
	const query = "SELECT n.sql_address FROM atoll.nodes n LEFT JOIN atoll.ranges r ON r.leaseholder = n.node_id GROUP BY n.sql_address ORDER BY coalesce(sum(r.bytes), 0) DESC"
	out, err := command(ctx, s.dir, filepath.Join(s.client, "psql"), s.args("-d", "postgres", "-qAtX", "-c", query)...)
	if err != nil {
		return 0, 0, err
	}
	var ports []int
	for _, addr := range strings.Fields(out) {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return 0, 0, fmt.Errorf("node with the SQL address %q: %w", addr, err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return 0, 0, fmt.Errorf("node with the SQL address %q: %w", addr, err)
		}
		ports = append(ports, n)
	}
	if len(ports) < 2 {
		return 0, 0, fmt.Errorf("atoll.nodes lists %d nodes, the demo has three: %s", len(ports), out)
	}
	return ports[0], ports[len(ports)-1], nil
}

// pgbench runs one measurement.
func (s *system) pgbench(ctx context.Context, o *options, workload string, clients int) (sample, error) {
	prefix := filepath.Join(s.dir, "log-"+s.name)
	for _, f := range logFiles(prefix) {
		_ = os.Remove(f)
	}
	args := s.args("-n", "-M", "prepared", "-c", strconv.Itoa(clients), "-j", "2", "-T", strconv.Itoa(o.seconds), "--max-tries=50",
		"-l", "--log-prefix="+prefix)
	args = append(append(args, scripts[workload]...), "-D", "scale="+strconv.Itoa(o.scale), "postgres")
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.seconds)*time.Second+startTimeout)
	defer cancel()
	out, err := command(ctx, s.dir, filepath.Join(s.client, "pgbench"), args...)
	if err != nil {
		return sample{}, err
	}
	return summarize(out, prefix)
}

// summarize reads pgbench's summary and its log.
func summarize(out, prefix string) (sample, error) {
	var m sample
	for _, line := range strings.Split(out, "\n") {
		if v, ok := strings.CutPrefix(line, "tps = "); ok {
			m.tps, _ = strconv.ParseFloat(strings.Fields(v)[0], 64)
		}
		if v, ok := strings.CutPrefix(line, "number of failed transactions: "); ok {
			m.failed, _ = strconv.Atoi(strings.Fields(v)[0])
		}
	}
	var us []int
	for _, f := range logFiles(prefix) {
		b, err := os.ReadFile(f)
		if err != nil {
			return m, err
		}
		for _, line := range strings.Split(string(b), "\n") {
			if f := strings.Fields(line); len(f) > 2 {
				if n, err := strconv.Atoi(f[2]); err == nil {
					us = append(us, n)
				}
			}
		}
		_ = os.Remove(f)
	}
	if len(us) == 0 || m.tps == 0 {
		return m, fmt.Errorf("pgbench finished no transaction:\n%s", out)
	}
	slices.Sort(us)
	m.p50 = time.Duration(us[len(us)/2]) * time.Microsecond
	m.p99 = time.Duration(us[len(us)*99/100]) * time.Microsecond
	return m, nil
}
