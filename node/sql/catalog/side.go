package catalog

import (
	"context"

	"github.com/atolldb/atoll/node/keys"
)

var bootstrapKey = append(keys.TablePrefix(bootstrapTable), "done"...)

// Comments and statistics lie beside the descriptors: changing them changes no version.

// PutComment sets a comment, or removes it when its text is empty.
func PutComment(ctx context.Context, t Txn, c Comment) error {
	k := commentKey(c.ClassOID, c.Object, c.Sub)
	if c.Text == "" {
		return t.Delete(ctx, k, blind)
	}
	return t.Put(ctx, k, append([]byte{formatVersion}, c.Text...), blind)
}

// GetComment returns the comment on an object; empty for none.
func GetComment(ctx context.Context, t Txn, class, object uint32, sub int32) (string, error) {
	k := commentKey(class, object, sub)
	r, err := t.Get(ctx, k, false)
	if err != nil || !r.Exists {
		return "", err
	}
	c, err := decodeComment(k, r.Value)
	return c.Text, err
}

// Comments returns all comments.
func Comments(ctx context.Context, t Txn) ([]Comment, error) {
	p := keys.TablePrefix(commentTable)
	rows, err := t.Scan(ctx, keys.Span{Key: p, EndKey: p.PrefixEnd()}, 0)
	if err != nil {
		return nil, err
	}
	out := make([]Comment, 0, len(rows))
	for _, r := range rows {
		c, err := decodeComment(r.Key, r.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// DropComments removes all comments on an object and its parts.
func DropComments(ctx context.Context, t Txn, class, object uint32) error {
	rows, err := t.Scan(ctx, commentSpan(class, object), 0)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err := t.Delete(ctx, r.Key, blind); err != nil {
			return err
		}
	}
	return nil
}

// PutStatistics stores what ANALYZE found out about a table.
func (c *Collection) PutStatistics(ctx context.Context, table ID, s *Statistics) error {
	s.At = c.m.cfg.DB.Now()
	if err := c.t.Put(ctx, statisticsKey(table), s.encode(), blind); err != nil {
		return err
	}
	c.m.mu.Lock()
	delete(c.m.stats, table)
	c.m.mu.Unlock()
	return nil
}

// Statistics returns what is known of a table, or nil. It may be old: the node keeps what
// it read until the table changes.
func (c *Collection) Statistics(ctx context.Context, table ID) (*Statistics, error) {
	c.m.mu.Lock()
	s, ok := c.m.stats[table]
	c.m.mu.Unlock()
	if ok {
		return s, nil
	}
	// Outside the transaction: statistics are no reason to restart it.
	err := c.m.cfg.DB.Run(ctx, "table statistics", func(ctx context.Context, t Txn) error {
		r, err := t.Get(ctx, statisticsKey(table), false)
		if err != nil || !r.Exists {
			s = nil
			return err
		}
		s, err = decodeStatistics(r.Value)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.m.mu.Lock()
	if len(c.m.stats) >= cacheMax {
		clear(c.m.stats)
	}
	c.m.stats[table] = s
	c.m.mu.Unlock()
	return s, nil
}

// ForgetStatistics makes the node read all statistics again.
func (m *Manager) ForgetStatistics() {
	m.mu.Lock()
	clear(m.stats)
	m.mu.Unlock()
}
