package kv

import "github.com/atolldb/atoll/node/keys"

func (m *AdminMergeRequest) encode(e *encoder) { e.bytes(1, m.Key) }

func (m *AdminMergeRequest) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			m.Key = d.bytes()
		}
	}
}

func (m *AdminMergeResponse) encode(e *encoder) { e.msg(1, &m.Desc) }

func (m *AdminMergeResponse) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			d.msg(&m.Desc)
		}
	}
}

func (m *AbandonMergeRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.int(2, int64(m.Left))
	e.int(3, m.LeftGeneration)
	e.bytes(4, m.RightStart)
}

func (m *AbandonMergeRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Left = keys.RangeID(d.int())
		case 3:
			m.LeftGeneration = d.int()
		case 4:
			m.RightStart = d.bytes()
		}
	}
}

func (m *AbandonMergeResponse) encode(e *encoder) { e.bool(1, m.Merged) }

func (m *AbandonMergeResponse) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			m.Merged = d.bool()
		}
	}
}
