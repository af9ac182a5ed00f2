package dist

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
)

// lookupTimeout bounds one read of the meta range; who waits for it tries again within
// its own limit.
const lookupTimeout = 5 * time.Second

// lookups makes concurrent lookups of one key share one read.
type lookups struct {
	mu      sync.Mutex
	running map[string]*lookup
}

type lookup struct {
	done chan struct{}
	err  error
}

func (l *lookups) init() { l.running = make(map[string]*lookup) }

// rangeOf returns the range that holds the address k, from the cache or from meta.
func (d *DistSender) rangeOf(ctx context.Context, k keys.Key, st *state) (*entry, error) {
	for {
		if e := d.cache.get(k); e != nil {
			return e, nil
		}
		if st.past && !st.local && d.cfg.LocalRange != nil {
			if desc, ok := d.cfg.LocalRange(k); ok {
				st.local = true
				return &entry{desc: desc}, nil // not kept: others should look it up
			}
		}
		if k.Less(keys.MetaMax) {
			if desc, ok := d.cfg.MetaSeed(); ok && desc.Contains(k) {
				if e := d.cache.insert(desc, 0); e != nil && e.desc.Contains(k) {
					return e, nil
				}
			}
			st.lastErr = fmt.Errorf("this node does not know where the meta range is")
		} else if err := d.lookupOnce(ctx, k); err != nil {
			st.lastErr = fmt.Errorf("lookup of the range that holds %s: %w", k, err)
			st.local = false
		} else if d.cache.get(k) != nil {
			continue
		} else {
			st.lastErr = fmt.Errorf("no range holds %s", k)
		}
		if st.rangeID == 0 {
			st.rangeID = keys.MetaRangeID
		}
		if err := d.pause(ctx, st, 0); err != nil {
			return nil, err
		}
	}
}

// lookupOnce reads k's descriptor from meta, or waits for who does already.
func (d *DistSender) lookupOnce(ctx context.Context, k keys.Key) error {
	d.lookups.mu.Lock()
	l := d.lookups.running[string(k)]
	if l == nil {
		l = &lookup{done: make(chan struct{})}
		d.lookups.running[string(k)] = l
		// The read outlives the caller that began it: others wait for it as well.
		go d.lookup(context.WithoutCancel(ctx), k, l)
	}
	d.lookups.mu.Unlock()
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *DistSender) lookup(ctx context.Context, k keys.Key, l *lookup) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	l.err = d.readMeta(ctx, k)
	d.lookups.mu.Lock()
	delete(d.lookups.running, string(k))
	d.lookups.mu.Unlock()
	close(l.done)
}

// readMeta fills the cache with the range that ends first after k, and a few that follow.
func (d *DistSender) readMeta(ctx context.Context, k keys.Key) error {
	d.metrics.lookups.Inc()
	ba := &kv.BatchRequest{
		Requests: []kv.Request{&kv.ScanRequest{
			Span:    keys.Span{Key: keys.Meta(k).Next(), EndKey: keys.MetaMax},
			MaxKeys: lookupPrefetch,
		}},
	}
	br, err := d.Send(ctx, ba)
	if err != nil {
		return err
	}
	resp, ok := br.Responses[0].(*kv.ScanResponse)
	if !ok {
		return fmt.Errorf("meta answered a scan with %T", br.Responses[0])
	}
	for _, row := range resp.Rows {
		desc, err := kv.DecodeRangeDescriptor(row.Value)
		if err != nil {
			return fmt.Errorf("meta record %s: %w", row.Key, err)
		}
		d.cache.insertFor(desc, k)
	}
	return nil
}
