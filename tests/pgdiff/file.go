package pgdiff

import (
	"strings"
)

// statement is one of a file. A comment line "-- differs: reason" above it marks a known
// difference, which must still be there.
type statement struct {
	sql     string
	line    int
	differs string
}

// parseFile splits a file into statements: each ends with a semicolon at the end of a line.
func parseFile(text string) []statement {
	var out []statement
	var cur statement
	var lines []string
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		if len(lines) == 0 {
			if r, ok := strings.CutPrefix(trimmed, "-- differs:"); ok {
				cur.differs = strings.TrimSpace(r)
			}
			if trimmed == "" || strings.HasPrefix(trimmed, "--") {
				continue
			}
			cur.line = i + 1
		}
		lines = append(lines, line)
		if strings.HasSuffix(trimmed, ";") {
			cur.sql = strings.TrimSuffix(strings.TrimSpace(strings.Join(lines, "\n")), ";")
			out = append(out, cur)
			cur, lines = statement{}, nil
		}
	}
	return out
}

// repeatable says whether a statement can be run several times with the same outcome.
func (s statement) repeatable() bool {
	low := strings.ToLower(s.sql)
	for _, p := range []string{"select", "values", "with", "table", "show"} {
		if strings.HasPrefix(low, p) {
			return !strings.Contains(low, "nextval(") && !strings.Contains(low, "setval(") && !strings.Contains(low, "returning")
		}
	}
	return false
}

// ordered says whether the order of rows counts.
func (s statement) ordered() bool {
	low := strings.ToLower(s.sql)
	i := strings.LastIndex(low, "order by")
	return i >= 0 && strings.Count(low[i:], ")") <= strings.Count(low[i:], "(")
}
