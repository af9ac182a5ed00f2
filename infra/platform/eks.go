package platform

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/atolldb/atoll/infra/config"
)

// eks makes an Amazon EKS cluster: a VPC with a public subnet for each zone (or the subnets of one
// that exists), a managed node group for each, and the add-ons that disks and network policies need.
var eks = cloud{
	title: "eks", version: "6.66.2",
	storage: config.Storage{Provisioner: "ebs.csi.aws.com", TopologyKey: zoneLabel, Parameters: map[string]string{"type": "gp3", "encrypted": "true"}},
	refuse:  refuseAWSConfig,
	build:   buildEKS,
}

type awsProvider struct{ pulumi.ProviderResourceState }

type awsRole struct {
	pulumi.CustomResourceState
	Name pulumi.StringOutput `pulumi:"name"`
	ARN  pulumi.StringOutput `pulumi:"arn"`
}

type eksCluster struct {
	pulumi.CustomResourceState
	Name                 pulumi.StringOutput    `pulumi:"name"`
	ARN                  pulumi.StringOutput    `pulumi:"arn"`
	Endpoint             pulumi.StringOutput    `pulumi:"endpoint"`
	CertificateAuthority pulumi.StringMapOutput `pulumi:"certificateAuthority"`
}

// eksBuild holds what the steps share.
type eksBuild struct {
	*builder
	cluster *eksCluster
	subnets []pulumi.StringInput // of the zones, in their order
	routes  []pulumi.Resource    // without which no machine reaches the control plane
}

func buildEKS(b *builder) (*made, error) {
	e := &eksBuild{builder: b}
	for _, step := range []func() error{e.provider, e.network, e.controlPlane} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	early, err := e.addOns(nil, "vpc-cni", "kube-proxy", "eks-pod-identity-agent")
	if err != nil {
		return nil, err
	}
	machines, err := e.machines(early)
	if err != nil {
		return nil, err
	}
	late, err := e.addOns(machines, "coredns")
	if err != nil {
		return nil, err
	}
	disks, err := e.disks(slices.Concat(machines, early))
	if err != nil {
		return nil, err
	}
	return &made{kubeconfig: e.kubeconfig(), cluster: e.cluster.ARN, needs: slices.Concat(machines, late, []pulumi.Resource{disks})}, nil
}

// awsProfile is the one setting of Pulumi's aws namespace that is used: kubectl's login knows it too.
const awsProfile = "aws:profile"

// refuseAWSConfig finds settings of the aws namespace that would silently not count.
func refuseAWSConfig(ctx *pulumi.Context, spec *config.Spec) error {
	var faults []string
	if region, ok := ctx.GetConfig("aws:region"); ok && region != spec.Cloud.Region {
		faults = append(faults, fmt.Sprintf("aws:region is %q, but atoll:cloud.region is %q; the latter counts: remove aws:region", region, spec.Cloud.Region))
	}
	for _, key := range []string{"aws:accessKey", "aws:secretKey", "aws:token", "aws:assumeRole", "aws:assumeRoles", "aws:assumeRoleWithWebIdentity"} {
		if _, ok := ctx.GetConfig(key); ok {
			faults = append(faults, key+" is set, but kubectl's login (aws eks get-token) would not know it; use "+awsProfile+", or the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID)")
		}
	}
	if len(faults) > 0 {
		return &config.Error{Faults: faults}
	}
	return nil
}

// provider makes the provider of the region: for AWS, a resource has none of its own.
func (e *eksBuild) provider() error {
	in := pulumi.Map{"region": pulumi.String(e.Cloud.Region)}
	profile, _ := e.ctx.GetConfig(awsProfile)
	p := &awsProvider{}
	if err := e.add("pulumi:providers:aws", "aws", setIf(in, "profile", profile), p); err != nil {
		return err
	}
	e.opts = append(e.opts, pulumi.Provider(p))
	return nil
}

func (e *eksBuild) network() error {
	if len(e.Cloud.Subnets) > 0 {
		for _, z := range e.Zones {
			for _, s := range e.Cloud.Subnets {
				if s.Zone == z.Name {
					e.subnets = append(e.subnets, pulumi.String(s.ID))
				}
			}
		}
		return nil
	}
	vpc, err := e.part("aws:ec2/vpc:Vpc", "vpc", pulumi.Map{"cidrBlock": pulumi.String("10.0.0.0/16"),
		"enableDnsSupport": pulumi.Bool(true), "enableDnsHostnames": pulumi.Bool(true), "tags": e.tags("vpc", nil)})
	if err != nil {
		return err
	}
	// An internet gateway spans the zones: unlike a NAT gateway, it takes no zone's way out with
	// another's. The machines' security group lets nothing in from outside.
	gateway, err := e.part("aws:ec2/internetGateway:InternetGateway", "gateway", pulumi.Map{"vpcId": vpc.ID(), "tags": e.tags("gateway", nil)})
	if err != nil {
		return err
	}
	table, err := e.part("aws:ec2/routeTable:RouteTable", "routes", pulumi.Map{"vpcId": vpc.ID(), "tags": e.tags("routes", nil),
		"routes": pulumi.Array{pulumi.Map{"cidrBlock": pulumi.String("0.0.0.0/0"), "gatewayId": gateway.ID()}}})
	if err != nil {
		return err
	}
	for _, z := range e.Zones {
		if err := e.subnet(z, vpc, table); err != nil {
			return err
		}
	}
	return nil
}

// subnet makes a zone's subnet. Its addresses follow from the zone's letter, so that other zones
// never move it: 10.0.0.0/21 for a, 10.0.8.0/21 for b.
func (e *eksBuild) subnet(z config.Zone, vpc, table *part) error {
	letter := e.ZoneSuffix(z.Name)[0] - 'a'
	s, err := e.part("aws:ec2/subnet:Subnet", "subnet-"+z.Name, pulumi.Map{"vpcId": vpc.ID(), "availabilityZone": pulumi.String(z.Name),
		"cidrBlock": pulumi.Sprintf("10.0.%d.0/21", letter*8), "mapPublicIpOnLaunch": pulumi.Bool(true),
		"tags": e.tags("subnet-"+z.Name, map[string]string{"kubernetes.io/role/elb": "1"})})
	if err != nil {
		return err
	}
	route, err := e.part("aws:ec2/routeTableAssociation:RouteTableAssociation", "routes-"+z.Name, pulumi.Map{"subnetId": s.ID(), "routeTableId": table.ID()})
	e.subnets, e.routes = append(e.subnets, s.ID().ToStringOutput()), append(e.routes, route)
	return err
}

func (e *eksBuild) tags(suffix string, more map[string]string) pulumi.Map {
	out := pulumi.Map{"Name": pulumi.String(e.name + "-" + suffix)}
	for k, v := range more {
		out[k] = pulumi.String(v)
	}
	return out
}

// role makes a role that a service may take, with Amazon's own policies. What uses the role has to
// wait for the attachments as well.
func (e *eksBuild) role(suffix, service string, actions []string, policies ...string) (*awsRole, []pulumi.Resource, error) {
	trust, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{
		map[string]any{"Effect": "Allow", "Principal": map[string]any{"Service": service}, "Action": actions}}})
	if err != nil {
		return nil, nil, err
	}
	r := &awsRole{}
	if err := e.add("aws:iam/role:Role", suffix, pulumi.Map{"assumeRolePolicy": pulumi.String(trust)}, r); err != nil {
		return nil, nil, err
	}
	all := []pulumi.Resource{r}
	for _, p := range policies {
		a, err := e.part("aws:iam/rolePolicyAttachment:RolePolicyAttachment", suffix+"-"+p[strings.LastIndexByte(p, '/')+1:],
			pulumi.Map{"role": r.Name, "policyArn": pulumi.Sprintf("arn:%s:iam::aws:policy/%s", partition(e.Cloud.Region), p)})
		if err != nil {
			return nil, nil, err
		}
		all = append(all, a)
	}
	return r, all, nil
}

// partition returns the first part of a region's ARNs. China's is refused by the configuration.
func partition(region string) string {
	if strings.HasPrefix(region, "us-gov-") {
		return "aws-us-gov"
	}
	return "aws"
}

// controlPlaneZones is how many of the zones hold the control plane's network interfaces: EKS wants
// two, spreads itself over three whatever they are, and lets nobody change the zones later.
const controlPlaneZones = 2

func (e *eksBuild) controlPlane() error {
	r, attached, err := e.role("control-plane", "eks.amazonaws.com", []string{"sts:AssumeRole"}, "AmazonEKSClusterPolicy")
	if err != nil {
		return err
	}
	var subnets pulumi.Array
	for _, s := range e.subnets[:controlPlaneZones] {
		subnets = append(subnets, s)
	}
	e.cluster = &eksCluster{}
	return e.add("aws:eks/cluster:Cluster", "cluster", setIf(pulumi.Map{
		"roleArn": r.ARN,
		"vpcConfig": pulumi.Map{"subnetIds": subnets, "endpointPublicAccess": pulumi.Bool(true),
			"endpointPrivateAccess": pulumi.Bool(true)}, // machines find the control plane without the internet
		"accessConfig": pulumi.Map{"authenticationMode": pulumi.String("API"), "bootstrapClusterCreatorAdminPermissions": pulumi.Bool(true)},
		// All of them are add-ons here, which EKS keeps going.
		"bootstrapSelfManagedAddons": pulumi.Bool(false),
	}, "version", e.Cloud.Version), e.cluster, e.defining(pulumi.DependsOn(attached), pulumi.IgnoreChanges([]string{"vpcConfig.subnetIds"}))...)
}

// machines makes a node group for each zone.
func (e *eksBuild) machines(early []pulumi.Resource) ([]pulumi.Resource, error) {
	r, attached, err := e.role("machines", "ec2.amazonaws.com", []string{"sts:AssumeRole"},
		"AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryReadOnly")
	if err != nil {
		return nil, err
	}
	subnetOf := map[string]pulumi.StringInput{}
	for i, z := range e.Zones {
		subnetOf[z.Name] = e.subnets[i]
	}
	return e.pools("aws:eks/nodeGroup:NodeGroup", func(z config.Zone) pulumi.Map {
		n := pulumi.Int(z.Nodes)
		return setIf(pulumi.Map{
			"clusterName": e.cluster.Name, "nodeRoleArn": r.ARN, "subnetIds": pulumi.Array{subnetOf[z.Name]},
			"instanceTypes": pulumi.ToStringArray([]string{e.Cloud.Machine}), "amiType": pulumi.String(amiType(e.Cloud.Machine)), "capacityType": pulumi.String("ON_DEMAND"),
			"scalingConfig": pulumi.Map{"minSize": n, "desiredSize": n, "maxSize": n},
			"updateConfig":  pulumi.Map{"maxUnavailable": pulumi.Int(1)},
			"tags":          e.tags("zone-"+z.Name, nil),
		}, "version", e.Cloud.Version)
	}, slices.Concat(early, attached, e.routes)...)
}

// amiType returns the machine image for an instance type: Graviton's have a g after the generation.
func amiType(machine string) string {
	family, _, _ := strings.Cut(machine, ".")
	afterGeneration := strings.TrimLeft(strings.TrimLeft(family, "abcdefghijklmnopqrstuvwxyz"), "0123456789")
	if strings.Contains(afterGeneration, "g") || family == "a1" {
		return "AL2023_ARM_64_STANDARD"
	}
	return "AL2023_x86_64_STANDARD"
}

// addOnSettings is what an add-on is given beside its name.
var addOnSettings = map[string]string{
	"vpc-cni": `{"enableNetworkPolicy":"true"}`, // without it, the cluster's NetworkPolicy holds nobody off
}

func (e *eksBuild) addOns(after []pulumi.Resource, names ...string) ([]pulumi.Resource, error) {
	var all []pulumi.Resource
	for _, n := range names {
		a, err := e.part("aws:eks/addon:Addon", n, setIf(e.addOn(n), "configurationValues", addOnSettings[n]), pulumi.DependsOn(after))
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func (e *eksBuild) addOn(name string) pulumi.Map {
	return pulumi.Map{"clusterName": e.cluster.Name, "addonName": pulumi.String(name),
		"resolveConflictsOnCreate": pulumi.String("OVERWRITE"), "resolveConflictsOnUpdate": pulumi.String("OVERWRITE")}
}

// disks makes the driver of EBS volumes and its role.
func (e *eksBuild) disks(after []pulumi.Resource) (pulumi.Resource, error) {
	r, attached, err := e.role("disks", "pods.eks.amazonaws.com", []string{"sts:AssumeRole", "sts:TagSession"}, "service-role/AmazonEBSCSIDriverPolicy")
	if err != nil {
		return nil, err
	}
	in := e.addOn("aws-ebs-csi-driver")
	in["podIdentityAssociations"] = pulumi.Array{pulumi.Map{"serviceAccount": pulumi.String("ebs-csi-controller-sa"), "roleArn": r.ARN}}
	return e.part("aws:eks/addon:Addon", "aws-ebs-csi-driver", in, pulumi.DependsOn(slices.Concat(attached, after)))
}

func (e *eksBuild) kubeconfig() pulumi.StringOutput {
	profile, _ := e.ctx.GetConfig(awsProfile)
	region := e.Cloud.Region
	return pulumi.All(e.cluster.Name, e.cluster.Endpoint, e.cluster.CertificateAuthority).ApplyT(func(all []any) (string, error) {
		name, endpoint, ca := all[0].(string), all[1].(string), all[2].(map[string]string)["data"]
		login := &clientcmdapi.ExecConfig{Command: "aws", Args: []string{"eks", "get-token", "--cluster-name", name, "--region", region, "--output", "json"},
			InstallHint: "install the AWS CLI, version 2"}
		if profile != "" {
			login.Env = []clientcmdapi.ExecEnvVar{{Name: "AWS_PROFILE", Value: profile}}
		}
		return loginKubeconfig(name, endpoint, ca, login)
	}).(pulumi.StringOutput)
}
