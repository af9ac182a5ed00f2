package storage

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is the file system seam: the disk, or memory in tests and simulation.
type FS = vfs.FS

// CrashFS is a file system in memory that can lose what was not synced.
type CrashFS = vfs.MemFS

// DiskFS returns the operating system's file system.
func DiskFS() FS { return vfs.Default }

// MemFS returns an empty file system in memory that CrashClone works on.
func MemFS() *CrashFS { return vfs.NewCrashableMem() }

// CrashClone returns what a power failure at this moment leaves of fs: all that was
// synced, and of the rest every block and directory entry with the given probability in
// percent (torn writes). The engines open on fs go on undisturbed, and reach the clone no
// more.
func CrashClone(fs *CrashFS, unsyncedPercent int, rng *rand.Rand) *CrashFS {
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsyncedPercent, RNG: rng})
}

// FormatVersion is the newest layout of an engine's folder that this binary reads and
// the one that it writes.
const FormatVersion = 1

const formatFile = "ATOLL_FORMAT"

// ErrNewerFormat marks a store written by a newer Atoll.
var ErrNewerFormat = errors.New("the store's format is newer than this binary's")

// ErrLocked marks a store folder that another process (or engine) holds open.
var ErrLocked = errors.New("the store folder is in use")

// checkFormat reads the folder's format file, and makes it in a folder without one.
// kind names the engine ("state", "log"), so that folders can't be mixed up.
func checkFormat(fs FS, dir, kind string) error {
	path := fs.PathJoin(dir, formatFile)
	b, err := readFile(fs, path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return createFormat(fs, dir, path, kind)
	case err != nil:
		return fmt.Errorf("storage: reading %s: %w", path, err)
	}
	gotKind, v, ok := strings.Cut(strings.TrimSuffix(string(b), "\n"), " ")
	version, err := strconv.Atoi(v)
	if !ok || err != nil || version < 1 {
		return fmt.Errorf("storage: %s holds %q, want \"%s <version>\"; the folder is damaged or not Atoll's", path, b, kind)
	}
	if gotKind != kind {
		return fmt.Errorf("storage: %s belongs to a %s engine, not to a %s engine; check the store folders", dir, gotKind, kind)
	}
	if version > FormatVersion {
		return fmt.Errorf("storage: %s has format %d, this binary reads up to %d: %w; start it with the newer binary",
			dir, version, FormatVersion, ErrNewerFormat)
	}
	return nil
}

func createFormat(fs FS, dir, path, kind string) error {
	// A database without a format file is not ours: creating one would hide that.
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("storage: listing %s: %w", dir, err)
	}
	for _, n := range names {
		if strings.HasPrefix(n, "MANIFEST-") {
			return fmt.Errorf("storage: %s holds a database (%s) but no %s; it is damaged or not Atoll's", dir, n, formatFile)
		}
	}
	tmp := path + ".tmp"
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("storage: creating %s: %w", tmp, err)
	}
	_, err = fmt.Fprintf(f, "%s %d\n", kind, FormatVersion)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = fs.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(fs, dir)
	}
	if err != nil {
		return fmt.Errorf("storage: writing %s: %w", path, err)
	}
	return nil
}

func readFile(fs FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<10))
}

// makeDir creates dir and its missing parents durably.
func makeDir(fs FS, dir string) error {
	var missing []string // deepest first
	for p := dir; ; p = fs.PathDir(p) {
		if _, err := fs.Stat(p); err == nil {
			break
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		missing = append(missing, p)
		if fs.PathDir(p) == p {
			break
		}
	}
	if err := fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for _, p := range missing {
		if err := syncDir(fs, fs.PathDir(p)); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(fs FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// freeBytes returns the space left for dir, or the largest integer where the file system
// can't tell (memory).
func freeBytes(fs FS, dir string) (int64, error) {
	u, err := fs.GetDiskUsage(dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return math.MaxInt64, nil
	}
	if err != nil {
		return 0, fmt.Errorf("storage: free space of %s: %w", dir, err)
	}
	return int64(min(u.AvailBytes, math.MaxInt64)), nil
}

// SetMemFree makes an in-memory file system report the given free space (tests of the
// reserve).
func SetMemFree(fs *CrashFS, free, total int64) {
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: uint64(free), TotalBytes: uint64(total), UsedBytes: uint64(total - free)})
}

// IsDiskFull reports whether an error comes from a full disk.
func IsDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
