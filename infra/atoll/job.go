package atoll

import (
	"strings"
	"time"

	batchv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/batch/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// jobSpec is a step between resources: a run of the atoll binary.
type jobSpec struct {
	Step      string // part of the name
	Args      []string
	TLSSecret string // node.crt and node.key; empty: no certificate is needed
	// Login sets ATOLL_URL, with the superuser's password, and mounts the CA.
	Login bool
	// Identity gives ATOLL_CLUSTER_ID and ATOLL_FOUNDERS, and the password as a file.
	Identity bool
	// Founded gives ATOLL_FOUNDED, which is true once the cluster was founded.
	Founded bool
	// Trigger makes the Job run again when it changes, beside the arguments and the image.
	Trigger string
}

// foundedArg says whether a cluster was founded; the variable is optional.
const foundedArg = "--founded=$(ATOLL_FOUNDED)"

// jobSlack is what a Job may take beyond the time-out of its command: to pull the image and to
// start.
const jobSlack = 5 * time.Minute

// newJob makes a Job named by the hash of what it does. An unchanged step is not run again; a
// changed one is a new Job, before which the old one is deleted.
func newJob(ctx *pulumi.Context, name string, n names, s jobSpec, opts ...pulumi.ResourceOption) (*batchv1.Job, error) {
	pod := n.jobPod(s)
	hash := contentHash([]any{s, pod})
	// A failed Job is made anew by the next update.
	meta := n.meta(n.Name+"-"+s.Step+"-"+hash, map[string]string{"pulumi.com/replaceUnready": "true"}, labelRole, "job")
	deadline := n.Timeout + jobSlack
	return batchv1.NewJob(ctx, name, &batchv1.JobArgs{
		Metadata: meta,
		Spec: &batchv1.JobSpecArgs{
			BackoffLimit:          pulumi.Int(2),
			ActiveDeadlineSeconds: pulumi.Int(int(deadline.Seconds())),
			Template: &corev1.PodTemplateSpecArgs{
				Metadata: &metav1.ObjectMetaArgs{Labels: n.labels(labelRole, "job")},
				Spec:     pod,
			},
		},
	}, append(opts,
		// A finished Job of an update that was interrupted would let a step back to that content
		// pass without waiting, and zones would restart together.
		pulumi.DeleteBeforeReplace(true),
		pulumi.Timeouts(&pulumi.CustomTimeouts{Create: (deadline + time.Minute).String()}),
		// A Job's template can't be changed; its name changes with it. What a cluster fills in is no drift.
		pulumi.IgnoreChanges([]string{"spec.selector", "spec.manualSelector"}))...)
}

func (n names) jobPod(s jobSpec) *corev1.PodSpecArgs {
	c := &corev1.ContainerArgs{
		Name:            pulumi.String("atoll"),
		Image:           pulumi.String(n.Image),
		ImagePullPolicy: pulumi.String(n.ImagePullPolicy),
		Args:            pulumi.ToStringArray(s.Args),
		SecurityContext: containerSecurity(),
		// What the command said last is why a step failed.
		TerminationMessagePolicy: pulumi.String("FallbackToLogsOnError"),
		Resources: &corev1.ResourceRequirementsArgs{
			Requests: pulumi.StringMap{"cpu": pulumi.String("50m"), "memory": pulumi.String("128Mi")},
			Limits:   pulumi.StringMap{"memory": pulumi.String("256Mi")},
		},
	}
	pod := &corev1.PodSpecArgs{
		ServiceAccountName:           pulumi.String(n.Name),
		AutomountServiceAccountToken: pulumi.Bool(false),
		EnableServiceLinks:           pulumi.Bool(false),
		RestartPolicy:                pulumi.String("Never"),
		SecurityContext:              podSecurity(),
	}
	var volumes corev1.VolumeArray
	var mounts corev1.VolumeMountArray
	if s.Login || s.TLSSecret != "" {
		volumes = append(volumes, n.certsVolume(s.TLSSecret))
		mounts = append(mounts, &corev1.VolumeMountArgs{Name: pulumi.String("certs"), MountPath: pulumi.String(certsDir), ReadOnly: pulumi.Bool(true)})
	}
	var env corev1.EnvVarArray
	if s.Login {
		env = append(env, secretEnv("ATOLL_PASSWORD", n.superuser(), "password"),
			plainEnv("ATOLL_URL", "postgresql://"+Superuser+":$(ATOLL_PASSWORD)@"+n.service(n.sql())+":26257/postgres?sslmode=verify-full&sslrootcert="+certsDir+"/ca.crt"))
	}
	if s.Founded {
		env = append(env, &corev1.EnvVarArgs{Name: pulumi.String("ATOLL_FOUNDED"), ValueFrom: &corev1.EnvVarSourceArgs{
			ConfigMapKeyRef: &corev1.ConfigMapKeySelectorArgs{Name: pulumi.String(n.founded()), Key: pulumi.String("founded"), Optional: pulumi.Bool(true)}}})
	}
	if s.Identity {
		env = append(env, secretEnv("ATOLL_CLUSTER_ID", n.identity(), "clusterID"), secretEnv("ATOLL_FOUNDERS", n.identity(), "founders"))
		volumes = append(volumes, &corev1.VolumeArgs{Name: pulumi.String("superuser"), Secret: &corev1.SecretVolumeSourceArgs{
			SecretName: pulumi.String(n.superuser()), DefaultMode: pulumi.Int(0o440),
			Items: corev1.KeyToPathArray{&corev1.KeyToPathArgs{Key: pulumi.String("password"), Path: pulumi.String("password")}}}})
		mounts = append(mounts, &corev1.VolumeMountArgs{Name: pulumi.String("superuser"), MountPath: pulumi.String(superuserDir), ReadOnly: pulumi.Bool(true)})
	}
	c.Env, c.VolumeMounts, pod.Volumes = env, mounts, volumes
	pod.Containers = corev1.ContainerArray{c}
	return pod
}

func secretEnv(name, secret, key string) *corev1.EnvVarArgs {
	return &corev1.EnvVarArgs{Name: pulumi.String(name), ValueFrom: &corev1.EnvVarSourceArgs{
		SecretKeyRef: &corev1.SecretKeySelectorArgs{Name: pulumi.String(secret), Key: pulumi.String(key)}}}
}

func plainEnv(name, value string) *corev1.EnvVarArgs {
	return &corev1.EnvVarArgs{Name: pulumi.String(name), Value: pulumi.String(value)}
}

func commas(s []string) string { return strings.Join(s, ",") }
