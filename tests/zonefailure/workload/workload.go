// Package workload writes to and reads from an Atoll cluster like a plain client, remembers every
// answer, and says afterwards whether an acknowledged write is gone, a read was stale or a
// transaction took effect by halves, and how long no client had an answer.
//
// Each writer owns one row, whose value it raises by one in a transaction that also writes a line
// of a journal, in another table. So what the row may hold is known at every moment: no less than
// what was acknowledged before the read began, no more than what was sent.
package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Config says where and how to work.
type Config struct {
	// Connections are connection strings by name, of a zone say. Each gets its own writers and readers.
	Connections map[string]string
	// Writers and Readers per connection. Defaults 2 and 1, at most 64 of each.
	Writers, Readers int
	// Pause between the transactions of one client. Default 5 ms.
	Pause time.Duration
	// Statement bounds one transaction, with the reconnecting that it takes. Default 10 s.
	Statement time.Duration
	// Schema holds the two tables; it is dropped first. Default zone_failure.
	Schema string
	// Verify is how long Finish tries to read everything back. Default 1 minute.
	Verify time.Duration
}

func (c *Config) ensureDefaults() {
	def := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.Writers, 2)
	def(&c.Readers, 1)
	span := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	span(&c.Pause, 5*time.Millisecond)
	span(&c.Statement, 10*time.Second)
	span(&c.Verify, time.Minute)
	if c.Schema == "" {
		c.Schema = "zone_failure"
	}
}

func (c *Config) validate() error {
	var errs []error
	if len(c.Connections) == 0 {
		errs = append(errs, errors.New("workload: there are no connections"))
	}
	if c.Writers < 1 || c.Writers > 64 {
		errs = append(errs, fmt.Errorf("workload: %d writers per connection, it must be 1 to 64", c.Writers))
	}
	if c.Readers < 0 || c.Readers > 64 {
		errs = append(errs, fmt.Errorf("workload: %d readers per connection, it must be 0 to 64", c.Readers))
	}
	return errors.Join(errs...)
}

// register is one writer's row.
type register struct {
	id    int
	acked atomic.Int64
	sent  atomic.Int64

	// Of the writer only.
	done []int64
}

// Workload runs between Start and Finish.
type Workload struct {
	cfg       Config
	registers []*register
	gaps      map[string]*gap
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	reads, errors atomic.Int64

	mu     sync.Mutex
	faults []string
	last   map[string]string // the latest error of a connection
}

const maxFaults = 20

func (w *Workload) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) < maxFaults {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

// Start makes the tables through any of the connections and starts the clients, which work until
// Finish, or until ctx ends.
func Start(ctx context.Context, cfg Config) (*Workload, error) {
	cfg.ensureDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	w := &Workload{cfg: cfg, gaps: map[string]*gap{}, last: map[string]string{}}
	for range len(cfg.Connections) * cfg.Writers {
		w.registers = append(w.registers, &register{id: len(w.registers)})
	}
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	ctx, w.cancel = context.WithCancel(ctx)
	next := 0
	for _, name := range w.names() {
		g := &gap{}
		g.answered(time.Now())
		w.gaps[name] = g
		for range cfg.Writers {
			r := w.registers[next]
			next++
			w.wg.Go(func() { w.write(ctx, name, r, g) })
		}
		for range cfg.Readers {
			w.wg.Go(func() { w.read(ctx, name) })
		}
	}
	return w, nil
}

func (w *Workload) names() []string {
	var names []string
	for name := range w.cfg.Connections {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// prepare tries every connection until one works.
func (w *Workload) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Verify)
	defer cancel()
	s := pgx.Identifier{w.cfg.Schema}.Sanitize()
	return w.anywhere(ctx, func(ctx context.Context, c *pgx.Conn) error {
		for _, stmt := range []string{
			"CREATE SCHEMA IF NOT EXISTS " + s,
			"DROP TABLE IF EXISTS " + s + ".registers",
			"DROP TABLE IF EXISTS " + s + ".journal",
			"CREATE TABLE " + s + ".registers (id int PRIMARY KEY, v bigint NOT NULL)",
			"CREATE TABLE " + s + ".journal (writer int, v bigint, PRIMARY KEY (writer, v))",
		} {
			if _, err := c.Exec(ctx, stmt); err != nil {
				return fmt.Errorf("%s: %w", stmt, err)
			}
		}
		for _, r := range w.registers {
			if _, err := c.Exec(ctx, "INSERT INTO "+s+".registers VALUES ($1, 0)", r.id); err != nil {
				return err
			}
		}
		return nil
	})
}

// anywhere runs fn on one connection after the other until it succeeds or ctx ends.
func (w *Workload) anywhere(ctx context.Context, fn func(context.Context, *pgx.Conn) error) error {
	for {
		var errs []error
		for _, name := range w.names() {
			one, cancel := context.WithTimeout(ctx, w.cfg.Verify/2)
			c, err := connect(one, w.cfg.Connections[name])
			if err == nil {
				err = fn(one, c)
				_ = c.Close(one)
			}
			cancel()
			if err == nil {
				return nil
			}
			errs = append(errs, fmt.Errorf("through %s: %w", name, err))
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("workload: %w; the latest tries: %w", ctx.Err(), errors.Join(errs...))
		}
	}
}

// connect gives up after two seconds: a client of a zone that is gone has somewhere else to go.
func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.ConnectTimeout = 2 * time.Second
	return pgx.ConnectConfig(ctx, cfg)
}

// client is one connection that is made anew after an error.
type client struct {
	w    *Workload
	name string
	conn *pgx.Conn
}

func (c *client) run(ctx context.Context, fn func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.w.cfg.Statement)
	defer cancel()
	if c.conn == nil {
		conn, err := connect(ctx, c.w.cfg.Connections[c.name])
		if err != nil {
			return err
		}
		c.conn = conn
	}
	err := fn(ctx, c.conn)
	if err != nil {
		c.close()
	}
	return err
}

func (c *client) close() {
	if c.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.conn.Close(ctx)
		c.conn = nil
	}
}

// failed notes an error and waits a little. It reports whether the workload has ended.
func (w *Workload) failed(ctx context.Context, name string, err error) (ended bool) {
	if ctx.Err() != nil {
		return true
	}
	w.errors.Add(1)
	w.mu.Lock()
	w.last[name] = err.Error()
	w.mu.Unlock()
	return w.pause(ctx, 20*time.Millisecond)
}

func (w *Workload) pause(ctx context.Context, d time.Duration) (ended bool) {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return false
	case <-ctx.Done():
		return true
	}
}

// write raises one register until the workload ends.
func (w *Workload) write(ctx context.Context, name string, r *register, g *gap) {
	c := &client{w: w, name: name}
	defer c.close()
	s := pgx.Identifier{w.cfg.Schema}.Sanitize()
	known := true // what the row holds
	for {
		if !known {
			var v int64
			err := c.run(ctx, func(ctx context.Context, conn *pgx.Conn) error {
				return conn.QueryRow(ctx, "SELECT v FROM "+s+".registers WHERE id = $1 FOR UPDATE", r.id).Scan(&v)
			})
			if err != nil {
				if w.failed(ctx, name, err) {
					return
				}
				continue
			}
			g.answered(time.Now())
			if v != r.acked.Load() && v != r.sent.Load() {
				w.fault("writer %d through %s: its row holds %d; %d was acknowledged and %d sent", r.id, name, v, r.acked.Load(), r.sent.Load())
				return
			}
			if v > r.acked.Load() {
				r.done = append(r.done, v)
				r.acked.Store(v)
			}
			known = true
		}
		n := r.acked.Load() + 1
		r.sent.Store(n)
		err := c.run(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			tx, err := conn.Begin(ctx)
			if err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, "UPDATE "+s+".registers SET v = $2 WHERE id = $1 AND v = $2 - 1", r.id, n)
			if err == nil && tag.RowsAffected() != 1 {
				// An earlier try may have taken effect late: reading the row tells.
				err = errors.New("the row was not found as it was left")
			}
			if err == nil {
				_, err = tx.Exec(ctx, "INSERT INTO "+s+".journal VALUES ($1, $2)", r.id, n)
			}
			if err != nil {
				_ = tx.Rollback(ctx)
				return err
			}
			return tx.Commit(ctx)
		})
		if err != nil {
			known = false
			if w.failed(ctx, name, err) {
				return
			}
			continue
		}
		r.acked.Store(n)
		r.done = append(r.done, n)
		g.answered(time.Now())
		if w.pause(ctx, w.cfg.Pause) {
			return
		}
	}
}

// read looks at any register: what was acknowledged before the read began must be seen.
func (w *Workload) read(ctx context.Context, name string) {
	c := &client{w: w, name: name}
	defer c.close()
	s := pgx.Identifier{w.cfg.Schema}.Sanitize()
	for {
		r := w.registers[rand.IntN(len(w.registers))]
		floor := r.acked.Load()
		var v int64
		err := c.run(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, "SELECT v FROM "+s+".registers WHERE id = $1", r.id).Scan(&v)
		})
		switch {
		case err != nil:
			if w.failed(ctx, name, err) {
				return
			}
			continue
		case v < floor:
			w.fault("stale read through %s: row %d holds %d; %d was acknowledged before the read began", name, r.id, v, floor)
		case v > r.sent.Load():
			w.fault("read through %s: row %d holds %d, which nobody has written", name, r.id, v)
		}
		w.reads.Add(1)
		if w.pause(ctx, w.cfg.Pause) {
			return
		}
	}
}
