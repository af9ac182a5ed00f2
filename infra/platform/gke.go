package platform

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/atolldb/atoll/infra/config"
)

// gke makes a regional Google Kubernetes Engine cluster on a network of its own: private machines, a
// node pool for each zone, and Dataplane V2, which heeds network policies.
var gke = cloud{
	title: "gke", version: "9.6.0",
	storage: config.Storage{Provisioner: "pd.csi.storage.gke.io", TopologyKey: "topology.gke.io/zone", Parameters: map[string]string{"type": "pd-ssd"}},
	build:   buildGKE,
}

// Addresses inside the network. Pods take a /24 for each machine.
const (
	gkeMachines     = "10.0.0.0/20"
	gkePods         = "10.4.0.0/14"
	gkeServices     = "10.8.0.0/20"
	gkeControlPlane = "172.16.0.0/28"
)

type gkeCluster struct {
	pulumi.CustomResourceState
	Name       pulumi.StringOutput `pulumi:"name"`
	Endpoint   pulumi.StringOutput `pulumi:"endpoint"`
	MasterAuth pulumi.MapOutput    `pulumi:"masterAuth"`
}

type gkeBuild struct {
	*builder
	cluster *gkeCluster
}

func buildGKE(b *builder) (*made, error) {
	g := &gkeBuild{builder: b}
	network, subnet, err := g.network()
	if err != nil {
		return nil, err
	}
	out, err := g.wayOut(network)
	if err != nil {
		return nil, err
	}
	if err := g.controlPlane(network, subnet); err != nil {
		return nil, err
	}
	machines, err := g.machines(out)
	if err != nil {
		return nil, err
	}
	return &made{kubeconfig: g.kubeconfig(), cluster: g.cluster.ID().ToStringOutput(), needs: machines}, nil
}

// in adds the project, which every resource names.
func (g *gkeBuild) in(m pulumi.Map) pulumi.Map { return setIf(m, "project", g.Cloud.Project) }

func (g *gkeBuild) network() (network, subnet *part, err error) {
	network, err = g.part("gcp:compute/network:Network", "network", g.in(pulumi.Map{"autoCreateSubnetworks": pulumi.Bool(false)}))
	if err != nil {
		return nil, nil, err
	}
	subnet, err = g.part("gcp:compute/subnetwork:Subnetwork", "subnet", g.in(pulumi.Map{
		"network": network.ID(), "region": pulumi.String(g.Cloud.Region), "ipCidrRange": pulumi.String(gkeMachines),
		"privateIpGoogleAccess": pulumi.Bool(true),
		"secondaryIpRanges": pulumi.Array{
			pulumi.Map{"rangeName": pulumi.String("pods"), "ipCidrRange": pulumi.String(gkePods)},
			pulumi.Map{"rangeName": pulumi.String("services"), "ipCidrRange": pulumi.String(gkeServices)},
		}}))
	return network, subnet, err
}

// wayOut lets the private machines fetch images. Cloud NAT spans the region's zones.
func (g *gkeBuild) wayOut(network *part) (pulumi.Resource, error) {
	router, err := g.part("gcp:compute/router:Router", "router", g.in(pulumi.Map{"network": network.ID(), "region": pulumi.String(g.Cloud.Region)}))
	if err != nil {
		return nil, err
	}
	return g.part("gcp:compute/routerNat:RouterNat", "nat", g.in(pulumi.Map{"router": router.ID(), "region": pulumi.String(g.Cloud.Region),
		"natIpAllocateOption": pulumi.String("AUTO_ONLY"), "sourceSubnetworkIpRangesToNat": pulumi.String("ALL_SUBNETWORKS_ALL_IP_RANGES")}))
}

func (g *gkeBuild) controlPlane(network, subnet *part) error {
	g.cluster = &gkeCluster{}
	return g.add("gcp:container/cluster:Cluster", "cluster", g.in(setIf(pulumi.Map{
		"location": pulumi.String(g.Cloud.Region), "network": network.ID(), "subnetwork": subnet.ID(),
		// GKE can't make a cluster without a pool: this one goes at once.
		"removeDefaultNodePool": pulumi.Bool(true), "initialNodeCount": pulumi.Int(1),
		"networkingMode":     pulumi.String("VPC_NATIVE"),
		"ipAllocationPolicy": pulumi.Map{"clusterSecondaryRangeName": pulumi.String("pods"), "servicesSecondaryRangeName": pulumi.String("services")},
		"privateClusterConfig": pulumi.Map{"enablePrivateNodes": pulumi.Bool(true), "enablePrivateEndpoint": pulumi.Bool(false),
			"masterIpv4CidrBlock": pulumi.String(gkeControlPlane)},
		"datapathProvider":       pulumi.String("ADVANCED_DATAPATH"),
		"releaseChannel":         pulumi.Map{"channel": pulumi.String("REGULAR")},
		"workloadIdentityConfig": pulumi.Map{"workloadPool": pulumi.String(g.Cloud.Project + ".svc.id.goog")},
		"deletionProtection":     pulumi.Bool(g.Storage.Keep),
	}, "minMasterVersion", g.Cloud.Version)), g.cluster,
		g.defining(pulumi.AdditionalSecretOutputs([]string{"effectiveLabels", "pulumiLabels"}))...)
}

// machines makes a node pool for each zone. A pool's name is its zone's: what is configurable of it
// changes in place, so no second pool ever stands beside it.
func (g *gkeBuild) machines(after ...pulumi.Resource) ([]pulumi.Resource, error) {
	return g.pools("gcp:container/nodePool:NodePool", func(z config.Zone) pulumi.Map {
		return g.in(pulumi.Map{
			"cluster": g.cluster.Name, "location": pulumi.String(g.Cloud.Region), "name": pulumi.String(z.Name),
			"nodeLocations": pulumi.ToStringArray([]string{z.Name}), "nodeCount": pulumi.Int(z.Nodes),
			"management":      pulumi.Map{"autoRepair": pulumi.Bool(true), "autoUpgrade": pulumi.Bool(true)}, // a release channel asks for both
			"upgradeSettings": pulumi.Map{"maxSurge": pulumi.Int(1), "maxUnavailable": pulumi.Int(0)},
			"nodeConfig": pulumi.Map{
				"machineType": pulumi.String(g.Cloud.Machine), "oauthScopes": pulumi.ToStringArray([]string{"https://www.googleapis.com/auth/cloud-platform"}),
				"shieldedInstanceConfig": pulumi.Map{"enableSecureBoot": pulumi.Bool(true), "enableIntegrityMonitoring": pulumi.Bool(true)},
				// Pods don't get at the machine's credentials.
				"workloadMetadataConfig": pulumi.Map{"mode": pulumi.String("GKE_METADATA")},
			},
		})
	}, after...)
}

func (g *gkeBuild) kubeconfig() pulumi.StringOutput {
	return pulumi.All(g.cluster.Name, g.cluster.Endpoint, g.cluster.MasterAuth).ApplyT(func(all []any) (string, error) {
		ca, _ := all[2].(map[string]any)["clusterCaCertificate"].(string)
		return loginKubeconfig(all[0].(string), "https://"+all[1].(string), ca, &clientcmdapi.ExecConfig{Command: "gke-gcloud-auth-plugin", ProvideClusterInfo: true,
			InstallHint: "install it with: gcloud components install gke-gcloud-auth-plugin"})
	}).(pulumi.StringOutput)
}
