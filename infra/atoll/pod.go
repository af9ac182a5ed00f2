package atoll

import (
	"fmt"
	"time"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/config"
)

// Folders inside a node's container.
const (
	dataDir      = "/data"
	certsDir     = "/certs"
	superuserDir = "/secrets"
)

// runAs is the user and group of the process.
const runAs = 65532

// Times of a pod's end: Services stop routing to it while it sleeps, then SIGTERM makes it give its
// leases away and end its clients.
const (
	stopRoutingSeconds = 5
	shutdownSeconds    = 30
	graceSeconds       = stopRoutingSeconds + shutdownSeconds + 25
)

// Shares of a node's memory. The block cache and what Go manages are apart; the rest is for
// memtables, which are outside Go's heap, and for stacks of C.
const (
	cacheShare = 25 // percent
	goShare    = 60
)

const zoneLabel = "topology.kubernetes.io/zone"

// podSpec returns a zone's pods, without --revision.
func (n names) podSpec(z config.Zone) *corev1.PodSpecArgs {
	return &corev1.PodSpecArgs{
		ServiceAccountName:            pulumi.String(n.Name),
		AutomountServiceAccountToken:  pulumi.Bool(false),
		EnableServiceLinks:            pulumi.Bool(false),
		SecurityContext:               podSecurity(),
		TerminationGracePeriodSeconds: pulumi.Int(graceSeconds),
		Affinity: &corev1.AffinityArgs{NodeAffinity: &corev1.NodeAffinityArgs{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelectorArgs{NodeSelectorTerms: corev1.NodeSelectorTermArray{
				&corev1.NodeSelectorTermArgs{MatchExpressions: corev1.NodeSelectorRequirementArray{&corev1.NodeSelectorRequirementArgs{
					Key: pulumi.String(zoneLabel), Operator: pulumi.String("In"), Values: pulumi.ToStringArray([]string{z.Name})}}}}}}},
		// Over the hosts of the zone; hosts that are down or cordoned do not count.
		TopologySpreadConstraints: corev1.TopologySpreadConstraintArray{&corev1.TopologySpreadConstraintArgs{
			MaxSkew: pulumi.Int(1), TopologyKey: pulumi.String("kubernetes.io/hostname"), WhenUnsatisfiable: pulumi.String("DoNotSchedule"),
			NodeAffinityPolicy: pulumi.String("Honor"), NodeTaintsPolicy: pulumi.String("Honor"),
			LabelSelector: &metav1.LabelSelectorArgs{MatchLabels: n.selector(labelZone, z.Name, labelRole, "node")}}},
		// A zone's volume is nowhere else: a pod of a zone that is cut off stays where it is and
		// goes on when the zone is back. (The taint out-of-service still moves it.)
		Tolerations: corev1.TolerationArray{tolerate("node.kubernetes.io/unreachable"), tolerate("node.kubernetes.io/not-ready")},
		Containers:  corev1.ContainerArray{n.container(z)},
		Volumes: corev1.VolumeArray{
			n.certsVolume(n.tls(z.Name)),
			&corev1.VolumeArgs{Name: pulumi.String("tmp"), EmptyDir: &corev1.EmptyDirVolumeSourceArgs{SizeLimit: pulumi.String("1Gi")}},
		},
	}
}

func tolerate(key string) *corev1.TolerationArgs {
	return &corev1.TolerationArgs{Key: pulumi.String(key), Operator: pulumi.String("Exists"), Effect: pulumi.String("NoExecute")}
}

// startArgs returns the node's flags.
func (n names) startArgs(z config.Zone) []string {
	host := "$(POD_NAME)." + n.service(n.headless())
	args := []string{
		"start",
		"--store=" + dataDir,
		"--locality=region=" + z.Region + ",zone=" + z.Name,
		fmt.Sprintf("--listen=:%d", NodePort), fmt.Sprintf("--advertise=%s:%d", host, NodePort),
		fmt.Sprintf("--sql-listen=:%d", SQLPort), fmt.Sprintf("--sql-advertise=%s:%d", host, SQLPort),
		fmt.Sprintf("--http-listen=:%d", HTTPPort), fmt.Sprintf("--http-advertise=%s:%d", host, HTTPPort),
		"--join=$(ATOLL_JOIN)",
		"--certs=" + certsDir,
		fmt.Sprintf("--cache=%d", n.Resources.MemoryBytes*cacheShare/100),
		fmt.Sprintf("--shutdown-grace=%ds", shutdownSeconds),
	}
	// A flag more is another pod, so only where it says something.
	for _, w := range []struct {
		flag   string
		d, def time.Duration
	}{{"dead-after", n.DeadAfter.Node, config.DefaultDeadAfter.Node}, {"zone-dead-after", n.DeadAfter.Zone, config.DefaultDeadAfter.Zone}, {"volume-gone-after", n.DeadAfter.Volume, config.DefaultDeadAfter.Volume}} {
		if w.d != w.def && w.d != 0 {
			args = append(args, fmt.Sprintf("--%s=%s", w.flag, w.d))
		}
	}
	if len(z.Attributes) > 0 {
		args = append(args, "--attributes="+commas(z.Attributes))
	}
	return args
}

func (n names) container(z config.Zone) *corev1.ContainerArgs {
	memory := pulumi.String(config.FormatBytes(n.Resources.MemoryBytes))
	limits := pulumi.StringMap{"memory": memory}
	if n.Resources.CPULimit != "" {
		limits["cpu"] = pulumi.String(n.Resources.CPULimit)
	}
	return &corev1.ContainerArgs{
		Name:            pulumi.String("atoll"),
		Image:           pulumi.String(n.Image),
		ImagePullPolicy: pulumi.String(n.ImagePullPolicy),
		Args:            pulumi.ToStringArray(n.startArgs(z)),
		Env: corev1.EnvVarArray{
			&corev1.EnvVarArgs{Name: pulumi.String("POD_NAME"), ValueFrom: &corev1.EnvVarSourceArgs{FieldRef: &corev1.ObjectFieldSelectorArgs{FieldPath: pulumi.String("metadata.name")}}},
			plainEnv("GOMEMLIMIT", fmt.Sprint(n.Resources.MemoryBytes*goShare/100)),
			// Read when a container starts: another list of zones is no other pod, and restarts none.
			&corev1.EnvVarArgs{Name: pulumi.String("ATOLL_JOIN"), ValueFrom: &corev1.EnvVarSourceArgs{
				ConfigMapKeyRef: &corev1.ConfigMapKeySelectorArgs{Name: pulumi.String(n.joinList()), Key: pulumi.String("join")}}},
		},
		Ports: corev1.ContainerPortArray{port("node", NodePort), port("sql", SQLPort), port("http", HTTPPort)},
		Resources: &corev1.ResourceRequirementsArgs{
			Requests: pulumi.StringMap{"cpu": pulumi.String(n.Resources.CPU), "memory": memory},
			Limits:   limits,
		},
		// An hour to start: a long log to replay is no fault.
		StartupProbe: &corev1.ProbeArgs{HttpGet: httpGet("/healthz"), PeriodSeconds: pulumi.Int(5), TimeoutSeconds: pulumi.Int(5), FailureThreshold: pulumi.Int(720)},
		ReadinessProbe: &corev1.ProbeArgs{HttpGet: httpGet("/readyz"), PeriodSeconds: pulumi.Int(2), TimeoutSeconds: pulumi.Int(2),
			FailureThreshold: pulumi.Int(2), SuccessThreshold: pulumi.Int(1)},
		// The kernel accepts connections for a process that is slow; only one that no longer
		// listens is restarted. A stalled disk is the node's own watchdog's matter.
		LivenessProbe: &corev1.ProbeArgs{TcpSocket: &corev1.TCPSocketActionArgs{Port: pulumi.String("http")},
			PeriodSeconds: pulumi.Int(10), TimeoutSeconds: pulumi.Int(5), FailureThreshold: pulumi.Int(6)},
		Lifecycle:       &corev1.LifecycleArgs{PreStop: &corev1.LifecycleHandlerArgs{Sleep: &corev1.SleepActionArgs{Seconds: pulumi.Int(stopRoutingSeconds)}}},
		SecurityContext: containerSecurity(),
		VolumeMounts: corev1.VolumeMountArray{
			&corev1.VolumeMountArgs{Name: pulumi.String("data"), MountPath: pulumi.String(dataDir)},
			&corev1.VolumeMountArgs{Name: pulumi.String("certs"), MountPath: pulumi.String(certsDir), ReadOnly: pulumi.Bool(true)},
			&corev1.VolumeMountArgs{Name: pulumi.String("tmp"), MountPath: pulumi.String("/tmp")},
		},
		TerminationMessagePolicy: pulumi.String("FallbackToLogsOnError"),
	}
}

func httpGet(path string) *corev1.HTTPGetActionArgs {
	return &corev1.HTTPGetActionArgs{Path: pulumi.String(path), Port: pulumi.String("http")}
}

func port(name string, number int) *corev1.ContainerPortArgs {
	return &corev1.ContainerPortArgs{Name: pulumi.String(name), ContainerPort: pulumi.Int(number), Protocol: pulumi.String("TCP")}
}

func podSecurity() *corev1.PodSecurityContextArgs {
	return &corev1.PodSecurityContextArgs{
		RunAsNonRoot: pulumi.Bool(true), RunAsUser: pulumi.Int(runAs), RunAsGroup: pulumi.Int(runAs),
		FsGroup: pulumi.Int(runAs), FsGroupChangePolicy: pulumi.String("OnRootMismatch"),
		SeccompProfile: &corev1.SeccompProfileArgs{Type: pulumi.String("RuntimeDefault")},
	}
}

func containerSecurity() *corev1.SecurityContextArgs {
	return &corev1.SecurityContextArgs{
		AllowPrivilegeEscalation: pulumi.Bool(false), ReadOnlyRootFilesystem: pulumi.Bool(true),
		Capabilities: &corev1.CapabilitiesArgs{Drop: pulumi.ToStringArray([]string{"ALL"})},
	}
}

// certsVolume holds ca.crt, and a certificate if secret names one. The kubelet swaps its files
// when they change.
func (n names) certsVolume(secret string) *corev1.VolumeArgs {
	sources := corev1.VolumeProjectionArray{&corev1.VolumeProjectionArgs{ConfigMap: &corev1.ConfigMapProjectionArgs{Name: pulumi.String(n.trust())}}}
	if secret != "" {
		sources = append(sources, &corev1.VolumeProjectionArgs{Secret: &corev1.SecretProjectionArgs{Name: pulumi.String(secret)}})
	}
	return &corev1.VolumeArgs{Name: pulumi.String("certs"), Projected: &corev1.ProjectedVolumeSourceArgs{DefaultMode: pulumi.Int(0o440), Sources: sources}}
}
