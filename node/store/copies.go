package store

import (
	"time"

	"github.com/atolldb/atoll/node/keys"
)

// Copy is a replica's data on its way from this node to another one.
type Copy struct {
	Range keys.RangeID
	To    keys.NodeID
	Since time.Time
	Sent  int64 // bytes
	// Total is about how many bytes it will be: what the range takes on disk here. Data that
	// compresses well is more on its way; then Total grows with Sent.
	Total int64
}

// Copies returns the copies that this node is sending, the oldest first.
func (s *Store) Copies() []Copy {
	var out []Copy
	for _, t := range s.snapshot.Transfers() {
		c := Copy{Range: t.Range, To: t.To, Since: t.Since, Sent: t.Sent}
		if r := s.get(t.Range); r != nil && !t.Witness {
			c.Total = r.size.Load()
		}
		c.Total = max(c.Total, c.Sent)
		out = append(out, c)
	}
	return out
}

// Left is about how long the copy will still take, at the rate that it has had; 0: unknown.
func (c *Copy) Left(now time.Time) time.Duration {
	took := now.Sub(c.Since)
	if c.Sent <= 0 || took <= 0 {
		return 0
	}
	return time.Duration(float64(took) * float64(c.Total-c.Sent) / float64(c.Sent))
}
