package storage

import (
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/keys"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ingestDir holds table files on their way in. It is emptied at open.
const ingestDir = "ingest"

// TableWriter writes a sorted table file that Ingest takes in whole (snapshots, bulk
// loads). Not safe for concurrent use.
type TableWriter struct {
	path string
	fs   FS
	w    *sstable.Writer
	n    int
}

// NewTable starts a table file. name must be unique among the tables not ingested yet.
func (s *StateEngine) NewTable(name string) (*TableWriter, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end()
	fs := s.opts.FS
	dir := fs.PathJoin(s.opts.Dir, ingestDir)
	if err := makeDir(fs, dir); err != nil {
		return nil, fmt.Errorf("storage: creating %s: %w", dir, err)
	}
	path := fs.PathJoin(dir, name+".sst")
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("storage: creating %s: %w", path, explain(err))
	}
	return &TableWriter{path: path, fs: fs, w: sstable.NewWriter(objstorageprovider.NewFileWritable(f), s.writerOptions())}, nil
}

// Set adds an engine key. REQUIRES: keys come in strictly increasing order.
func (t *TableWriter) Set(engineKey, value []byte) error {
	if _, _, err := DecodeKey(engineKey); err != nil {
		return err
	}
	t.n++
	return t.w.Set(engineKey, value)
}

// DeleteRange removes what the engine held in [start, end) before the ingestion; the
// table's own keys stay. Spans come in increasing order and do not overlap.
func (t *TableWriter) DeleteRange(start, end keys.Key) error {
	t.n++
	return t.w.DeleteRange(EncodeKey(nil, start), EncodeKey(nil, end))
}

// Finish completes and syncs the file.
func (t *TableWriter) Finish() error {
	if err := t.w.Close(); err != nil {
		return fmt.Errorf("storage: finishing %s: %w", t.path, explain(err))
	}
	return nil
}

// Discard removes the file; after Ingest it does nothing.
func (t *TableWriter) Discard() { _ = t.fs.Remove(t.path) }

// Ingest takes finished tables in, all or none, durably: they are in the manifest, synced,
// when it returns. Writes applied before that overlap them are flushed first. Tables must
// not overlap each other; empty ones are left out.
func (s *StateEngine) Ingest(tables ...*TableWriter) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	var paths []string
	for _, t := range tables {
		if t.n > 0 {
			paths = append(paths, t.path)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	if err := s.db.Ingest(bgCtx, paths); err != nil {
		return fmt.Errorf("storage: ingesting %d tables: %w", len(paths), errors.Join(explain(err), s.fatalErr()))
	}
	return s.fatalErr()
}

func (s *StateEngine) writerOptions() sstable.WriterOptions {
	o := s.engine.pebbleOptions()
	configureState(o)
	o.EnsureDefaults()
	return o.MakeWriterOptions(0, s.db.TableFormat())
}

// clearIngestDir removes what a crash left half-way.
func clearIngestDir(fs FS, dir string) error {
	return fs.RemoveAll(fs.PathJoin(dir, ingestDir))
}

func configureState(po *pebble.Options) {
	po.DisableWAL = true
	po.Comparer = stateComparer
	po.KeySchemas = stateKeySchemas()
	po.KeySchema = stateKeySchema
	po.BlockPropertyCollectors = blockProperties
}
