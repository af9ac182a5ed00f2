package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Sizes of TestDiskFull: every node has a small disk of its own, and keeps a reserve on it.
const (
	diskSize    = 512 << 20
	diskReserve = 96 << 20
)

// TestDiskFull fills disks: below the reserve a node refuses writes with 53100 and gives its
// leases away, and the cluster goes on. A disk without any space ends the node's process; it
// is started again and again, and rejoins by itself once space is back.
func TestDiskFull(t *testing.T) {
	c := NewCluster(t, WithNodeArgs(fmt.Sprintf("--disk-reserve=%d", diskReserve)))
	disks := make([]*smallDisk, c.Nodes())
	for i := range disks {
		disks[i] = mountDisk(t, filepath.Join(c.Store, fmt.Sprintf("n%d", i), "data"))
	}
	// The demo is stopped before the disks are unmounted: cleanups run last in, first out.
	c.Up(t)
	c.PgbenchInit(t, 0, 1)
	c.Exec(t, 0, "CREATE TABLE junk (id int PRIMARY KEY, v text)", "INSERT INTO junk VALUES (1, 'a'), (2, 'b')")

	full := c.LeaseZone(t, 0)
	node := c.NodeOf(full)
	via := c.NodeOf(c.Others(full)[0])
	w := c.StartWriter(t, via, "acked", "53100")
	w.progress(t, 20, time.Minute)

	t.Run("reserve of the leaseholder", func(t *testing.T) {
		disks[node].fill(t, diskReserve/2)
		eventually(t, time.Minute, "the node with a full disk gives its leases away", func() string {
			if z := c.LeaseZone(t, via); z == full {
				return "the lease is still in " + z
			}
			return ""
		})
		w.progress(t, 50, 30*time.Second)
		t.Logf("longest silence between commits: %s", w.silence().Round(time.Millisecond))
		c.Exec(t, node, "INSERT INTO junk VALUES (3, 'c')") // as a gateway the node still serves
		disks[node].free(t)
	})
	t.Run("reserve of all", func(t *testing.T) {
		for _, d := range disks {
			d.fill(t, diskReserve/2)
		}
		conn := c.Connect(t, via)
		var err error
		eventually(t, time.Minute, "writes are refused", func() string {
			if _, err = conn.Exec(short(t), "INSERT INTO junk VALUES (4, 'd') ON CONFLICT (id) DO UPDATE SET v = 'e'"); err == nil {
				return "accepted"
			}
			return ""
		})
		require.Equal(t, "53100", sqlState(err), err)
		_, err = conn.Exec(short(t), "DELETE FROM junk WHERE id = 2")
		require.NoError(t, err, "deletes are admitted: they are the way out")
		var n int
		require.NoError(t, conn.QueryRow(short(t), "SELECT count(*) FROM junk WHERE id = 2").Scan(&n))
		require.Zero(t, n)
		for _, d := range disks {
			d.free(t)
		}
		eventually(t, time.Minute, "writes are taken again", func() string {
			if _, err := conn.Exec(short(t), "INSERT INTO junk VALUES (5, 'f') ON CONFLICT (id) DO NOTHING"); err != nil {
				return err.Error()
			}
			return ""
		})
	})
	t.Run("no space at all", func(t *testing.T) {
		c.AwaitHealthy(t, via, time.Minute)
		victim := c.LeaseZone(t, via)
		if c.NodeOf(victim) == via {
			victim = c.Others(victim)[0]
		}
		x := c.NodeOf(victim)
		before := children(c.demo.cmd.Process.Pid)
		require.Len(t, before, c.Nodes())
		disks[x].fill(t, 0)
		eventually(t, 2*time.Minute, "the node ends with a clear message", func() string {
			disks[x].topUp()
			b, err := os.ReadFile(c.logPath(x))
			if err != nil {
				return err.Error()
			}
			if !strings.Contains(string(b), "the disk is full") {
				return "nothing in its log about a full disk"
			}
			if slices.Equal(sorted(before), sorted(children(c.demo.cmd.Process.Pid))) {
				return "its process lives"
			}
			return ""
		})
		w.progress(t, 50, time.Minute)
		t.Logf("longest silence between commits: %s", w.silence().Round(time.Millisecond))
		disks[x].free(t)
		c.AwaitHealthy(t, via, 2*time.Minute)
		c.Exec(t, x, "INSERT INTO junk VALUES (6, 'g')")
	})
	w.stop(t, node)
	require.EqualValues(t, 100000, c.Int(t, node, "SELECT count(*) FROM pgbench_accounts"))
}

func sorted(pids []int) []int {
	slices.Sort(pids)
	return pids
}

// smallDisk is a tmpfs with a file that takes space away.
type smallDisk struct {
	dir, ballast string
}

// mountDisk mounts a small file system on a folder.
func mountDisk(t *testing.T, dir string) *smallDisk {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", diskSize)); err != nil {
		t.Skipf("a small disk needs the right to mount a tmpfs (root): mount %s: %v", dir, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return &smallDisk{dir: dir, ballast: filepath.Join(dir, "ballast")}
}

func (d *smallDisk) available(t *testing.T) int64 {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(d.dir, &st))
	return int64(st.Bavail) * st.Bsize
}

// fill leaves this much space.
func (d *smallDisk) fill(t *testing.T, leave int64) {
	t.Helper()
	avail := d.available(t)
	require.Greater(t, avail, leave, "the node's own data fills the disk: make diskSize larger")
	f, err := os.OpenFile(d.ballast, os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, avail-leave))
}

// topUp takes what became free meanwhile.
func (d *smallDisk) topUp() {
	var st unix.Statfs_t
	f, err := os.OpenFile(d.ballast, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil || unix.Statfs(d.dir, &st) != nil || st.Bavail == 0 {
		return
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil {
		_ = unix.Fallocate(int(f.Fd()), 0, fi.Size(), int64(st.Bavail)*st.Bsize)
	}
}

// free gives all the space back.
func (d *smallDisk) free(t *testing.T) {
	t.Helper()
	require.NoError(t, os.Remove(d.ballast))
}
