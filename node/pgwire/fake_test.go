package pgwire

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
	"github.com/atolldb/atoll/node/sql/types"
)

// fakeEngine understands a few words: it tests the protocol, not SQL.
//
//	rows N        N rows (int8, text)
//	arg           one row: the int8 parameter $1
//	last          one row: whether Sync was announced to follow
//	fail          a syntax error at character 3
//	wait          blocks until it is canceled
//	begin, commit
//	failcommit    its commit fails
//	copyin, copyout
type fakeEngine struct{ closed atomic.Int32 }

func (e *fakeEngine) Connect(_ context.Context, p ConnectParams) (Session, error) {
	if p.Database == "missing" {
		return nil, fatal(pgerrcode.InvalidCatalogName, "database %q does not exist", p.Database)
	}
	p.Notify.ParameterStatus("server_version", "15.0")
	return &fakeSession{e: e, notify: p.Notify, canceled: make(chan struct{}, 1)}, nil
}

type fakeSession struct {
	e        *fakeEngine
	notify   Notifier
	txn      TxnStatus
	fail     bool
	canceled chan struct{}
}

type fakeStatement string

func (f fakeStatement) Text() string { return string(f) }

func (s *fakeSession) Parse(q string) ([]Statement, error) {
	var out []Statement
	for _, p := range strings.Split(q, ";") {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, fakeStatement(p))
		}
	}
	return out, nil
}

func (s *fakeSession) Prepare(_ context.Context, st Statement, _ []types.OID) (Prepared, error) {
	switch text := st.Text(); {
	case text == "fail":
		return nil, pgerror.New(pgerrcode.SyntaxError, "syntax error").At(3).WithHint("hint").WithDetail("detail")
	default:
		return &fakePrepared{s: s, text: text}, nil
	}
}

func (s *fakeSession) Sync(context.Context, bool) error {
	if s.fail {
		s.fail = false
		return pgerror.New(pgerrcode.SerializationFailure, "commit failed")
	}
	return nil
}

func (s *fakeSession) State() State {
	if s.txn == 0 {
		return State{Txn: Idle}
	}
	return State{Txn: s.txn}
}

func (s *fakeSession) Cancel() {
	select {
	case s.canceled <- struct{}{}:
	default:
	}
}
func (s *fakeSession) Close() { s.e.closed.Add(1) }

type fakePrepared struct {
	s    *fakeSession
	text string
}

func (p *fakePrepared) ParamTypes() []types.OID {
	if p.text == "arg" {
		return []types.OID{types.OIDInt8}
	}
	return nil
}

func (p *fakePrepared) Columns() []Column {
	switch {
	case strings.HasPrefix(p.text, "rows"):
		return []Column{{Name: "n", Type: types.OIDInt8, TypeLen: 8, TypeMod: -1}, {Name: "t", Type: types.OIDText, TypeLen: -1, TypeMod: -1}}
	case p.text == "arg":
		return []Column{{Name: "n", Type: types.OIDInt8, TypeLen: 8, TypeMod: -1}}
	case p.text == "last":
		return []Column{{Name: "last", Type: types.OIDBool, TypeLen: 1, TypeMod: -1}}
	}
	return nil
}

func (p *fakePrepared) Bind(_ context.Context, args []types.Datum) (Portal, error) {
	return &fakePortal{fakePrepared: p, args: args}, nil
}
func (p *fakePrepared) Close() {}

type fakePortal struct {
	*fakePrepared
	args []types.Datum
	next int64
}

func (p *fakePortal) CopyDirection() CopyDirection {
	switch p.text {
	case "copyin":
		return CopyFromClient
	case "copyout":
		return CopyToClient
	}
	return NoCopy
}

func (p *fakePortal) Run(_ context.Context, out RowWriter, maxRows int64, last bool) (bool, string, error) {
	switch {
	case strings.HasPrefix(p.text, "rows"):
		var n, sent int64
		_, _ = fmt.Sscanf(p.text, "rows %d", &n)
		for p.next < n && (maxRows == 0 || sent < maxRows) {
			if err := out.WriteRow([]types.Datum{types.NewInt(p.next), types.NewString(fmt.Sprint("row ", p.next))}); err != nil {
				return false, "", err
			}
			p.next++
			sent++
		}
		return p.next < n, fmt.Sprintf("SELECT %d", sent), nil
	case p.text == "arg":
		return false, "SELECT 1", out.WriteRow(p.args)
	case p.text == "last":
		return false, "SELECT 1", out.WriteRow([]types.Datum{types.NewBool(last)})
	case p.text == "wait":
		<-p.s.canceled
		return false, "", context.Canceled
	case p.text == "begin":
		p.s.txn = InTxn
		return false, "BEGIN", nil
	case p.text == "commit":
		p.s.txn = 0
		return false, "COMMIT", nil
	case p.text == "failcommit":
		p.s.fail = true
		return false, "INSERT 0 1", nil
	case p.text == "notice":
		p.s.notify.Notice(&Notice{Severity: "NOTICE", Code: "00000", Message: "hello"})
		return false, "NOTICE", nil
	}
	return false, "", pgerror.New(pgerrcode.UndefinedFunction, "what is %q", p.text)
}

func (p *fakePortal) CopyIn(_ context.Context, data CopyReader) (string, error) {
	n := 0
	for {
		b, err := data.ReadCopyData()
		if err == io.EOF {
			return fmt.Sprintf("COPY %d", n), nil
		}
		if err != nil {
			return "", err
		}
		if strings.Contains(string(b), "bad") {
			return "", pgerror.New(pgerrcode.BadCopyFileFormat, "bad data")
		}
		n += strings.Count(string(b), "\n")
	}
}

func (p *fakePortal) CopyOut(_ context.Context, out CopyWriter) (string, error) {
	if err := out.Begin(1, false); err != nil {
		return "", err
	}
	return "COPY 2", out.WriteCopyData([]byte("a\nb\n"))
}
