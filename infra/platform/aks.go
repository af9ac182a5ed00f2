package platform

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/config"
)

// aks makes an Azure Kubernetes Service cluster: a system pool for Kubernetes' own pods, a user pool
// for each zone, and Cilium, which heeds network policies. Azure makes the network.
var aks = cloud{
	title: "aks", version: "6.20.0",
	storage: config.Storage{Provisioner: "disk.csi.azure.com", TopologyKey: "topology.disk.csi.azure.com/zone", Parameters: map[string]string{"skuName": "Premium_LRS"}},
	build:   buildAKS,
}

// systemMachines is how many machines Kubernetes' own pods have: one can be lost or replaced.
const systemMachines = 3

type resourceGroup struct {
	pulumi.CustomResourceState
	Name pulumi.StringOutput `pulumi:"name"`
}

type aksCluster struct {
	pulumi.CustomResourceState
	KubeConfigRaw pulumi.StringOutput `pulumi:"kubeConfigRaw"`
}

type aksBuild struct {
	*builder
	group   pulumi.StringInput // the resource group's name
	cluster *aksCluster
}

func buildAKS(b *builder) (*made, error) {
	a := &aksBuild{builder: b}
	for _, step := range []func() error{a.resourceGroup, a.controlPlane} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	machines, err := a.machines()
	if err != nil {
		return nil, err
	}
	return &made{kubeconfig: a.cluster.KubeConfigRaw, cluster: a.cluster.ID().ToStringOutput(), needs: machines}, nil
}

func (a *aksBuild) resourceGroup() error {
	if a.Cloud.ResourceGroup != "" {
		a.group = pulumi.String(a.Cloud.ResourceGroup)
		return nil
	}
	g := &resourceGroup{}
	// With the group goes all that is in it, the volumes too.
	err := a.add("azure:core/resourceGroup:ResourceGroup", "group", pulumi.Map{"location": pulumi.String(a.Cloud.Region)}, g, a.defining()...)
	a.group = g.Name
	return err
}

func (a *aksBuild) controlPlane() error {
	var zones []string
	for _, z := range a.Zones {
		zones = append(zones, a.ZoneSuffix(z.Name))
	}
	a.cluster = &aksCluster{}
	return a.add("azure:containerservice/kubernetesCluster:KubernetesCluster", "cluster", setIf(pulumi.Map{
		"resourceGroupName": a.group, "location": pulumi.String(a.Cloud.Region), "dnsPrefix": pulumi.String(a.Name),
		"skuTier":  pulumi.String("Standard"), // the first whose control plane is promised to outlive a zone
		"identity": pulumi.Map{"type": pulumi.String("SystemAssigned")},
		"networkProfile": pulumi.Map{"networkPlugin": pulumi.String("azure"), "networkPluginMode": pulumi.String("overlay"),
			"networkDataPlane": pulumi.String("cilium"), "networkPolicy": pulumi.String("cilium")},
		"defaultNodePool": setIf(pulumi.Map{
			"name": pulumi.String("system"), "temporaryNameForRotation": pulumi.String("systemtmp"), "onlyCriticalAddonsEnabled": pulumi.Bool(true),
			"vmSize": pulumi.String(a.Cloud.Machine), "nodeCount": pulumi.Int(systemMachines), "zones": pulumi.ToStringArray(zones),
			"upgradeSettings": pulumi.Map{"maxSurge": pulumi.String("1")},
		}, "orchestratorVersion", a.Cloud.Version),
	}, "kubernetesVersion", a.Cloud.Version), a.cluster, a.defining(
		// A zone more or less is no reason to replace the system's machines.
		pulumi.IgnoreChanges([]string{"defaultNodePool.zones"}),
		pulumi.AdditionalSecretOutputs([]string{"kubeAdminConfigRaw", "kubeAdminConfigs", "kubeConfigRaw", "kubeConfigs"}))...)
}

// machines makes a user pool for each zone. Azure allows a pool's name twelve letters and digits; another
// machine type moves the pods to a pool of the temporary name and back.
func (a *aksBuild) machines() ([]pulumi.Resource, error) {
	return a.pools("azure:containerservice/kubernetesClusterNodePool:KubernetesClusterNodePool", func(z config.Zone) pulumi.Map {
		n := a.ZoneSuffix(z.Name)
		return setIf(pulumi.Map{
			"kubernetesClusterId": a.cluster.ID(), "name": pulumi.String("zone" + n), "temporaryNameForRotation": pulumi.String("zone" + n + "tmp"),
			"mode": pulumi.String("User"), "zones": pulumi.ToStringArray([]string{n}), "nodeCount": pulumi.Int(z.Nodes), "vmSize": pulumi.String(a.Cloud.Machine),
			"upgradeSettings": pulumi.Map{"maxSurge": pulumi.String("1")},
		}, "orchestratorVersion", a.Cloud.Version)
	})
}
