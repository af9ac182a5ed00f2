package raftnet

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/wire"
)

// Wire format of a stream, after the handshake (all integers little endian):
//
//	length u32   bytes that follow the crc: 16 + payload, bounded by MaxPayload+16
//	crc    u32   CRC-32C of what follows
//	kind   u8    request, response, error, notify, cancel, ping, pong
//	flags  u8    bit 0: the answer may wait to share a write
//	method u16
//	id     u64   of the request; 0 for notify, ping, pong
//	aux    u32   request: milliseconds left to the deadline, 0 for none; error: code
//	payload
//
// The handshake carries the protocol version; a later version may change all of this.
const (
	frameHead     = 8
	frameFixed    = 16
	maxFrame      = MaxPayload + frameFixed
	flagLazy      = 1
	kindRequest   = 1
	kindResponse  = 2
	kindError     = 3
	kindNotify    = 4
	kindCancel    = 5
	kindPing      = 6
	kindPong      = 7
	protocolV1    = 1
	handshakeMax  = 4 << 10
	handshakeVers = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type frame struct {
	kind, flags uint8
	method      Method
	id          uint64
	aux         uint32
	payload     []byte
}

// appendFrame adds the encoded frame to b.
func appendFrame(b []byte, f *frame) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, f.kind, f.flags)
	b = binary.LittleEndian.AppendUint16(b, uint16(f.method))
	b = binary.LittleEndian.AppendUint64(b, f.id)
	b = binary.LittleEndian.AppendUint32(b, f.aux)
	b = append(b, f.payload...)
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-frameHead))
	binary.LittleEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+frameHead:], castagnoli))
	return b
}

// readFrame reads one frame. The payload is freshly allocated.
func readFrame(r *bufio.Reader, f *frame) error {
	head, err := r.Peek(frameHead)
	if err != nil {
		return err
	}
	n := int(binary.LittleEndian.Uint32(head))
	sum := binary.LittleEndian.Uint32(head[4:])
	if n < frameFixed || n > maxFrame {
		return fmt.Errorf("raftnet: a frame of %d bytes is outside [%d, %d]; the stream is corrupt or not Atoll's", n, frameFixed, maxFrame)
	}
	if _, err := r.Discard(frameHead); err != nil {
		return err
	}
	b, err := readBounded(r, n)
	if err != nil {
		return err
	}
	if got := crc32.Checksum(b, castagnoli); got != sum {
		return fmt.Errorf("raftnet: a frame of %d bytes has checksum %08x, its header says %08x; the connection is closed", n, got, sum)
	}
	f.kind, f.flags = b[0], b[1]
	f.method = Method(binary.LittleEndian.Uint16(b[2:]))
	f.id = binary.LittleEndian.Uint64(b[4:])
	f.aux = binary.LittleEndian.Uint32(b[12:])
	f.payload = b[frameFixed:]
	return nil
}

// readBounded reads n bytes and allocates no more than has really arrived, so that a
// forged length costs nothing.
func readBounded(r io.Reader, n int) ([]byte, error) {
	const step = 1 << 20
	if n <= step {
		b := make([]byte, n)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	b := make([]byte, 0, step)
	for len(b) < n {
		k := min(n-len(b), max(step, len(b)))
		b = append(b, make([]byte, k)...)
		if _, err := io.ReadFull(r, b[len(b)-k:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// hello is what both sides of a new connection say first. A server that refuses sets
// reject.
type hello struct {
	minProto, maxProto uint64
	id                 Identity
	nonce              uint64 // differs between two processes with the same boot counter
	class              Class
	target             keys.NodeID // whom the client means to reach, 0 for anybody
	anonymous          bool
	reject             uint64
	message            string
	seenBoot           uint64 // highest boot counter of the client that the server has seen
}

const (
	rejectVersion   = 1
	rejectCluster   = 2
	rejectTarget    = 3
	rejectStaleBoot = 4
	rejectBusy      = 5
	rejectInvalid   = 6
	rejectLost      = 7 // given up for good (S18)
)

var handshakeMagic = [4]byte{'A', 'T', 'O', 'L'}

func appendHello(b []byte, h *hello) []byte {
	u := func(n wire.Number, v uint64) { b = wire.AppendUint(b, n, v) }
	s := func(n wire.Number, v string) { b = wire.AppendString(b, n, v) }
	u(1, h.minProto)
	u(2, h.maxProto)
	s(3, h.id.ClusterID)
	u(4, uint64(h.id.Node))
	u(5, h.id.Boot)
	u(6, h.nonce)
	u(7, uint64(h.class))
	u(8, uint64(h.target))
	if h.anonymous {
		u(9, 1)
	}
	u(10, h.reject)
	s(11, h.message)
	u(12, h.seenBoot)
	return b
}

func decodeHello(b []byte) (hello, error) {
	var h hello
	err := eachField(b, func(n wire.Number, v uint64, s []byte) error {
		switch n {
		case 1:
			h.minProto = v
		case 2:
			h.maxProto = v
		case 3:
			h.id.ClusterID = string(s)
		case 4:
			h.id.Node = keys.NodeID(v)
		case 5:
			h.id.Boot = v
		case 6:
			h.nonce = v
		case 7:
			h.class = Class(v)
		case 8:
			h.target = keys.NodeID(v)
		case 9:
			h.anonymous = v != 0
		case 10:
			h.reject = v
		case 11:
			h.message = string(s)
		case 12:
			h.seenBoot = v
		}
		return nil
	})
	return h, err
}

// eachField calls f for every varint and bytes field of a protobuf message; fields of
// other types are skipped.
func eachField(b []byte, f func(n wire.Number, v uint64, s []byte) error) error {
	return wire.Fields(b, errDamaged, f)
}

var errDamaged = errors.New("raftnet: message is damaged")

// writeHello sends magic, handshake version, length, CRC and body.
func writeHello(w io.Writer, h *hello) error {
	body := appendHello(nil, h)
	b := append(handshakeMagic[:len(handshakeMagic):len(handshakeMagic)], handshakeVers)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
	_, err := w.Write(append(b, body...))
	return err
}

func readHello(r io.Reader) (hello, error) {
	var head [13]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return hello{}, err
	}
	if [4]byte(head[:4]) != handshakeMagic || head[4] != handshakeVers {
		return hello{}, fmt.Errorf("raftnet: the other side starts with %q, which is no Atoll node (or one with and one without TLS, or another handshake version)", head[:5])
	}
	n := binary.LittleEndian.Uint32(head[5:])
	if n > handshakeMax {
		return hello{}, fmt.Errorf("raftnet: a handshake of %d bytes exceeds the limit of %d", n, handshakeMax)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return hello{}, err
	}
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[9:]) {
		return hello{}, fmt.Errorf("raftnet: the handshake's checksum is wrong")
	}
	return decodeHello(body)
}
