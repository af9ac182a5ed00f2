package eval

// Pushdown compiles the filters and projections that scans carry, so that rows that nobody
// asked for never leave the range. Package exec implements it; this package does not know
// the format.
type Pushdown interface {
	// Compile parses a ScanRequest's Pushdown. An error is answered as invalid request.
	Compile(spec []byte) (RowFilter, error)
}

// RowFilter sees the rows of one scan in order. It is used by one goroutine.
type RowFilter interface {
	// Next decides on one row. out replaces the value of a kept row; nil keeps it as stored.
	// key and value must not be kept or changed; out must stay valid.
	Next(key, value []byte) (keep bool, out []byte, err error)
}
