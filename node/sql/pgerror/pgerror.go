// Package pgerror is the error that a SQL client sees: PostgreSQL's fields.
package pgerror

import "fmt"

// Error carries the fields of an ErrorResponse. Package pgwire maps every other error
// to one (sqlstate.go there is the only place that does).
type Error struct {
	Severity   string // empty means ERROR
	Code       string // SQLSTATE, from package pgerrcode
	Message    string
	Detail     string
	Hint       string
	Position   int // 1-based character index into the statement's text; 0: none
	Schema     string
	Table      string
	Column     string
	DataType   string
	Constraint string
	cause      error
}

// New returns an error with a SQLSTATE.
func New(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns an error that keeps its cause for errors.Is and errors.As.
func Wrap(cause error, code, format string, args ...any) *Error {
	e := New(code, format, args...)
	e.cause = cause
	return e
}

// WithDetail, WithHint and At set a field and return e.
func (e *Error) WithDetail(format string, args ...any) *Error {
	e.Detail = fmt.Sprintf(format, args...)
	return e
}

// WithHint sets the hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// At sets the position: a 1-based character index.
func (e *Error) At(position int) *Error {
	e.Position = position
	return e
}

func (e *Error) Error() string { return fmt.Sprintf("%s (SQLSTATE %s)", e.Message, e.Code) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }
