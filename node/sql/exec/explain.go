package exec

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/atolldb/atoll/node/sql/plan"
	"github.com/atolldb/atoll/node/sql/types"
)

// nextLine yields EXPLAIN's output. With ANALYZE the statement runs first.
func (r *Rows) nextLine(ctx context.Context, maxRows int64) (*Batch, error) {
	if r.done {
		return nil, nil
	}
	if r.lines == nil {
		var run time.Duration
		if r.plan.Explain.Analyze {
			start := time.Now()
			if err := r.rt.runWrites(); err != nil {
				return nil, err
			}
			root := r.rt.build(r.plan.Physical.Root)
			defer root.close(r.rt)
			for {
				b, err := root.next(r.rt, maxInt)
				if err != nil {
					return nil, err
				}
				if b == nil {
					break
				}
			}
			run = time.Since(start)
		}
		var actual func(id int) *plan.Actual
		if r.rt.stats != nil {
			actual = func(id int) *plan.Actual {
				s := r.rt.stats[id]
				return &plan.Actual{Rows: s.rows, Loops: s.loops, Startup: s.startup, Total: s.total}
			}
		}
		r.lines = plan.ExplainText(r.plan, r.rt.x.Eval.Env, actual)
		if r.plan.Explain.Analyze && r.plan.Explain.Summary {
			r.lines = append(r.lines, fmt.Sprintf("Execution Time: %.3f ms", float64(run.Microseconds())/1000))
		}
		if r.plan.Explain.JSON {
			r.lines = []string{plan.ExplainJSON(r.plan, r.rt.x.Eval.Env, actual)}
		}
	}
	n := len(r.lines)
	if maxRows > 0 && int64(n) > maxRows {
		n = int(maxRows)
	}
	r.out.reset(1)
	for _, l := range r.lines[:n] {
		r.out.add()[0] = types.NewString(strings.ToValidUTF8(l, "?"))
	}
	r.lines = r.lines[n:]
	r.done = len(r.lines) == 0
	r.count += int64(n)
	return &r.out, nil
}
