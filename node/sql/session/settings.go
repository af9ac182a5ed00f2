package session

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/atolldb/atoll/node/sql/pgerror"
)

// settingKind says how a setting's value is read and printed.
type settingKind uint8

const (
	kindString settingKind = iota
	kindBool
	kindInt
	kindMillis // a duration; a bare number is milliseconds
	kindEnum
)

// setting is one run-time parameter. Those that are fixed answer SHOW and refuse SET with
// another value; clients ask for many of them and set them to what they are.
type setting struct {
	name     string
	kind     settingKind
	def      string
	min, max int64
	enum     []string
	fixed    bool // only the default is supported
	internal bool // can't be set at all (server_version)
	report   bool // sent as ParameterStatus
	desc     string
}

// settingTable lists every parameter a session knows. A custom one (with a dot) may be set freely.
var settingTable = []setting{
	{name: "application_name", report: true, desc: "Name that the client gave itself."},
	{name: "atoll.max_retries", kind: kindInt, def: "10", max: 1000, desc: "How often a statement is run again inside the server after a conflict."},
	{name: "bytea_output", kind: kindEnum, def: "hex", enum: []string{"hex", "escape"}, desc: "Output format for bytea."},
	{name: "backslash_quote", def: "safe_encoding", fixed: true, desc: "Whether \\' is allowed in string literals."},
	{name: "check_function_bodies", kind: kindBool, def: "on", desc: "Accepted for pg_dump; there are no function bodies."},
	{name: "client_encoding", def: "UTF8", report: true, desc: "The client's encoding: UTF8."},
	{name: "client_min_messages", kind: kindEnum, def: "notice", enum: []string{"debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "notice", "warning", "error"}, desc: "Least severe notice that is sent."},
	{name: "DateStyle", def: "ISO, MDY", report: true, desc: "Display format of dates: ISO."},
	{name: "deadlock_timeout", kind: kindMillis, def: "1000", max: 1 << 31, fixed: true, desc: "Time before a lock wait looks for a deadlock."},
	{name: "default_table_access_method", def: "heap", fixed: true, desc: "Accepted for pg_dump."},
	{name: "default_tablespace", desc: "Accepted for pg_dump; placement is a policy's matter."},
	{name: "default_transaction_deferrable", kind: kindBool, def: "off", desc: "Default deferrable status of new transactions."},
	{name: "default_transaction_isolation", kind: kindEnum, def: "serializable", enum: isolationNames, desc: "Isolation level of new transactions."},
	{name: "default_transaction_read_only", kind: kindBool, def: "off", desc: "Default read-only status of new transactions."},
	{name: "default_transaction_use_follower_reads", kind: kindBool, def: "off",
		desc: "New transactions only read, at a time that the nearest replicas can answer for (AS OF SYSTEM TIME follower_read_timestamp())."},
	{name: "enable_hashjoin", kind: kindBool, def: "on", desc: "Accepted; the planner chooses."},
	{name: "enable_indexscan", kind: kindBool, def: "on", desc: "Accepted; the planner chooses."},
	{name: "enable_nestloop", kind: kindBool, def: "on", desc: "Accepted; the planner chooses."},
	{name: "enable_seqscan", kind: kindBool, def: "on", desc: "Accepted; the planner chooses."},
	{name: "escape_string_warning", kind: kindBool, def: "on", desc: "Accepted."},
	{name: "extra_float_digits", kind: kindInt, def: "1", min: -15, max: 3, desc: "Digits shown for floating-point values."},
	{name: "geqo", kind: kindBool, def: "on", desc: "Accepted."},
	{name: "idle_in_transaction_session_timeout", kind: kindMillis, def: "0", max: 1 << 31, desc: "Longest idle time inside a transaction; 0 is none."},
	{name: "idle_session_timeout", kind: kindMillis, def: "0", max: 1 << 31, desc: "Longest idle time outside a transaction; 0 is none."},
	{name: "in_hot_standby", kind: kindBool, def: "off", internal: true, report: true, desc: "Every node takes writes."},
	{name: "integer_datetimes", kind: kindBool, def: "on", internal: true, report: true, desc: "Timestamps are 64-bit integers."},
	{name: "IntervalStyle", kind: kindEnum, def: "postgres", enum: []string{"postgres", "iso_8601"}, report: true, desc: "Display format of intervals."},
	{name: "is_superuser", kind: kindBool, def: "off", internal: true, report: true, desc: "Whether the current user is a superuser."},
	{name: "jit", kind: kindBool, def: "off", desc: "Accepted; there is no JIT compiler."},
	{name: "lc_collate", def: "C", internal: true, desc: "Collation order."},
	{name: "lc_ctype", def: "C.UTF-8", internal: true, desc: "Character classes."},
	{name: "lc_messages", def: "C", desc: "Language of messages."},
	{name: "lc_monetary", def: "C", desc: "Accepted."},
	{name: "lc_numeric", def: "C", desc: "Accepted."},
	{name: "lc_time", def: "C", desc: "Accepted."},
	{name: "lock_timeout", kind: kindMillis, def: "0", max: 1 << 31, desc: "Longest wait for a lock; 0 is none."},
	{name: "maintenance_work_mem", def: "64MB", desc: "Accepted."},
	{name: "max_connections", kind: kindInt, def: "1000", internal: true, desc: "Connections a node takes."},
	{name: "max_identifier_length", kind: kindInt, def: "63", internal: true, desc: "Bytes in an identifier."},
	{name: "max_index_keys", kind: kindInt, def: "32", internal: true, desc: "Columns in an index key."},
	{name: "max_parallel_workers_per_gather", kind: kindInt, def: "2", max: 1024, desc: "Accepted."},
	{name: "password_encryption", def: "scram-sha-256", fixed: true, desc: "How passwords are stored."},
	{name: "quote_all_identifiers", kind: kindBool, def: "off", desc: "Accepted."},
	{name: "role", def: "none", desc: "Current role."},
	{name: "row_security", kind: kindBool, def: "on", desc: "Accepted; there are no row security policies."},
	{name: "search_path", def: `"$user", public`, desc: "Schemas that unqualified names are looked up in."},
	{name: "seed", def: "0", desc: "Seed of random()."},
	{name: "server_encoding", def: "UTF8", internal: true, report: true, desc: "The database's encoding."},
	{name: "server_version", def: ServerVersion, internal: true, report: true, desc: "PostgreSQL version whose dialect is spoken."},
	{name: "server_version_num", kind: kindInt, def: ServerVersionNum, internal: true, desc: "The same as a number."},
	{name: "session_authorization", report: true, internal: true, desc: "The session's user."},
	{name: "ssl", kind: kindBool, def: "off", internal: true, desc: "Whether the SQL port offers TLS."},
	{name: "standard_conforming_strings", kind: kindBool, def: "on", fixed: true, report: true, desc: "Backslashes are literal in '...'."},
	{name: "statement_timeout", kind: kindMillis, def: "0", max: 1 << 31, desc: "Longest run time of a statement; 0 is none."},
	{name: "synchronize_seqscans", kind: kindBool, def: "on", desc: "Accepted."},
	{name: "synchronous_commit", kind: kindEnum, def: "on", enum: []string{"on", "remote_apply", "remote_write", "local", "off"}, desc: "Accepted: every commit is durable on a quorum."},
	{name: "tcp_keepalives_idle", kind: kindInt, def: "0", max: 1 << 31, desc: "Accepted."},
	{name: "tcp_keepalives_interval", kind: kindInt, def: "0", max: 1 << 31, desc: "Accepted."},
	{name: "TimeZone", def: "UTC", report: true, desc: "Time zone of timestamps with time zone."},
	{name: "timezone_abbreviations", def: "Default", fixed: true, desc: "Accepted."},
	{name: "transaction_deferrable", kind: kindBool, def: "off", desc: "Deferrable status of this transaction."},
	{name: "transaction_isolation", kind: kindEnum, def: "serializable", enum: isolationNames, desc: "Isolation level of this transaction."},
	{name: "transaction_read_only", kind: kindBool, def: "off", desc: "Whether this transaction may write."},
	{name: "work_mem", def: "64MB", desc: "Memory that a query may use for sorting and hashing."},
	{name: "xmloption", def: "content", desc: "Accepted for pg_dump."},
}

// ServerVersion is the PostgreSQL release whose dialect and catalogs Atoll follows.
const (
	ServerVersion    = "15.0"
	ServerVersionNum = "150000"
)

var isolationNames = []string{"serializable", "repeatable read", "read committed", "read uncommitted"}

var settingIndex = func() map[string]*setting {
	m := map[string]*setting{}
	for i := range settingTable {
		m[strings.ToLower(settingTable[i].name)] = &settingTable[i]
	}
	return m
}()

// settings are one session's parameters: what was set over the defaults.
type settings struct {
	defaults map[string]string // set at connect: RESET goes back to them
	values   map[string]string // by lower-case name
}

func newSettings() *settings {
	return &settings{defaults: map[string]string{}, values: map[string]string{}}
}

// clone copies the set values, so that a transaction's end can bring them back.
func (s *settings) clone() map[string]string {
	m := make(map[string]string, len(s.values))
	for k, v := range s.values {
		m[k] = v
	}
	return m
}

// get returns a parameter as SHOW prints it.
func (s *settings) get(name string) (string, bool) {
	key := strings.ToLower(name)
	if v, ok := s.values[key]; ok {
		return display(key, v), true
	}
	if v, ok := s.defaults[key]; ok {
		return display(key, v), true
	}
	if d, ok := settingIndex[key]; ok {
		return display(key, d.def), true
	}
	return "", false
}

// raw returns the stored value: milliseconds for durations.
func (s *settings) raw(name string) string {
	key := strings.ToLower(name)
	if v, ok := s.values[key]; ok {
		return v
	}
	if v, ok := s.defaults[key]; ok {
		return v
	}
	if d, ok := settingIndex[key]; ok {
		return d.def
	}
	return ""
}

func (s *settings) duration(name string) time.Duration {
	ms, _ := strconv.ParseInt(s.raw(name), 10, 64)
	return time.Duration(ms) * time.Millisecond
}

func (s *settings) integer(name string) int {
	n, _ := strconv.Atoi(s.raw(name))
	return n
}

func (s *settings) bool(name string) bool { return s.raw(name) == "on" }

// normalize checks a value and returns the form that is stored.
func normalize(name, value string) (string, error) {
	d, ok := settingIndex[strings.ToLower(name)]
	if !ok {
		if strings.Contains(name, ".") {
			return value, nil
		}
		return "", unknownSetting(name)
	}
	if d.internal {
		return "", pgerror.New(pgerrcode.CantChangeRuntimeParam, "parameter %q cannot be changed", d.name)
	}
	v, err := d.parse(value)
	if err != nil {
		return "", err
	}
	if d.fixed && !strings.EqualFold(v, d.def) {
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "parameter %q cannot be set to %q: only %q is supported", d.name, value, d.def)
	}
	return v, nil
}

func unknownSetting(name string) error {
	return pgerror.New(pgerrcode.UndefinedObject, "unrecognized configuration parameter %q", name)
}

func (d *setting) parse(value string) (string, error) {
	switch d.kind {
	case kindBool:
		return d.parseBool(value)
	case kindInt:
		return d.parseInt(value)
	case kindMillis:
		return d.parseMillis(value)
	case kindEnum:
		for _, e := range d.enum {
			if strings.EqualFold(e, value) {
				return e, nil
			}
		}
		return "", d.invalid(value).WithHint("Available values: %s.", strings.Join(d.enum, ", "))
	}
	return d.parseString(value)
}

func (d *setting) invalid(value string) *pgerror.Error {
	return pgerror.New(pgerrcode.InvalidParameterValue, "invalid value for parameter %q: %q", d.name, value)
}

func (d *setting) parseBool(value string) (string, error) {
	switch v := strings.ToLower(value); v {
	case "on", "true", "yes", "1", "t", "y", "tru", "tr", "ye":
		return "on", nil
	case "off", "false", "no", "0", "f", "n", "of", "fals", "fal", "fa":
		return "off", nil
	}
	return "", pgerror.New(pgerrcode.InvalidParameterValue, "parameter %q requires a Boolean value", d.name)
}

func (d *setting) parseInt(value string) (string, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	if err != nil {
		return "", d.invalid(value)
	}
	return d.inRange(n)
}

func (d *setting) inRange(n int64) (string, error) {
	if n < d.min || (d.max > 0 && n > d.max) {
		return "", pgerror.New(pgerrcode.InvalidParameterValue, "%d is outside the valid range for parameter %q (%d .. %d)", n, d.name, d.min, d.max)
	}
	return strconv.FormatInt(n, 10), nil
}

// parseMillis reads a number with one of PostgreSQL's time units.
func (d *setting) parseMillis(value string) (string, error) {
	v := strings.TrimSpace(value)
	digits := len(v)
	for i, c := range v {
		if (c < '0' || c > '9') && c != '.' && c != '-' {
			digits = i
			break
		}
	}
	f, err := strconv.ParseFloat(v[:digits], 64)
	if err != nil {
		return "", d.invalid(value)
	}
	unit := map[string]float64{"": 1, "us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
	scale, ok := unit[strings.TrimSpace(v[digits:])]
	if !ok {
		return "", d.invalid(value).WithHint(`Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".`)
	}
	return d.inRange(int64(f*scale + 0.5))
}

func (d *setting) parseString(value string) (string, error) {
	switch d.name {
	case "client_encoding":
		switch strings.ToUpper(strings.NewReplacer("-", "", "_", "").Replace(value)) {
		case "UTF8", "UNICODE":
			return "UTF8", nil
		case "SQLASCII":
			return "SQL_ASCII", nil
		}
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "client_encoding %q is not supported", value).WithHint("Use UTF8.")
	case "DateStyle":
		return parseDateStyle(value)
	case "TimeZone":
		return parseTimeZone(value)
	}
	return value, nil
}

func parseDateStyle(value string) (string, error) {
	order := "MDY"
	for _, part := range strings.Split(value, ",") {
		switch strings.ToUpper(strings.TrimSpace(part)) {
		case "ISO", "", "DEFAULT":
		case "MDY", "US", "NONEURO", "NONEUROPEAN":
			order = "MDY"
		case "DMY", "EURO", "EUROPEAN":
			order = "DMY"
		case "YMD":
			order = "YMD"
		case "SQL", "POSTGRES", "GERMAN":
			return "", pgerror.New(pgerrcode.FeatureNotSupported, "DateStyle %q is not supported", value).WithHint("Use ISO.")
		default:
			return "", pgerror.New(pgerrcode.InvalidParameterValue, "invalid value for parameter %q: %q", "DateStyle", value)
		}
	}
	if order != "MDY" {
		return "", pgerror.New(pgerrcode.FeatureNotSupported, "DateStyle order %q is not supported", order).WithHint("Write dates as yyyy-mm-dd.")
	}
	return "ISO, " + order, nil
}

// parseTimeZone accepts a zone's name, or an offset in hours east of UTC.
func parseTimeZone(value string) (string, error) {
	if _, err := zone(value); err != nil {
		return "", pgerror.New(pgerrcode.InvalidParameterValue, "invalid value for parameter %q: %q", "TimeZone", value)
	}
	if strings.EqualFold(value, "default") || strings.EqualFold(value, "local") {
		return "UTC", nil
	}
	return value, nil
}

// zone returns the location that a TimeZone value means.
func zone(value string) (*time.Location, error) {
	if h, err := strconv.ParseFloat(value, 64); err == nil && h > -24 && h < 24 {
		return time.FixedZone(fmt.Sprintf("<%+03d>%+03d", int(h), -int(h)), int(h*3600)), nil
	}
	switch strings.ToLower(value) {
	case "utc", "gmt", "z", "zulu", "default", "local", "posix/utc", "etc/utc":
		return time.UTC, nil
	}
	return time.LoadLocation(value)
}

// display prints a stored value: durations get the largest unit that fits.
func display(key, stored string) string {
	d, ok := settingIndex[key]
	if !ok || d.kind != kindMillis {
		return stored
	}
	ms, err := strconv.ParseInt(stored, 10, 64)
	if err != nil || ms == 0 {
		return stored
	}
	for _, u := range []struct {
		size int64
		name string
	}{{86_400_000, "d"}, {3_600_000, "h"}, {60_000, "min"}, {1000, "s"}} {
		if ms%u.size == 0 {
			return strconv.FormatInt(ms/u.size, 10) + u.name
		}
	}
	return stored + "ms"
}

// SettingRow is a row of pg_settings and of SHOW ALL.
type SettingRow struct{ Name, Value, Default, Description, Kind string }

// all returns every parameter in order of its name.
func (s *settings) all() []SettingRow {
	rows := make([]SettingRow, 0, len(settingTable)+len(s.values))
	for _, d := range settingTable {
		v, _ := s.get(d.name)
		rows = append(rows, SettingRow{Name: d.name, Value: v, Default: display(strings.ToLower(d.name), d.def), Description: d.desc,
			Kind: [...]string{"string", "bool", "integer", "integer", "enum"}[d.kind]})
	}
	for k, v := range s.values {
		if _, known := settingIndex[k]; !known {
			rows = append(rows, SettingRow{Name: k, Value: v, Description: "", Kind: "string"})
		}
	}
	sort.Slice(rows, func(i, j int) bool { return strings.ToLower(rows[i].Name) < strings.ToLower(rows[j].Name) })
	return rows
}

// searchPath splits search_path into schema names; $user is replaced.
func (s *settings) searchPath(user string) []string {
	var out []string
	for _, p := range splitNames(s.raw("search_path")) {
		if p == "$user" {
			p = user
		}
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

// splitNames splits a list of identifiers: quoted ones keep their case.
func splitNames(list string) []string {
	var out []string
	for i := 0; i < len(list); {
		for i < len(list) && (list[i] == ' ' || list[i] == ',') {
			i++
		}
		if i == len(list) {
			break
		}
		if list[i] == '"' {
			var b strings.Builder
			for i++; i < len(list); i++ {
				if list[i] == '"' {
					if i+1 < len(list) && list[i+1] == '"' {
						i++
					} else {
						break
					}
				}
				b.WriteByte(list[i])
			}
			i++
			out = append(out, b.String())
			continue
		}
		end := strings.IndexByte(list[i:], ',')
		if end < 0 {
			end = len(list) - i
		}
		out = append(out, strings.ToLower(strings.TrimSpace(list[i:i+end])))
		i += end
	}
	return out
}
