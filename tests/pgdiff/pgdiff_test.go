package pgdiff

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/atolldb/atoll/tests/e2e"
)

var (
	seedFlag    = flag.Uint64("seed", 1, "first seed of the generated statements")
	queriesFlag = flag.Int("queries", 1500, "generated queries")
	writesFlag  = flag.Int("writes", 300, "generated statements that write")
	forFlag     = flag.Duration("for", time.Minute, "generate for at most so long")
	reportFlag  = flag.Int("report", 10, "differences to show before the run stops")
)

// slow is when a statement over a few rows is worth a line in the log.
const slow = 3 * time.Second

// pair is a connection to each server.
type pair struct {
	atoll, postgres         *Server
	atollTime, postgresTime time.Duration
}

// connect dials $PGDIFF_ATOLL and $PGDIFF_POSTGRES, or servers that it starts.
func connect(t *testing.T) *pair {
	t.Helper()
	pdsn := os.Getenv("PGDIFF_POSTGRES")
	if pdsn == "" {
		pdsn = startPostgres(t)
	}
	adsn := os.Getenv("PGDIFF_ATOLL")
	if adsn == "" {
		adsn = e2e.StartCluster(t).DSN(1)
	}
	p := &pair{}
	var err error
	if p.postgres, err = Dial(t.Context(), "PostgreSQL", pdsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.postgres.Close)
	if p.atoll, err = Dial(t.Context(), "Atoll", adsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.atoll.Close)
	return p
}

// run runs a statement on both and says how the outcomes differ.
func (p *pair) run(t *testing.T, mode Mode, how Compare, sql string, args ...[]byte) (got, want Outcome, diff string) {
	t.Helper()
	start := time.Now()
	got, err := p.atoll.Run(t.Context(), mode, sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	p.atollTime += time.Since(start)
	if d := time.Since(start); d > slow {
		t.Logf("slow: %s: %s", d, sql)
	}
	start = time.Now()
	if want, err = p.postgres.Run(t.Context(), mode, sql, args...); err != nil {
		t.Fatal(err)
	}
	p.postgresTime += time.Since(start)
	return got, want, Difference(got, want, how)
}

// both runs a statement that must succeed on both.
func (p *pair) both(t *testing.T, sql string) {
	t.Helper()
	for _, s := range []*Server{p.atoll, p.postgres} {
		out, err := s.Run(t.Context(), Simple, sql)
		if err != nil {
			t.Fatal(err)
		}
		if out.Err != nil {
			t.Fatalf("%s: %s: %s", s.Name, sql, out)
		}
	}
}

// TestDifferences needs PostgreSQL 15, or $PGDIFF_ATOLL and $PGDIFF_POSTGRES.
func TestDifferences(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	p := connect(t)
	t.Run("files", p.files)
	t.Run("queries", p.queries)
	t.Run("writes", p.writes)
}

// runtimeError: which of several rows or conditions is evaluated first decides whether and
// which of these a query meets, so that a query over tables need not meet the same.
func runtimeError(o Outcome) bool {
	return o.Err != nil && o.Err.Position == 0 && (strings.HasPrefix(o.Err.Code, "22") || strings.HasPrefix(o.Err.Message, "cannot convert "))
}

// timedOut: subqueries for each of many joined rows take long on either server.
func timedOut(o Outcome) bool { return o.Err != nil && o.Err.Code == "57014" }

// queries compares generated queries.
func (p *pair) queries(t *testing.T) {
	g := &gen{r: rand.New(rand.NewPCG(*seedFlag, 0))}
	for _, s := range g.schema() {
		p.both(t, s)
	}
	start, shown, failed, tolerated, late := time.Now(), 0, 0, 0, 0
	n := 0
	for ; n < *queriesFlag && time.Since(start) < *forFlag; n++ {
		g.r = rand.New(rand.NewPCG(*seedFlag, uint64(n)+1))
		q := g.query()
		mode := Mode(g.n(3))
		got, want, diff := p.run(t, mode, Compare{Ordered: q.Ordered, NoMods: true}, q.SQL)
		if want.Err != nil {
			failed++
		}
		if timedOut(got) || timedOut(want) {
			late++
			continue
		}
		if diff == "rows differ" && !(q.Strict && mode == Simple) {
			got, want, diff = p.run(t, ExtendedText, Compare{Ordered: q.Ordered, NoMods: true, Loose: true}, q.SQL)
		}
		if diff == "" {
			continue
		}
		// PostgreSQL folds constants in arms that are never taken.
		// Which of two mistakes is found first depends on the order in which clauses are read.
		mistakes := got.Err != nil && want.Err != nil && got.Err.Code[:2] == "42" && want.Err.Code[:2] == "42"
		if mistakes || runtimeError(want) || !q.Strict && runtimeError(got) {
			tolerated++
			continue
		}
		t.Errorf("query %d (%s): %s\n  %s\n  Atoll: %s\n  PostgreSQL: %s", n, mode, diff, q.SQL, got, want)
		if shown++; shown >= *reportFlag {
			break
		}
	}
	t.Logf("Atoll took %s, PostgreSQL %s", p.atollTime, p.postgresTime)
	t.Logf("seed %d: %d queries in %s; %d failed on PostgreSQL too; %d met an error on one side that depends on the order of evaluation",
		*seedFlag, n, time.Since(start).Round(time.Millisecond), failed, tolerated)
	if late > 2+n/200 {
		t.Errorf("%d queries took longer than statement_timeout", late)
	}
	if n > 300 && (failed > n/4 || tolerated > n/10) {
		t.Errorf("too many queries fail for this to test much")
	}
}

// writes compares generated INSERT, UPDATE and DELETE, and the table after each.
func (p *pair) writes(t *testing.T) {
	g := &gen{r: rand.New(rand.NewPCG(*seedFlag, 1<<40))}
	for _, s := range g.schema() {
		p.both(t, s)
	}
	start, shown, failed := time.Now(), 0, 0
	n := 0
	for ; n < *writesFlag && time.Since(start) < *forFlag; n++ {
		g.r = rand.New(rand.NewPCG(*seedFlag, 1<<40+uint64(n)+1))
		mode := Mode(g.n(3))
		keep := g.one(0.1)
		p.both(t, "BEGIN")
		sql := g.write()
		got, want, diff := p.run(t, mode, Compare{NoMods: true, Loose: true}, sql)
		end := "ROLLBACK"
		if diff == "" && got.Err == nil {
			for _, tab := range g.tables {
				if diff != "" {
					break
				}
				got, want, diff = p.run(t, Simple, Compare{}, "SELECT * FROM "+tab.name)
			}
			if keep && diff == "" && len(want.Rows) < 60 {
				end = "COMMIT"
			}
		} else if want.Err != nil {
			failed++
		}
		p.both(t, end)
		if diff == "" || runtimeError(got) && runtimeError(want) || timedOut(got) || timedOut(want) {
			continue
		}
		t.Errorf("write %d (%s): %s\n  %s\n  Atoll: %s\n  PostgreSQL: %s", n, mode, diff, sql, got, want)
		if shown++; shown >= *reportFlag {
			break
		}
	}
	t.Logf("seed %d: %d writes in %s; %d failed on PostgreSQL too", *seedFlag, n, time.Since(start).Round(time.Millisecond), failed)
}

// files compares the statements of testdata/*.sql, each in every mode that takes it.
func (p *pair) files(t *testing.T) {
	names, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range names {
		t.Run(strings.TrimSuffix(e.Name(), ".sql"), func(t *testing.T) {
			b, err := os.ReadFile("testdata/" + e.Name())
			if err != nil {
				t.Fatal(err)
			}
			p.fresh(t)
			for _, c := range parseFile(string(b)) {
				p.check(t, e.Name(), c)
			}
		})
	}
}

// fresh opens new connections with an empty schema.
func (p *pair) fresh(t *testing.T) {
	t.Helper()
	for _, s := range []*Server{p.atoll, p.postgres} {
		ctx, cancel := context.WithTimeout(t.Context(), statementTimeout)
		err := s.Reset(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	p.both(t, "DROP SCHEMA IF EXISTS pgdiff CASCADE")
	p.both(t, "CREATE SCHEMA pgdiff")
	p.both(t, "SET search_path = pgdiff")
}

func (p *pair) check(t *testing.T, file string, c statement) {
	t.Helper()
	modes := []Mode{Simple}
	if c.repeatable() {
		modes = append(modes, ExtendedText, ExtendedBinary)
	}
	for _, mode := range modes {
		got, want, diff := p.run(t, mode, Compare{Ordered: c.ordered()}, c.sql)
		where := fmt.Sprintf("%s:%d (%s)", file, c.line, mode)
		switch {
		case c.differs == "" && diff != "":
			t.Errorf("%s: %s\n  %s\n  Atoll: %s\n  PostgreSQL: %s", where, diff, c.sql, got, want)
			return
		case c.differs != "" && diff == "":
			t.Errorf("%s: no difference any more, take the mark away (%s)\n  %s", where, c.differs, c.sql)
			return
		}
	}
}
