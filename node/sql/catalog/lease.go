package catalog

import (
	"encoding/binary"
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// How schema versions are kept apart (SAFETY S27)
//
// Every node has one lease record: "until Expiry I use, of every descriptor, only the
// version that was current at Seen or a newer one, and besides that the older versions in
// Held, which transactions under way still use". The node extends the record while it lives.
//
//   - A transaction that used a descriptor through the cache commits below Expiry, checked
//     where it commits (Collection.BeforeCommit sets the deadline).
//   - Whoever publishes version v+1 first waits (Manager.waitForVersion) until every record
//     that has not expired has Seen at or after v's commit and holds nothing older. From then on v is
//     the oldest version in use, since a node that registers later reads v or newer; nobody else can publish v+1 meanwhile,
//     because the write of v+1 is conditional on v. So at most v and v+1 are ever in use.
//   - A record is extended only by a transaction whose own deadline is the old Expiry: once
//     somebody has read the record at a timestamp past Expiry, it can't come back. The node
//     then registers a new session with an empty cache; pins of the old one can't commit.
//   - Every commit that changes descriptors raises one generation counter and logs what
//     changed. Nodes read that counter often.
type leaseRecord struct {
	Node    keys.NodeID
	Session uint64
	Expiry  hlc.Timestamp
	Seen    hlc.Timestamp
	Held    []held
}

// held is a descriptor version that a transaction still uses.
type held struct {
	ID      ID
	Version uint64
}

func leaseKey(node keys.NodeID, session uint64) keys.Key {
	k := binary.BigEndian.AppendUint32(keys.TablePrefix(leaseTable), uint32(node))
	return binary.BigEndian.AppendUint64(k, session)
}

func leaseSpan() keys.Span {
	p := keys.TablePrefix(leaseTable)
	return keys.Span{Key: p, EndKey: p.PrefixEnd()}
}

func nodeLeaseSpan(node keys.NodeID) keys.Span {
	p := keys.Key(binary.BigEndian.AppendUint32(keys.TablePrefix(leaseTable), uint32(node)))
	return keys.Span{Key: p, EndKey: p.PrefixEnd()}
}

func (r *leaseRecord) encode() []byte {
	e := encoder{b: []byte{formatVersion}}
	e.uint(1, uint64(r.Node))
	e.uint(2, r.Session)
	e.int(3, r.Expiry.WallNanos)
	e.int(4, int64(r.Expiry.Logical))
	e.int(5, r.Seen.WallNanos)
	e.int(6, int64(r.Seen.Logical))
	for _, h := range r.Held {
		e.msg(7, func(e *encoder) {
			e.uint(1, uint64(h.ID))
			e.uint(2, h.Version)
		})
	}
	return e.b
}

func decodeLease(b []byte) (r leaseRecord, err error) {
	if b, err = versioned(b, "schema lease"); err != nil {
		return r, err
	}
	err = fields(b, func(f field) error {
		switch f.num {
		case 1:
			r.Node = keys.NodeID(f.v)
		case 2:
			r.Session = f.v
		case 3:
			r.Expiry.WallNanos = f.int()
		case 4:
			r.Expiry.Logical = int32(f.int())
		case 5:
			r.Seen.WallNanos = f.int()
		case 6:
			r.Seen.Logical = int32(f.int())
		case 7:
			var h held
			err := fields(f.b, func(f field) error {
				switch f.num {
				case 1:
					h.ID = ID(f.v)
				case 2:
					h.Version = f.v
				}
				return nil
			})
			r.Held = append(r.Held, h)
			return err
		}
		return nil
	})
	return r, err
}

// blocks reports whether the record still allows a version older than (id, version), which
// committed at since.
func (r *leaseRecord) blocks(id ID, version uint64, since hlc.Timestamp) bool {
	if r.Seen.Less(since) {
		return true
	}
	for _, h := range r.Held {
		if h.ID == id && h.Version < version {
			return true
		}
	}
	return false
}

func (r *leaseRecord) String() string {
	return fmt.Sprintf("node %d session %x until %s seen %s held %v", r.Node, r.Session, r.Expiry, r.Seen, r.Held)
}
