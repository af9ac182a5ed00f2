package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/atolldb/atoll/infra/local"
)

// flags are those that several commands share.
type flags struct {
	name    string
	state   string
	cache   string
	modules string
}

func rootCommand() *cobra.Command {
	f := &flags{}
	root := &cobra.Command{
		Use:           "localkube",
		Short:         "A real three-zone Kubernetes on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	p := root.PersistentFlags()
	p.StringVar(&f.name, "name", "atoll", "the cluster's name, which its namespaces and control groups carry")
	p.StringVar(&f.state, "state", "", "the cluster's folder (default ~/.local/state/atoll/NAME)")
	p.StringVar(&f.cache, "cache", "", "where built programs are kept (default ~/.cache/atoll)")
	p.StringVar(&f.modules, "modules", "", "the modules to build from (default infra/local/modules of the source tree)")
	root.AddCommand(upCommand(f), downCommand(f), statusCommand(f), buildCommand(f), checkCommand(), loadCommand(f),
		envCommand(f), execCommand(f), faultCommand(f), pulumiCommand(f))
	return root
}

// exactArgs is cobra's, as a mistake in the command line.
func exactArgs(n int) cobra.PositionalArgs { return rangeArgs(n, n) }

func rangeArgs(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := cobra.RangeArgs(least, most)(c, args); err != nil {
			return usageError{fmt.Errorf("%w; see localkube %s --help", err, c.Name())}
		}
		return nil
	}
}

func (f *flags) cluster() (*local.Cluster, error) {
	dir := f.state
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("%w; give the cluster's folder by --state", err)
		}
		dir = filepath.Join(home, ".local", "state", "atoll", f.name)
	}
	return local.Open(dir, os.Stdout)
}

func (f *flags) builder() (*local.Builder, error) {
	cache := f.cache
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("%w; give a folder by --cache", err)
		}
		cache = filepath.Join(dir, "atoll")
	}
	modules := f.modules
	if modules == "" {
		var err error
		if modules, err = findModules(); err != nil {
			return nil, err
		}
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return nil, err
	}
	return &local.Builder{ModulesDir: modules, CacheDir: cache, Progress: os.Stderr}, nil
}

// findModules looks for the modules from the working directory up, and where this file was compiled.
func findModules() (string, error) {
	const below = "infra/local/modules"
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := wd; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, below, "kubernetes", "go.mod")); err == nil {
			return filepath.Join(d, below), nil
		}
		if d == filepath.Dir(d) {
			break
		}
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) { // not with -trimpath
		if d := filepath.Join(filepath.Dir(file), "..", "..", "modules"); dirExists(d) {
			return d, nil
		}
	}
	return "", fmt.Errorf("no %s in %s or above; run this from Atoll's source tree or give the folder by --modules", below, wd)
}

func dirExists(d string) bool {
	st, err := os.Stat(d)
	return err == nil && st.IsDir()
}

func upCommand(f *flags) *cobra.Command {
	d := local.Default()
	var zones string
	var nodes, sqlPort, httpPort int
	var forwards []string
	c := &cobra.Command{
		Use:   "up",
		Short: "Build what is missing, and start three zones (or what does not run of them)",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.Name = f.name
			k, err := f.cluster()
			if err != nil {
				return err
			}
			if d.Zones, err = local.ParseZones(zones, nodes); err != nil {
				return usageError{err}
			}
			if fl := cmd.Flags(); !fl.Changed("zones") && !fl.Changed("nodes-per-zone") {
				if has, err := k.Config(); err == nil { // one that is there keeps its zones
					d.Zones = has.Zones
				}
			}
			d.Forwards = local.DefaultForwards(d.Zones, sqlPort, httpPort)
			for _, s := range forwards {
				fw, err := local.ParseForward(s)
				if err != nil {
					return usageError{err}
				}
				d.Forwards = append(d.Forwards, fw)
			}
			if err := d.Validate(); err != nil {
				return usageError{err}
			}
			b, err := f.builder()
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return k.Up(cmd.Context(), d, b, self)
		},
	}
	fl := c.Flags()
	fl.StringVar(&zones, "zones", "us-a,us-b,us-c", "zones, each with an optional region before it: us/us-a,eu/eu-a; a cluster that is there has its own")
	fl.IntVar(&nodes, "nodes-per-zone", 1, "Kubernetes nodes in each zone")
	fl.IntVar(&d.APIPort, "api-port", d.APIPort, "port of the Kubernetes API on 127.0.0.1")
	fl.IntVar(&sqlPort, "sql-port", 26257, "port on 127.0.0.1 that leads to NodePort 30257 of any node; those after it to 30258 and up, one for each zone")
	fl.IntVar(&httpPort, "http-port", 8080, "port on 127.0.0.1 that leads to NodePort 30080 of any node")
	fl.StringArrayVar(&forwards, "forward", nil, "another road into the cluster: name=127.0.0.1:PORT:NODEPORT")
	fl.IntVar(&d.DiskMiB, "disk", d.DiskMiB, "MiB of each node's disk, from which its volumes come; the file behind it is sparse")
	fl.DurationVar(&d.NodeGrace, "node-grace", d.NodeGrace, "how long a silent node counts as ready")
	fl.DurationVar(&d.Eviction, "eviction", d.Eviction, "how long pods stay on a node that is not ready, unless they say otherwise")
	return c
}

func downCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End all of it and remove the cluster's folder, volumes included",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := f.cluster()
			if err != nil {
				return err
			}
			return k.Down(cmd.Context())
		},
	}
}

func statusCommand(f *flags) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show zones, nodes and faults",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := f.cluster()
			if err != nil {
				return err
			}
			s, err := k.Status(cmd.Context())
			if err != nil {
				return err
			}
			switch output {
			case "json":
				e := json.NewEncoder(os.Stdout)
				e.SetIndent("", "  ")
				return e.Encode(s)
			case "text":
				printStatus(s)
				return nil
			default:
				return usageError{fmt.Errorf("output %q: want text or json", output)}
			}
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func printStatus(s local.Status) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "cluster %s in %s\nkubeconfig %s\ncontrol plane %s, API %s\n\n", s.Name, s.Dir, s.Kubeconfig, s.ControlPlane, s.API)
	fmt.Fprintln(w, "NODE\tZONE\tADDRESS\tSTATE\tREADY\tDISK FREE\tPID")
	for _, n := range s.Nodes {
		disk, pid := "-", "-"
		if n.DiskFreeMiB >= 0 {
			disk = fmt.Sprintf("%d MiB", n.DiskFreeMiB)
		}
		if n.PID != 0 {
			pid = fmt.Sprint(n.PID)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Zone, n.IP, n.State, n.Ready, disk, pid)
	}
	w.Flush()
	for _, c := range s.Cuts {
		fmt.Printf("cut: %s -> %s\n", c.From, c.To)
	}
	for _, f := range s.Forwards {
		fmt.Printf("forward: %s %s -> NodePort %d\n", f.Name, f.Listen, f.NodePort)
	}
}

func buildCommand(f *flags) *cobra.Command {
	var onlyCached bool
	c := &cobra.Command{
		Use:   "build [" + strings.Join(local.Toolsets(), " | ") + "]...",
		Short: "Build what up needs (or the toolsets that are named) into the cache, and print their folders",
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := f.builder()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{"kubernetes", "coredns", "pause"}
			}
			build := b.Build
			if onlyCached {
				build = b.Cached
			}
			for _, t := range args {
				dir, err := build(cmd.Context(), t)
				if err != nil {
					return err
				}
				fmt.Println(dir)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&onlyCached, "cached", false, "build nothing: fail if something is missing")
	return c
}

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Say what this machine lacks, if anything",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := local.CheckHost(cmd.Context()); err != nil {
				return err
			}
			fmt.Println("this machine can run a local cluster")
			return nil
		},
	}
}

func loadCommand(f *flags) *cobra.Command {
	var ifUp bool
	c := &cobra.Command{
		Use:   "load ARCHIVE...",
		Short: "Give every node an image from an OCI archive",
		Args:  rangeArgs(1, 100),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := f.cluster()
			if err != nil {
				return err
			}
			if _, err := k.Config(); ifUp && errors.Is(err, local.ErrNotUp) {
				return nil
			}
			for _, a := range args {
				if err := k.Load(cmd.Context(), a); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&ifUp, "if-up", false, "do nothing where no cluster is")
	return c
}

func envCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: `Print what a shell needs: eval "$(localkube env)"`,
		Args:  exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			k, err := f.cluster()
			if err != nil {
				return err
			}
			programs, err := k.Programs()
			if err != nil {
				return err
			}
			fmt.Printf("export KUBECONFIG='%s'\nexport PATH='%s':\"$PATH\"\n", k.Kubeconfig(), programs)
			return nil
		},
	}
}

func execCommand(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "exec NODE COMMAND [ARG]...",
		Short: "Run a command inside a node",
		Args:  rangeArgs(2, 1000),
		RunE: func(_ *cobra.Command, args []string) error {
			k, err := f.cluster()
			if err != nil {
				return err
			}
			line, err := k.Inside(args[0], args[1:]...)
			if err != nil {
				return err
			}
			path, err := exec.LookPath(line[0])
			if err != nil {
				return err
			}
			return fmt.Errorf("%s: %w", path, syscall.Exec(path, line, os.Environ()))
		},
	}
	c.Flags().SetInterspersed(false)
	return c
}

func faultCommand(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "fault",
		Short: "Cut, kill, pause, fill, heal",
		Long: "A PLACE is a zone, or control-plane. Cuts also take host: the road from this machine into the cluster.\n" +
			"Faults add up; heal undoes them.",
	}
	add := func(use, short string, least, most int, do func(cmd *cobra.Command, k *local.Cluster, args []string) error) {
		c.AddCommand(&cobra.Command{Use: use, Short: short, Args: rangeArgs(least, most),
			RunE: func(cmd *cobra.Command, args []string) error {
				if os.Geteuid() != 0 {
					return fmt.Errorf("user %d is not root: run it with sudo", os.Geteuid())
				}
				k, err := f.cluster()
				if err != nil {
					return err
				}
				return do(cmd, k, args)
			}})
	}
	add("cut PLACE", "Cut a place from everything else, both ways", 1, 1, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.Cut(cmd.Context(), a[0])
	})
	add("cut-one-way FROM [TO]", "Drop what FROM sends to TO, or to everybody", 1, 2, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.CutOneWay(cmd.Context(), a[0], strings.Join(a[1:], ""))
	})
	add("cut-pair PLACE PLACE", "Cut two places from each other; the others see both", 2, 2, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.CutPair(cmd.Context(), a[0], a[1])
	})
	add("kill PLACE", "Take a place's power: SIGKILL for everything in it at once", 1, 1, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.Kill(cmd.Context(), a[0])
	})
	add("power-on PLACE", "Start a place that was killed", 1, 1, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.PowerOn(cmd.Context(), a[0])
	})
	add("pause PLACE", "Stop every process of a place where it stands", 1, 1, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.Pause(cmd.Context(), a[0])
	})
	add("resume PLACE", "Let a paused place go on", 1, 1, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.Resume(cmd.Context(), a[0])
	})
	add("fill-disk ZONE", "Take all free space of the disks of a zone", 1, 1, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.FillDisk(cmd.Context(), a[0])
	})
	add("empty-disk ZONE", "Give back what fill-disk took", 1, 1, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.EmptyDisk(cmd.Context(), a[0])
	})
	add("heal [PLACE]...", "Undo all faults: of these places, or of all", 0, 100, func(cmd *cobra.Command, k *local.Cluster, a []string) error {
		return k.Heal(cmd.Context(), a...)
	})
	return c
}

// pulumiCommand prints where Pulumi's programs are, having built those that PATH lacks.
func pulumiCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "pulumi",
		Short: "Print a PATH with Pulumi's CLI and Go language host: the user's own, or ones built from source",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := os.Getenv("PATH")
			if _, err := exec.LookPath("pulumi"); err == nil { // it brings its language hosts
				fmt.Println(path)
				return nil
			} else if !errors.Is(err, exec.ErrNotFound) {
				return err
			}
			b, err := f.builder()
			if err != nil {
				return err
			}
			began := time.Now()
			for _, t := range []string{"pulumi", "pulumi-language-go"} {
				dir, err := b.Build(cmd.Context(), t)
				if err != nil {
					return err
				}
				path = dir + string(os.PathListSeparator) + path
			}
			if d := time.Since(began); d > time.Second {
				fmt.Fprintf(os.Stderr, "Pulumi's programs are there (%.0f s)\n", d.Seconds())
			}
			fmt.Println(path)
			return nil
		},
	}
}
