package kv

func (m *EndTxnRequest) encode(e *encoder) {
	e.bool(1, m.Commit)
	e.bool(2, m.CanCommitInOnePhase)
	e.bool(3, m.AllReadsHere)
	e.spans(4, m.ReadSpans)
	for i := range m.InFlight {
		e.msg(5, &m.InFlight[i])
	}
	e.spans(6, m.LockSpans)
	e.ts(7, m.Deadline)
	e.bool(8, m.NoRecord)
}

func (m *EndTxnRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Commit = d.bool()
		case 2:
			m.CanCommitInOnePhase = d.bool()
		case 3:
			m.AllReadsHere = d.bool()
		case 4:
			d.spans(&m.ReadSpans)
		case 5:
			elem(d, &m.InFlight)
		case 6:
			d.spans(&m.LockSpans)
		case 7:
			m.Deadline = d.ts()
		case 8:
			m.NoRecord = d.bool()
		}
	}
}

func (m *EndTxnResponse) encode(e *encoder) {
	e.bool(1, m.OnePhase)
	e.bool(2, m.Staging)
	e.ts(3, m.CommitTimestamp)
}

func (m *EndTxnResponse) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.OnePhase = d.bool()
		case 2:
			m.Staging = d.bool()
		case 3:
			m.CommitTimestamp = d.ts()
		}
	}
}

func (m *HeartbeatTxnRequest) encode(e *encoder) { e.bytes(1, m.Key) }

func (m *HeartbeatTxnRequest) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			m.Key = d.bytes()
		}
	}
}

func (*HeartbeatTxnResponse) encode(*encoder)   {}
func (*HeartbeatTxnResponse) decode(d *decoder) { d.skip() }

func (m *PushTxnRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	if m.Pusher != nil {
		e.msg(2, m.Pusher)
	}
	e.msg(3, &m.Pushee)
	e.uint(4, uint64(m.Kind))
	e.ts(5, m.PushTo)
	e.bool(6, m.Force)
	e.bool(7, m.WaitOnly)
}

func (m *PushTxnRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.Pusher = new(Txn)
			d.msg(m.Pusher)
		case 3:
			d.msg(&m.Pushee)
		case 4:
			m.Kind = PushKind(d.enum(uint8(PushTouch)))
		case 5:
			m.PushTo = d.ts()
		case 6:
			m.Force = d.bool()
		case 7:
			m.WaitOnly = d.bool()
		}
	}
}

func (m *PushTxnResponse) encode(e *encoder) { e.msg(1, &m.Pushee) }

func (m *PushTxnResponse) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			d.msg(&m.Pushee)
		}
	}
}

func (m *QueryTxnRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.id(2, m.ID)
	e.bool(3, m.WaitForUpdate)
	for _, id := range m.KnownWaiters {
		e.bytes(4, id[:])
	}
}

func (m *QueryTxnRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			m.ID = d.id()
		case 3:
			m.WaitForUpdate = d.bool()
		case 4:
			if d.room(len(m.KnownWaiters)) {
				m.KnownWaiters = append(m.KnownWaiters, d.id())
			}
		}
	}
}

func (m *QueryTxnResponse) encode(e *encoder) {
	if m.Txn != nil {
		e.msg(1, m.Txn)
	}
	for _, id := range m.Waiters {
		e.bytes(2, id[:])
	}
	for i := range m.Waiting {
		e.msg(3, &m.Waiting[i])
	}
}

func (m *QueryTxnResponse) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Txn = new(Txn)
			d.msg(m.Txn)
		case 2:
			if d.room(len(m.Waiters)) {
				m.Waiters = append(m.Waiters, d.id())
			}
		case 3:
			elem(d, &m.Waiting)
		}
	}
}

func (m *QueryIntentRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.msg(2, &m.Txn)
}

func (m *QueryIntentRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			d.msg(&m.Txn)
		}
	}
}

func (m *QueryIntentResponse) encode(e *encoder) { e.bool(1, m.Found) }

func (m *QueryIntentResponse) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			m.Found = d.bool()
		}
	}
}

func (m *RecoverTxnRequest) encode(e *encoder) {
	e.bytes(1, m.Key)
	e.msg(2, &m.Txn)
	e.bool(3, m.AllWritten)
	e.bool(4, m.Reopen)
}

func (m *RecoverTxnRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Key = d.bytes()
		case 2:
			d.msg(&m.Txn)
		case 3:
			m.AllWritten = d.bool()
		case 4:
			m.Reopen = d.bool()
		}
	}
}

func (m *RecoverTxnResponse) encode(e *encoder) { e.msg(1, &m.Txn) }

func (m *RecoverTxnResponse) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			d.msg(&m.Txn)
		}
	}
}

func (m *ResolveIntentRequest) encode(e *encoder) {
	e.span(1, m.Span)
	e.msg(2, &m.Txn)
	e.uint(3, uint64(m.Status))
	for i := range m.IgnoredSeqs {
		e.msg(4, &m.IgnoredSeqs[i])
	}
}

func (m *ResolveIntentRequest) decode(d *decoder) {
	for d.next() {
		switch d.num {
		case 1:
			m.Span = d.span()
		case 2:
			d.msg(&m.Txn)
		case 3:
			m.Status = TxnStatus(d.enum(uint8(TxnAborted)))
		case 4:
			elem(d, &m.IgnoredSeqs)
		}
	}
}

func (m *ResolveIntentResponse) encode(e *encoder) { e.int(1, m.Resolved) }

func (m *ResolveIntentResponse) decode(d *decoder) {
	for d.next() {
		if d.num == 1 {
			m.Resolved = d.int()
		}
	}
}
