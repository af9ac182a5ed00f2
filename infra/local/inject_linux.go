package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fillFile is what fills a node's disk.
const fillFile = nodeVolumes + "/.filled-by-localkube"

// change runs f on the cluster's state, alone, and writes the state down afterwards, even when f
// fails: a fault may have been done in part.
func (k *Cluster) change(ctx context.Context, f func(s *state) error) error {
	unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := readState(k.l)
	if err != nil {
		return err
	}
	err = f(s)
	return errors.Join(err, s.write(k.l))
}

// Cut cuts a zone (or ControlPlane) from everything else, both ways. Frames are dropped in silence.
func (k *Cluster) Cut(ctx context.Context, place string) error {
	return k.cut(ctx, "is cut off from everything else", func(c Config) []Cut { return c.CutZone(place) }, place)
}

// CutOneWay drops what goes from one place to another, or with an empty second place all that
// leaves the first. The other direction stays open.
func (k *Cluster) CutOneWay(ctx context.Context, from, to string) error {
	if to == "" {
		return k.cut(ctx, "still hears, but nothing that it sends arrives", func(c Config) []Cut { return c.CutOneWay(from, "") }, from)
	}
	return k.cut(ctx, "no longer reaches", func(c Config) []Cut { return c.CutOneWay(from, to) }, from, to)
}

// CutPair cuts two places from each other; every third one sees both.
func (k *Cluster) CutPair(ctx context.Context, a, b string) error {
	return k.cut(ctx, "no longer sees, and is not seen by,", func(c Config) []Cut { return c.CutPair(a, b) }, a, b)
}

func (k *Cluster) cut(ctx context.Context, what string, cuts func(Config) []Cut, places ...string) error {
	return k.change(ctx, func(s *state) error {
		if err := s.Config.checkPlaces(places...); err != nil {
			return err
		}
		s.Cuts = addCuts(s.Cuts, cuts(s.Config))
		if err := s.Config.applyCuts(ctx, s.Cuts); err != nil {
			return err
		}
		fmt.Fprintln(k.out, strings.TrimSpace(places[0]+" "+what+" "+strings.Join(places[1:], "")))
		return nil
	})
}

// machinesOf lists what a fault on a place acts on.
func (c Config) machinesOf(place string) ([]machine, error) {
	if place == ControlPlane {
		return []machine{c.controlMachine()}, nil
	}
	var ms []machine
	for _, n := range c.ZoneNodes(place) {
		ms = append(ms, c.nodeMachine(n))
	}
	if len(ms) == 0 {
		return nil, fmt.Errorf("%q is no zone of cluster %q; it has %s and %s", place, c.Name, strings.Join(c.ZoneNames(), ", "), ControlPlane)
	}
	return ms, nil
}

// Kill takes a place's power: SIGKILL to each machine's first process, which ends all others in it
// at once.
func (k *Cluster) Kill(ctx context.Context, place string) error {
	return k.change(ctx, func(s *state) error {
		ms, err := s.Config.machinesOf(place)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("waited %v", endTimeout))
		defer cancel()
		s.Off = addName(s.Off, place)
		s.Paused = dropName(s.Paused, place)
		for _, m := range ms {
			if err := k.l.end(ctx, m, s.Processes[m.name]); err != nil {
				return err
			}
			delete(s.Processes, m.name)
		}
		fmt.Fprintf(k.out, "%s is without power\n", place)
		return nil
	})
}

// PowerOn starts a place that Kill ended. It returns when its machines are started, not when
// Kubernetes calls them ready.
func (k *Cluster) PowerOn(ctx context.Context, place string) error {
	return k.change(ctx, func(s *state) error { return k.powerOn(ctx, s, place) })
}

func (k *Cluster) powerOn(ctx context.Context, s *state, place string) error {
	ms, err := s.Config.machinesOf(place)
	if err != nil {
		return err
	}
	started := false
	for _, m := range ms {
		started = started || !s.Processes[m.name].alive()
		if err := k.startMachine(ctx, s, m); err != nil {
			return err
		}
	}
	if started {
		fmt.Fprintf(k.out, "%s has power again\n", place)
	}
	return nil
}

// Pause stops every process of a place where it stands. Its kernel goes on: connections stay, and
// what arrives is acknowledged until buffers are full.
func (k *Cluster) Pause(ctx context.Context, place string) error {
	return k.change(ctx, func(s *state) error {
		if err := k.freeze(ctx, s, place, true); err != nil {
			return err
		}
		fmt.Fprintf(k.out, "%s stands still\n", place)
		return nil
	})
}

// Resume lets a paused place go on.
func (k *Cluster) Resume(ctx context.Context, place string) error {
	return k.change(ctx, func(s *state) error { return k.resume(ctx, s, place) })
}

func (k *Cluster) resume(ctx context.Context, s *state, place string) error {
	if !slices.Contains(s.Paused, place) {
		return nil
	}
	if err := k.freeze(ctx, s, place, false); err != nil {
		return err
	}
	fmt.Fprintf(k.out, "%s goes on\n", place)
	return nil
}

func (k *Cluster) freeze(ctx context.Context, s *state, place string, frozen bool) error {
	ms, err := s.Config.machinesOf(place)
	if err != nil {
		return err
	}
	cg, err := hostControlGroups()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("waited 10 s"))
	defer cancel()
	if frozen {
		for _, m := range ms {
			if !s.Processes[m.name].alive() {
				return fmt.Errorf("%s is off: there is nothing to pause", place)
			}
		}
		s.Paused = addName(s.Paused, place)
	}
	for _, m := range ms {
		if err := cg.freeze(ctx, m.group, frozen); err != nil {
			return err
		}
	}
	if !frozen {
		s.Paused = dropName(s.Paused, place)
	}
	return nil
}

// FillDisk takes all free space of the disks of a zone's nodes. Whatever writes there gets ENOSPC;
// the file that takes it needs next to no space on the host.
func (k *Cluster) FillDisk(ctx context.Context, zone string) error {
	return k.change(ctx, func(s *state) error {
		return k.eachDisk(s, zone, func(n Node, path string) error {
			taken, err := fill(path)
			if err != nil {
				return fmt.Errorf("disk of %s: %w", n.Name, err)
			}
			fmt.Fprintf(k.out, "the disk of %s is full: %d MiB taken\n", n.Name, taken>>20)
			return nil
		})
	})
}

// EmptyDisk gives back what FillDisk took.
func (k *Cluster) EmptyDisk(ctx context.Context, zone string) error {
	return k.change(ctx, func(s *state) error { return k.emptyDisk(s, zone) })
}

func (k *Cluster) emptyDisk(s *state, zone string) error {
	return k.eachDisk(s, zone, func(n Node, path string) error {
		err := os.Remove(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("disk of %s: %w", n.Name, err)
		}
		fmt.Fprintf(k.out, "the disk of %s has room again\n", n.Name)
		return nil
	})
}

// eachDisk calls f with the path, as seen from the host, of the file that fills a node's disk.
func (k *Cluster) eachDisk(s *state, zone string, f func(n Node, path string) error) error {
	nodes := s.Config.ZoneNodes(zone)
	if len(nodes) == 0 {
		return fmt.Errorf("%q is no zone of cluster %q; it has %s", zone, s.Config.Name, strings.Join(s.Config.ZoneNames(), ", "))
	}
	for _, n := range nodes {
		p := s.Processes[s.Config.nodeMachine(n).name]
		if !p.alive() {
			return fmt.Errorf("node %s is off: its disk cannot be reached", n.Name)
		}
		if err := f(n, fmt.Sprintf("/proc/%d/root%s", p.PID, fillFile)); err != nil {
			return err
		}
	}
	return nil
}

// fill allocates blocks to a file until the file system has none left, in ever smaller steps, and
// returns the file's size in bytes.
func fill(path string) (int64, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size := int64(0)
	if st, err := f.Stat(); err == nil {
		size = st.Size()
	}
	for step := int64(1 << 30); step >= 4096; {
		err := unix.Fallocate(int(f.Fd()), 0, size, step)
		switch {
		case err == nil:
			size += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case errors.Is(err, unix.EINTR):
		default:
			return size, err
		}
	}
	return size, nil
}

// Heal undoes every fault on the named places; without names, every fault there is. Order matters:
// what stands still goes on, what is off is started, then links and disks are mended.
func (k *Cluster) Heal(ctx context.Context, places ...string) error {
	return k.change(ctx, func(s *state) error {
		if err := s.Config.checkPlaces(places...); err != nil {
			return err
		}
		all := len(places) == 0
		if all {
			places = append(s.Config.ZoneNames(), ControlPlane)
			s.Cuts = nil
		}
		for _, p := range places {
			s.Cuts = healCuts(s.Cuts, p)
		}
		var errs []error
		for _, p := range places {
			if p == Host {
				continue
			}
			errs = append(errs, k.resume(ctx, s, p), k.powerOn(ctx, s, p))
		}
		if err := s.Config.applyCuts(ctx, s.Cuts); err != nil {
			errs = append(errs, err)
		}
		for _, p := range places {
			if p == Host || p == ControlPlane {
				continue
			}
			errs = append(errs, k.emptyDiskWhenUp(ctx, s, p))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if all {
			fmt.Fprintln(k.out, "everything is healed")
		} else {
			fmt.Fprintf(k.out, "healed: %s; cuts that are left: %d\n", strings.Join(places, ", "), len(s.Cuts))
		}
		return nil
	})
}

// emptyDiskWhenUp waits for a node that was just started to have mounted its disk. Until then its
// root is still the host's.
func (k *Cluster) emptyDiskWhenUp(ctx context.Context, s *state, zone string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("waited %v", endTimeout))
	defer cancel()
	err := waitFor(ctx, 100*time.Millisecond, func() error {
		return k.eachDisk(s, zone, func(n Node, path string) error {
			if _, err := os.Stat(strings.TrimSuffix(path, fillFile) + nodeImages); err != nil {
				return fmt.Errorf("node %s has not mounted its disk yet: %w", n.Name, err)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return k.emptyDisk(s, zone)
}

func addName(names []string, name string) []string {
	if slices.Contains(names, name) {
		return names
	}
	return append(names, name)
}

func dropName(names []string, name string) []string {
	return slices.DeleteFunc(names, func(n string) bool { return n == name })
}
