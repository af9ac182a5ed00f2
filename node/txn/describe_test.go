package txn

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/atolldb/atoll/node/kv"
)

// describe prints a batch for scenario files.
func describe(ba *kv.BatchRequest, br *kv.BatchResponse, err error) string {
	var b strings.Builder
	for i, req := range ba.Requests {
		if i > 0 {
			b.WriteString(", ")
		}
		s := kv.RequestSpan(req, ba.Txn)
		fmt.Fprintf(&b, "%s(%s", strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", req), "*kv."), "Request"), bytes.Trim(s.Key, "\x00"))
		if !s.IsPoint() {
			fmt.Fprintf(&b, "-%s", s.EndKey)
		}
		switch r := req.(type) {
		case *kv.GetRequest:
			if r.Lock != kv.LockNone {
				b.WriteString(" lock")
			}
		case *kv.PutRequest:
			fmt.Fprintf(&b, "=%s #%d", r.Value, r.Seq)
		case *kv.EndTxnRequest:
			switch {
			case !r.Commit:
				b.WriteString(" abort")
			case r.CanCommitInOnePhase:
				b.WriteString(" 1pc")
				if r.NoRecord {
					b.WriteString(" fresh")
				}
			case len(r.InFlight) > 0:
				fmt.Fprintf(&b, " staging %d", len(r.InFlight))
			default:
				b.WriteString(" commit")
			}
		case *kv.RecoverTxnRequest:
			fmt.Fprintf(&b, " all=%v", r.AllWritten)
		case *kv.ResolveIntentRequest:
			fmt.Fprintf(&b, " %s", [...]string{"pending", "staging", "committed", "aborted"}[r.Status])
		}
		b.WriteString(")")
	}
	if err != nil {
		fmt.Fprintf(&b, " -> %T", err)
	}
	return b.String()
}
