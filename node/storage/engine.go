package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/cockroachkvs"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/prometheus/client_golang/prometheus"
)

// Options say where an engine lives and how much it may use. The zero value of every
// field but Dir has a default.
type Options struct {
	// Dir is the engine's own folder; it is created. Two engines never share one.
	Dir string
	// FS is the disk by default.
	FS FS
	// Small makes the engine fit many to a process (tests, simulation): about 1 MiB.
	Small bool
	// CacheBytes is the block cache (default 128 MiB for state, 8 MiB for the log).
	CacheBytes int64
	// MemTableBytes is the size of one memtable (default 32 MiB); up to 4 of them wait for a flush.
	MemTableBytes int64
	// MaxOpenFiles bounds the open table files (default 1000).
	MaxOpenFiles int
	// OnFatal is called once, when a write or fsync failed (SAFETY S15) or data is found
	// corrupt. It should end the process; if it returns, every later call fails. It must not
	// call the engine (another goroutine may, Close included). Without it the process panics.
	OnFatal func(error)
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
	// Registerer takes the engine's metrics; none are kept if nil.
	Registerer prometheus.Registerer
	// PlantUnsyncedLog is a bug that the simulator plants: StoreLogs returns before its entries
	// are synced (breaks S15). A real node never sets it.
	PlantUnsyncedLog bool
}

func (o Options) withDefaults(kind string) (Options, error) {
	if o.Dir == "" {
		return o, fmt.Errorf("storage: the %s engine has no folder: set Options.Dir", kind)
	}
	if o.FS == nil {
		o.FS = DiskFS()
	}
	if o.CacheBytes == 0 {
		switch {
		case o.Small:
			o.CacheBytes = 256 << 10
		case kind == stateKind:
			o.CacheBytes = 128 << 20
		default:
			o.CacheBytes = 8 << 20
		}
	}
	if o.MemTableBytes == 0 {
		if o.MemTableBytes = 32 << 20; o.Small {
			o.MemTableBytes = 512 << 10
		}
	}
	if o.MaxOpenFiles == 0 {
		if o.MaxOpenFiles = 1000; o.Small {
			o.MaxOpenFiles = 64
		}
	}
	if o.CacheBytes < 0 || o.MemTableBytes < 64<<10 || o.MaxOpenFiles < 16 {
		return o, fmt.Errorf("storage: %s engine: CacheBytes %d (min 0), MemTableBytes %d (min 65536), MaxOpenFiles %d (min 16)",
			kind, o.CacheBytes, o.MemTableBytes, o.MaxOpenFiles)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Logger = o.Logger.With("engine", kind)
	return o, nil
}

const (
	stateKind = "state"
	logKind   = "log"
)

// ErrFatal marks every call on an engine after a failed write or fsync.
var ErrFatal = errors.New("storage engine stopped after a fatal error")

// ErrClosed marks a call on a closed engine.
var ErrClosed = errors.New("storage engine is closed")

// pebbleFormat is the table and manifest format written; older ones are ratcheted at open.
const pebbleFormat = pebble.FormatValueSeparation

var stateComparer = &cockroachkvs.Comparer

// bgCtx is for Pebble calls that take a context but are not bound to a request.
var bgCtx = context.Background()

// engine is what the two engines share: opening, locking, the fatal state, closing.
type engine struct {
	kind string
	opts Options
	db   *pebble.DB
	lock *pebble.Lock

	fatal     atomic.Pointer[error]
	fatalOnce sync.Once
	failed    chan struct{} // closed with fatal

	// mu keeps Close from pulling the database away under a call: Pebble panics there.
	mu        sync.RWMutex
	closed    bool
	collector prometheus.Collector
}

func openEngine(kind string, o Options, configure func(*pebble.Options)) (*engine, error) {
	o, err := o.withDefaults(kind)
	if err != nil {
		return nil, err
	}
	e := &engine{kind: kind, opts: o, failed: make(chan struct{})}
	if err := makeDir(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("storage: creating %s: %w", o.Dir, err)
	}
	e.lock, err = pebble.LockDirectory(o.Dir, o.FS)
	if err != nil {
		return nil, fmt.Errorf("storage: %s: %w by another process (%v); stop it, or use another --store", o.Dir, ErrLocked, err)
	}
	if err := checkFormat(o.FS, o.Dir, kind); err != nil {
		return nil, errors.Join(err, e.lock.Close())
	}
	if err := clearIngestDir(o.FS, o.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("storage: clearing %s: %w", o.Dir, err), e.lock.Close())
	}
	po := e.pebbleOptions()
	configure(po)
	e.db, err = pebble.Open(o.Dir, po)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("storage: opening %s: %w", o.Dir, explain(err)), e.lock.Close())
	}
	if o.Registerer != nil {
		e.collector = newCollector(e)
		if err := o.Registerer.Register(e.collector); err != nil {
			e.collector = nil
			return nil, errors.Join(fmt.Errorf("storage: registering metrics: %w", err), e.close(false))
		}
	}
	return e, nil
}

func (e *engine) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                          e.opts.FS,
		Lock:                        e.lock,
		Logger:                      pebbleLogger{e},
		FormatMajorVersion:          pebbleFormat,
		CacheSize:                   e.opts.CacheBytes,
		MemTableSize:                uint64(e.opts.MemTableBytes),
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                e.opts.MaxOpenFiles,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000,
		LBaseMaxBytes:               64 << 20,
		FlushSplitBytes:             2 << 20,
		EventListener: &pebble.EventListener{
			BackgroundError: e.backgroundError,
			DataCorruption:  func(i pebble.DataCorruptionInfo) { e.fail(fmt.Errorf("data corruption: %s", i)) },
		},
	}
	if e.opts.Small {
		o.LBaseMaxBytes = 4 << 20
		o.FlushSplitBytes = 0
		o.Experimental.FileCacheShards = 1
		o.DisableTableStats = false
	} else {
		o.CompactionConcurrencyRange = func() (int, int) { return 1, max(2, min(4, runtime.NumCPU()/2)) }
	}
	for i := range o.Levels {
		o.Levels[i].BlockSize = 32 << 10
		o.Levels[i].IndexBlockSize = 256 << 10
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		if e.opts.Small {
			o.Levels[i].BlockSize = 4 << 10
		}
	}
	// S16: without a log of its own, an ingestion that waits in the memtable queue would
	// not be durable when Ingest returns.
	o.Experimental.DisableIngestAsFlushable = func() bool { return true }
	o.Experimental.EnableColumnarBlocks = func() bool { return true }
	o.Experimental.CompactionScheduler = newCompactions()
	return o
}

// begin guards a call against a concurrent Close and a fatal error; end it with e.end.
func (e *engine) begin() error {
	e.mu.RLock()
	if e.closed {
		e.mu.RUnlock()
		return fmt.Errorf("storage: %s: %w", e.opts.Dir, ErrClosed)
	}
	if err := e.fatalErr(); err != nil {
		e.mu.RUnlock()
		return err
	}
	return nil
}

func (e *engine) end() { e.mu.RUnlock() }

func (e *engine) fatalErr() error {
	if p := e.fatal.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes the engine refuse everything from now on, and calls OnFatal.
func (e *engine) fail(cause error) {
	e.fatalOnce.Do(func() {
		err := fmt.Errorf("%w: %s engine in %s: %w", ErrFatal, e.kind, e.opts.Dir, explain(cause))
		e.fatal.Store(&err)
		close(e.failed)
		e.opts.Logger.Error("storage failed; the store stops (a failed write or fsync is never retried)", "err", err)
		if e.opts.OnFatal == nil {
			panic(err)
		}
		e.opts.OnFatal(err)
	})
}

// wrote turns a write's outcome into the caller's error. Pebble reports a failed commit to
// its logger and then returns nil, so the fatal state is looked at as well.
func (e *engine) wrote(err error) error {
	if err != nil {
		e.fail(err)
	}
	return e.fatalErr()
}

func explain(err error) error {
	if IsDiskFull(err) {
		return fmt.Errorf("the disk is full: free space, then start the node again: %w", err)
	}
	return err
}

// backgroundError sees failed flushes, compactions and statistics reads. Pebble would retry
// them for ever; S15 says that a failed sync lies when it is retried.
func (e *engine) backgroundError(err error) {
	if errors.Is(err, pebble.ErrCancelledCompaction) || errors.Is(err, pebble.ErrClosed) {
		return
	}
	e.fail(fmt.Errorf("background work: %w", err))
}

// Fatal returns the error that stopped the engine, or nil.
func (e *engine) Fatal() error { return e.fatalErr() }

// Dir returns the engine's folder.
func (e *engine) Dir() string { return e.opts.Dir }

// FreeBytes returns the space left on the engine's disk; the largest integer if unknown.
func (e *engine) FreeBytes() (int64, error) { return freeBytes(e.opts.FS, e.opts.Dir) }

// UsedBytes returns what the engine takes on disk; 0 once it is closed.
func (e *engine) UsedBytes() int64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return 0
	}
	return int64(e.db.Metrics().DiskSpaceUsage())
}

// close waits for running calls. Iterators, snapshots and batches must be closed before, unless this
// is a crash, which nothing is ready for.
func (e *engine) close(crash bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	if e.collector != nil {
		e.opts.Registerer.Unregister(e.collector)
	}
	fatal := e.fatalErr()
	return errors.Join(fatal, e.closeDB(crash || fatal != nil), e.lock.Close())
}

// closeDB closes Pebble, which may panic when its disk has failed, or something still reads.
func (e *engine) closeDB(failed bool) (err error) {
	if failed {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("storage: closing the failed %s engine: %v", e.kind, r)
			}
		}()
	}
	return e.db.Close()
}

// pebbleLogger passes Pebble's messages on. Pebble assumes that Fatalf does not return;
// where OnFatal does, the fatal state keeps every result from being believed.
type pebbleLogger struct{ e *engine }

func (l pebbleLogger) Infof(string, ...any) {}
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.e.opts.Logger.Error("pebble: " + fmt.Sprintf(format, args...))
}
func (l pebbleLogger) Fatalf(format string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok {
			l.e.fail(fmt.Errorf("%s: %w", strings.TrimRight(format, " %v:s"), err))
			return
		}
	}
	l.e.fail(fmt.Errorf(format, args...))
}

var (
	stateKeySchema  = cockroachkvs.KeySchema.Name
	blockProperties = cockroachkvs.BlockPropertyCollectors
)

func stateKeySchemas() sstable.KeySchemas { return sstable.MakeKeySchemas(&cockroachkvs.KeySchema) }
