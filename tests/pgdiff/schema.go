package pgdiff

import (
	"strings"
)

// schema returns the tables that the generator queries, and the statements that make and fill
// them. The same seed makes the same rows.
func (g *gen) schema() []string {
	cols := []column{
		{"id", tInt}, {"a", tInt}, {"b", tBig}, {"c", tSmall}, {"d", tNum}, {"e", tFloat}, {"f", tText}, {"g", tVar}, {"h", tBool},
		{"i", tDate}, {"j", tTS}, {"k", tTZ}, {"l", tUUID}, {"m", tJSON}, {"n", tBytea}, {"o", tChar},
	}
	g.tables = []table{
		{name: "t1", cols: cols, keys: []string{"id"}},
		{name: "t2", cols: cols[:12], keys: []string{"id", "a, f"}},
		{name: "t3", cols: append(append([]column{cols[0]}, cols[5:10]...), cols[1]), keys: []string{"id", "f"}},
	}
	def := func(t table) string {
		var l []string
		for _, c := range t.cols {
			d := c.name + " " + typeNames[c.typ]
			if c.name == "id" {
				d += " PRIMARY KEY"
			}
			l = append(l, d)
		}
		return "CREATE TABLE " + t.name + " (" + join(l) + ")"
	}
	out := []string{"DROP TABLE IF EXISTS t1, t2, t3"}
	for _, t := range g.tables {
		out = append(out, def(t))
	}
	out = append(out,
		"CREATE INDEX ON t1 (a)", "CREATE INDEX ON t1 (f, d DESC)", "CREATE INDEX ON t1 (k)", "CREATE INDEX ON t1 (h, c)", "CREATE INDEX ON t1 (e)",
		"CREATE UNIQUE INDEX ON t2 (a, f)", "CREATE INDEX ON t2 (d)", "CREATE INDEX ON t2 (i, j)", "CREATE INDEX ON t2 (k, g)",
		"CREATE UNIQUE INDEX ON t3 (f)", "CREATE INDEX ON t3 (a, h)")
	for i, t := range g.tables {
		rows := []int{30, 18, 8}[i]
		for id := range rows {
			values := []string{f("%d", id)}
			for _, c := range t.cols[1:] {
				values = append(values, g.literal(c.typ))
			}
			out = append(out, f("INSERT INTO %s VALUES (%s) ON CONFLICT DO NOTHING", t.name, strings.Join(values, ", ")))
		}
	}
	return out
}
