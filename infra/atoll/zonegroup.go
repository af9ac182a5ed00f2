package atoll

import (
	"fmt"

	appsv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apps/v1"
	batchv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/batch/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	storagev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/storage/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/config"
)

// ZoneGroupArgs configures a ZoneGroup.
type ZoneGroupArgs struct {
	Spec *config.Spec
	Zone config.Zone
	// After must be done before the zone's nodes are created or changed: what they mount, and
	// the zone before this one in a rolling change.
	After []pulumi.Resource
}

// ZoneGroup is the nodes of one zone: a StorageClass that makes volumes there only, a
// StatefulSet pinned to the zone, its volumes' sizes, and a Job that waits until the
// zone's nodes run what the StatefulSet says and everything is fully replicated.
//
// The StatefulSet is never replaced, since it holds data: what Kubernetes can't change in
// place (volumeClaimTemplates, selector, serviceName, podManagementPolicy) is ignored after it was
// made. Volumes grow through their claims.
type ZoneGroup struct {
	pulumi.ResourceState

	// Zone is the zone's name.
	Zone string
	// StatefulSetName and Revision say what runs; a change of Revision restarts the nodes.
	StatefulSetName pulumi.StringOutput
	Revision        string
	// Ready is the Job after which the next zone may change.
	Ready *batchv1.Job
}

// NewZoneGroup makes a zone's nodes.
func NewZoneGroup(ctx *pulumi.Context, name string, args *ZoneGroupArgs, opts ...pulumi.ResourceOption) (*ZoneGroup, error) {
	g := &ZoneGroup{Zone: args.Zone.Name}
	if err := ctx.RegisterComponentResource("atoll:index:ZoneGroup", name, g, opts...); err != nil {
		return nil, err
	}
	n, z := names{args.Spec}, args.Zone
	after := args.After
	if n.Storage.Class == "" {
		class, err := g.storageClass(ctx, name, n, z)
		if err != nil {
			return nil, err
		}
		after = append(after[:len(after):len(after)], class)
	}
	pod := n.podSpec(z)
	g.Revision = contentHash(pod)
	node := pod.Containers.(corev1.ContainerArray)[0].(*corev1.ContainerArgs)
	node.Args = pulumi.ToStringArray(append(n.startArgs(z), "--revision="+g.Revision))
	set, err := appsv1.NewStatefulSet(ctx, name+"-nodes", &appsv1.StatefulSetArgs{
		Metadata: n.meta(n.set(z.Name), skipAwait, labelZone, z.Name, labelRole, "node"),
		Spec: &appsv1.StatefulSetSpecArgs{
			ServiceName:         pulumi.String(n.headless()),
			Replicas:            pulumi.Int(z.Nodes),
			PodManagementPolicy: pulumi.String("Parallel"),
			UpdateStrategy:      &appsv1.StatefulSetUpdateStrategyArgs{Type: pulumi.String("RollingUpdate")},
			// A node that was retired has no replica left, and its identity never comes back.
			PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicyArgs{
				WhenScaled: pulumi.String("Delete"), WhenDeleted: pulumi.String(map[bool]string{true: "Retain", false: "Delete"}[n.Storage.Keep])},
			Selector: &metav1.LabelSelectorArgs{MatchLabels: n.selector(labelZone, z.Name, labelRole, "node")},
			Template: &corev1.PodTemplateSpecArgs{
				Metadata: &metav1.ObjectMetaArgs{Labels: n.labels(labelZone, z.Name, labelRole, "node")},
				Spec:     pod,
			},
			VolumeClaimTemplates: corev1.PersistentVolumeClaimTypeArray{g.claim(n, z)},
		},
	}, pulumi.Parent(g), pulumi.DependsOn(after),
		pulumi.IgnoreChanges([]string{"spec.volumeClaimTemplates", "spec.selector", "spec.serviceName", "spec.podManagementPolicy"}))
	if err != nil {
		return nil, err
	}
	g.StatefulSetName = set.Metadata.Name().Elem()
	g.Ready, err = newJob(ctx, name+"-wait", n, jobSpec{
		Step: "wait-" + z.Name, Trigger: g.Revision, Founded: true,
		Args: []string{"node", "wait-replicated", "--http=" + commas(n.allHosts(HTTPPort)), "--updated=" + commas(n.hosts(z, HTTPPort)),
			"--revision=" + g.Revision, foundedArg, "--timeout=" + n.Timeout.String()},
	}, pulumi.Parent(g), pulumi.DependsOn([]pulumi.Resource{set}))
	if err != nil {
		return nil, err
	}
	if err := g.growVolumes(ctx, name, n, z); err != nil {
		return nil, err
	}
	return g, ctx.RegisterResourceOutputs(g, pulumi.Map{"statefulSet": g.StatefulSetName, "revision": pulumi.String(g.Revision)})
}

// storageClass makes a class of the zone alone, so that a longer list of zones changes no class.
func (g *ZoneGroup) storageClass(ctx *pulumi.Context, name string, n names, z config.Zone) (*storagev1.StorageClass, error) {
	reclaim := "Retain"
	if !n.Storage.Keep {
		reclaim = "Delete"
	}
	return storagev1.NewStorageClass(ctx, name+"-class", &storagev1.StorageClassArgs{
		Metadata:             &metav1.ObjectMetaArgs{Name: pulumi.String(n.storageClass(z.Name)), Labels: n.labels(labelZone, z.Name), Annotations: pulumi.StringMap{takeBack: pulumi.String("true")}},
		Provisioner:          pulumi.String(n.Storage.Provisioner),
		Parameters:           pulumi.ToStringMap(n.Storage.Parameters),
		VolumeBindingMode:    pulumi.String("WaitForFirstConsumer"),
		AllowVolumeExpansion: pulumi.Bool(true),
		ReclaimPolicy:        pulumi.String(reclaim),
		AllowedTopologies: corev1.TopologySelectorTermArray{&corev1.TopologySelectorTermArgs{
			MatchLabelExpressions: corev1.TopologySelectorLabelRequirementArray{&corev1.TopologySelectorLabelRequirementArgs{
				Key: pulumi.String(n.Storage.TopologyKey), Values: pulumi.ToStringArray([]string{z.Name})}}}},
	}, pulumi.Parent(g), pulumi.DeleteBeforeReplace(true))
}

func (g *ZoneGroup) claim(n names, z config.Zone) *corev1.PersistentVolumeClaimTypeArgs {
	return &corev1.PersistentVolumeClaimTypeArgs{
		Metadata: &metav1.ObjectMetaArgs{Name: pulumi.String("data"), Labels: n.selector(labelZone, z.Name)},
		Spec: &corev1.PersistentVolumeClaimSpecArgs{
			AccessModes:      pulumi.ToStringArray([]string{"ReadWriteOnce"}),
			StorageClassName: pulumi.String(n.storageClass(z.Name)),
			Resources:        &corev1.VolumeResourceRequirementsArgs{Requests: pulumi.StringMap{"storage": pulumi.String(config.FormatBytes(n.Storage.SizeBytes))}},
		},
	}
}

// growVolumes keeps the claims that the StatefulSet made at the size of the configuration.
func (g *ZoneGroup) growVolumes(ctx *pulumi.Context, name string, n names, z config.Zone) error {
	for i := range z.Nodes {
		claim := "data-" + config.PodName(n.Name, z.Name, i)
		_, err := corev1.NewPersistentVolumeClaimPatch(ctx, fmt.Sprintf("%s-size-%d", name, i), &corev1.PersistentVolumeClaimPatchArgs{
			Metadata: &metav1.ObjectMetaPatchArgs{Name: pulumi.String(claim), Namespace: pulumi.String(n.Namespace),
				// The StatefulSet's controller wrote the first size and never changes it.
				Annotations: pulumi.StringMap{takeBack: pulumi.String("true"), "pulumi.com/skipAwait": pulumi.String("true")}},
			Spec: &corev1.PersistentVolumeClaimSpecPatchArgs{Resources: &corev1.VolumeResourceRequirementsPatchArgs{
				Requests: pulumi.StringMap{"storage": pulumi.String(config.FormatBytes(n.Storage.SizeBytes))}}},
		}, pulumi.Parent(g), pulumi.DependsOn([]pulumi.Resource{g.Ready}), pulumi.RetainOnDelete(true))
		if err != nil {
			return err
		}
	}
	return nil
}
