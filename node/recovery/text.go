package recovery

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteText prints a plan for people.
func (p *Plan) WriteText(w io.Writer) {
	fmt.Fprintf(w, "Recovery plan %s for cluster %s, made %s\n", p.ID, p.ClusterID, p.MadeAt.Format(time.RFC3339))
	for _, l := range p.Lost {
		fmt.Fprintf(w, "given up for good: node %d (%s, zone %s). It can never come back: make sure that it is stopped, and destroy its volume.\n", l.Node, l.Addr, l.Zone)
	}
	for _, s := range p.Survivors {
		fmt.Fprintf(w, "goes on: node %d (%s)\n", s.Node, s.Addr)
	}
	if len(p.Ranges) == 0 {
		fmt.Fprintln(w, "No range has lost its quorum: nothing of what was acknowledged is lost.")
	} else {
		p.writeRanges(w)
	}
	for _, s := range p.Superseded {
		fmt.Fprintf(w, "range %d: other ranges hold its keys by now; what is left of it is removed\n", s.ID)
	}
	for _, h := range p.Holes {
		fmt.Fprintf(w, "UNAVAILABLE AFTERWARDS: %s: no replica is left. Statements that need these keys fail.\n", h)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
}

func (p *Plan) writeRanges(w io.Writer) {
	fmt.Fprintf(w, "\n%d range(s) have lost their quorums and go on from one replica each:\n", len(p.Ranges))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "range\tkeys\tfrom\tup to entry (term)\tits time\tnot known to be committed\tbytes\tother copies dropped")
	for i := range p.Ranges {
		r := &p.Ranges[i]
		var others []string
		for _, o := range r.Others {
			others = append(others, fmt.Sprintf("%s at %d (%d)", o.Server, o.LastIndex, o.LastTerm))
		}
		at := "not known"
		if !r.Newest.IsZero() {
			at = r.Newest.Format(time.RFC3339)
		}
		fmt.Fprintf(t, "%d\t%s\t%s %s\t%d (%d)\t%s\t%d\t%d\t%s\n", r.ID, r.Span, r.Source.Role, r.Source.Server, r.Source.LastIndex, r.Source.LastTerm,
			at, r.InDoubt(), r.Bytes, strings.Join(others, ", "))
	}
	_ = t.Flush()
	for i := range p.Ranges {
		for _, n := range p.Ranges[i].Notes {
			fmt.Fprintf(w, "range %d: %s\n", p.Ranges[i].ID, n)
		}
	}
	fmt.Fprint(w, `
What may be lost: every write that the lost nodes had acknowledged and that none of the replicas above holds.
How many there are can't be known. What a range holds beyond its last entry that is known to be committed
counts as committed from then on, also where a client was told nothing or an error. A transaction that wrote
to several ranges may be there in some of them and not in others.
`)
}

// WriteText prints a status for people.
func (s *Status) WriteText(w io.Writer) {
	fmt.Fprintf(w, "Cluster %s", s.ClusterID)
	if s.Plan != "" {
		fmt.Fprintf(w, ", plan %s", s.Plan)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "range\tkeys\tleaseholder\tcopies\trecovered up to\tstate")
	for i := range s.Ranges {
		r := &s.Ranges[i]
		leader, index := "none", ""
		if r.Leader != 0 {
			leader = fmt.Sprintf("node %d", r.Leader)
		}
		if r.Recovered {
			index = fmt.Sprintf("entry %d", r.Index)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%d of %d\t%s\t%s\n", r.ID, r.Span, leader, r.Copies, max(r.Wanted, r.Voters), index, r.State)
	}
	_ = t.Flush()
	for _, u := range s.Unavailable {
		fmt.Fprintf(w, "UNAVAILABLE: %s has no leaseholder\n", u)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "problem: %s\n", p)
	}
	if s.Whole {
		fmt.Fprintln(w, "Every key is served, and every range has its copies.")
	}
}
