package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
)

// Lengths of an engine key's suffix, its last byte included. The last byte is the length.
const (
	suffixLenWall    = 9
	suffixLenLogical = 13
	// maxSuffixLen is the most that EncodeVersion adds to a key.
	maxSuffixLen = 1 + suffixLenLogical
)

// EncodeKey appends the engine key of an unversioned key.
func EncodeKey(dst []byte, key keys.Key) []byte {
	return append(append(dst, key...), 0)
}

// EncodeVersion appends the engine key of key's version at ts. The zero timestamp gives
// the unversioned key.
func EncodeVersion(dst []byte, key keys.Key, ts hlc.Timestamp) []byte {
	dst = append(append(dst, key...), 0)
	return appendSuffix(dst, ts)
}

func appendSuffix(dst []byte, ts hlc.Timestamp) []byte {
	switch {
	case ts.Logical != 0:
		dst = binary.BigEndian.AppendUint64(dst, uint64(ts.WallNanos))
		dst = binary.BigEndian.AppendUint32(dst, uint32(ts.Logical))
		return append(dst, suffixLenLogical)
	case ts.WallNanos != 0:
		dst = binary.BigEndian.AppendUint64(dst, uint64(ts.WallNanos))
		return append(dst, suffixLenWall)
	}
	return dst
}

// encodedLen is the length of EncodeVersion's result.
func encodedLen(key keys.Key, ts hlc.Timestamp) int {
	switch {
	case ts.Logical != 0:
		return len(key) + 1 + suffixLenLogical
	case ts.WallNanos != 0:
		return len(key) + 1 + suffixLenWall
	}
	return len(key) + 1
}

// DecodeKey splits an engine key. The timestamp is zero for an unversioned key. The
// returned key shares memory with b.
func DecodeKey(b []byte) (keys.Key, hlc.Timestamp, error) {
	if len(b) == 0 {
		return nil, hlc.Timestamp{}, fmt.Errorf("storage: an engine key is empty")
	}
	n := int(b[len(b)-1])
	end := len(b) - 1 - n // of the user key: the sentinel's position
	if end < 0 || b[end] != 0 {
		return nil, hlc.Timestamp{}, badKey(b)
	}
	var ts hlc.Timestamp
	switch n {
	case 0:
	case suffixLenWall:
		ts.WallNanos = int64(binary.BigEndian.Uint64(b[end+1:]))
		if ts.WallNanos <= 0 {
			return nil, hlc.Timestamp{}, badKey(b)
		}
	case suffixLenLogical:
		ts.WallNanos = int64(binary.BigEndian.Uint64(b[end+1:]))
		ts.Logical = int32(binary.BigEndian.Uint32(b[end+9:]))
		if ts.WallNanos < 0 || ts.Logical <= 0 {
			return nil, hlc.Timestamp{}, badKey(b)
		}
	default:
		return nil, hlc.Timestamp{}, badKey(b)
	}
	return keys.Key(b[:end:end]), ts, nil
}

func badKey(b []byte) error {
	return fmt.Errorf("storage: engine key %x is malformed: want <key> 0x00 [<wall:8> [<logical:4>] <length>]", b)
}

// CompareEngineKeys orders engine keys as the state engine does.
func CompareEngineKeys(a, b []byte) int { return stateComparer.Compare(a, b) }

// samePrefix reports whether two engine keys are of the same user key.
func samePrefix(a, b []byte) bool {
	return bytes.Equal(a[:stateComparer.Split(a)], b[:stateComparer.Split(b)])
}

// keyBuf is a pooled buffer for keys that only live during one call.
type keyBuf struct{ b []byte }

var keyBufs = sync.Pool{New: func() any { return &keyBuf{b: make([]byte, 0, 128)} }}

func (k *keyBuf) release() {
	if cap(k.b) <= 4<<10 {
		keyBufs.Put(k)
	}
}
