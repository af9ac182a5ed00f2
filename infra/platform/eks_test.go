package platform

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/atolldb/atoll/infra/config"
)

func TestEKSNetwork(t *testing.T) {
	r, _ := prepare(t, config.EKS, nil)
	for zone, cidr := range map[string]string{"eu-central-1a": "10.0.0.0/21", "eu-central-1b": "10.0.8.0/21", "eu-central-1c": "10.0.16.0/21"} {
		s := r.get(t, "atoll-eks-subnet-"+zone)
		require.Equal(t, zone, in(s, "availabilityZone"))
		require.Equal(t, cidr, in(s, "cidrBlock"))
		require.Equal(t, "atoll-eks-vpc-id", in(s, "vpcId"))
		route := r.get(t, "atoll-eks-routes-"+zone)
		require.Equal(t, s.name+"-id", in(route, "subnetId"))
		require.Equal(t, "atoll-eks-routes-id", in(route, "routeTableId"))
		require.True(t, r.runsAfter("atoll-eks-zone-"+zone, route.name), "machines without a route never join")
	}
	out := in(r.get(t, "atoll-eks-routes"), "routes").([]any)
	require.Equal(t, []any{map[string]any{"cidrBlock": "0.0.0.0/0", "gatewayId": "atoll-eks-gateway-id"}}, out)

	cluster := r.get(t, "atoll-eks-cluster")
	require.Equal(t, []any{"atoll-eks-subnet-eu-central-1a-id", "atoll-eks-subnet-eu-central-1b-id"}, in(cluster, "vpcConfig", "subnetIds"))
	require.Equal(t, []string{"vpcConfig.subnetIds"}, cluster.ignore, "EKS lets nobody change their zones")
	require.True(t, r.runsAfter(cluster.name, "atoll-eks-control-plane-AmazonEKSClusterPolicy"))

	// z is the last letter: its addresses still lie in the VPC's.
	r, _ = prepare(t, config.EKS, map[string]any{"zones": []any{map[string]any{"name": "eu-central-1a"}, map[string]any{"name": "eu-central-1b"}, map[string]any{"name": "eu-central-1z"}}})
	require.Equal(t, "10.0.200.0/21", in(r.get(t, "atoll-eks-subnet-eu-central-1z"), "cidrBlock"))
}

func TestEKSInSubnetsThatExist(t *testing.T) {
	var subnets []any
	for i, z := range []string{"c", "a", "b"} {
		subnets = append(subnets, map[string]any{"zone": "eu-central-1" + z, "id": fmt.Sprintf("subnet-0000000%d", i)})
	}
	r, _ := prepare(t, config.EKS, map[string]any{"cloud": map[string]any{"subnets": subnets}})
	for _, m := range r.all {
		require.NotContains(t, m.typ, "aws:ec2/")
	}
	require.Equal(t, []any{"subnet-00000001"}, in(r.get(t, "atoll-eks-zone-eu-central-1a"), "subnetIds"))
	require.Equal(t, []any{"subnet-00000000"}, in(r.get(t, "atoll-eks-zone-eu-central-1c"), "subnetIds"))
	require.Equal(t, []any{"subnet-00000001", "subnet-00000002"}, in(r.get(t, "atoll-eks-cluster"), "vpcConfig", "subnetIds"))
}

// trusted returns who may take a role, and with which actions.
func trusted(t *testing.T, role *registered) (service string, actions []string) {
	t.Helper()
	var policy struct {
		Statement []struct {
			Effect    string
			Principal struct{ Service string }
			Action    []string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(in(role, "assumeRolePolicy").(string)), &policy))
	require.Len(t, policy.Statement, 1)
	require.Equal(t, "Allow", policy.Statement[0].Effect)
	return policy.Statement[0].Principal.Service, policy.Statement[0].Action
}

func TestEKSRoles(t *testing.T) {
	for region, part := range map[string]string{"eu-central-1": "aws", "us-gov-west-1": "aws-us-gov"} {
		change := map[string]any{"cloud": map[string]any{"region": region},
			"zones": []any{map[string]any{"name": region + "a"}, map[string]any{"name": region + "b"}, map[string]any{"name": region + "c"}}}
		r, _ := prepare(t, config.EKS, change)
		for role, want := range map[string]struct {
			service  string
			actions  []string
			policies map[string]string
		}{
			"control-plane": {"eks.amazonaws.com", []string{"sts:AssumeRole"}, map[string]string{"AmazonEKSClusterPolicy": ""}},
			"machines":      {"ec2.amazonaws.com", []string{"sts:AssumeRole"}, map[string]string{"AmazonEKSWorkerNodePolicy": "", "AmazonEKS_CNI_Policy": "", "AmazonEC2ContainerRegistryReadOnly": ""}},
			"disks":         {"pods.eks.amazonaws.com", []string{"sts:AssumeRole", "sts:TagSession"}, map[string]string{"AmazonEBSCSIDriverPolicy": "service-role/"}},
		} {
			service, actions := trusted(t, r.get(t, "atoll-eks-"+role))
			require.Equal(t, want.service, service)
			require.Equal(t, want.actions, actions)
			for p, path := range want.policies {
				a := r.get(t, "atoll-eks-"+role+"-"+p)
				require.Equal(t, "arn:"+part+":iam::aws:policy/"+path+p, in(a, "policyArn"))
				require.Equal(t, "atoll-eks-"+role, in(a, "role"))
				if role == "machines" {
					require.True(t, r.runsAfter("atoll-eks-zone-"+region+"a", a.name))
				}
			}
		}
	}
}

// TestEKSAddOns: what machines need before they are ready comes before them, what runs on them
// after; the disks' driver after its role and the role's policy.
func TestEKSAddOns(t *testing.T) {
	r, target := prepare(t, config.EKS, nil)
	require.Len(t, r.ofType("aws:eks/addon:Addon"), 5)
	require.Equal(t, false, in(r.get(t, "atoll-eks-cluster"), "bootstrapSelfManagedAddons"))
	for _, early := range []string{"vpc-cni", "kube-proxy", "eks-pod-identity-agent"} {
		require.Equal(t, early, in(r.get(t, "atoll-eks-"+early), "addonName"))
		require.True(t, r.runsAfter("atoll-eks-zone-eu-central-1a", "atoll-eks-"+early))
	}
	require.JSONEq(t, `{"enableNetworkPolicy": "true"}`, in(r.get(t, "atoll-eks-vpc-cni"), "configurationValues").(string))
	for _, late := range []string{"coredns", "aws-ebs-csi-driver"} {
		require.Equal(t, late, in(r.get(t, "atoll-eks-"+late), "addonName"))
		require.True(t, r.runsAfter("atoll-eks-"+late, "atoll-eks-zone-eu-central-1c"), "its pods need machines")
	}
	driver := r.get(t, "atoll-eks-aws-ebs-csi-driver")
	require.Equal(t, []any{map[string]any{"serviceAccount": "ebs-csi-controller-sa", "roleArn": "arn:atoll-eks-disks"}}, in(driver, "podIdentityAssociations"))
	for _, need := range []string{"atoll-eks-disks", "atoll-eks-disks-AmazonEBSCSIDriverPolicy", "atoll-eks-eks-pod-identity-agent"} {
		require.True(t, r.runsAfter(driver.name, need), need)
	}
	require.Len(t, target.Needs, 3+2, "pods need the machines, DNS and the disks' driver")
}

// TestEKSProvider: one region for everything, and one profile for the provider and for kubectl's login.
func TestEKSProvider(t *testing.T) {
	r, _, err := tryPrepare(t, config.EKS, nil, map[string]string{"aws:profile": "work", "aws:region": "eu-central-1"})
	require.NoError(t, err)
	provider := r.ofType("pulumi:providers:aws")
	require.Len(t, provider, 1)
	require.Equal(t, map[string]any{"region": "eu-central-1", "profile": "work"}, provider[0].inputs)
	for _, typ := range []string{"aws:eks/cluster:Cluster", "aws:eks/nodeGroup:NodeGroup", "aws:eks/addon:Addon", "aws:ec2/vpc:Vpc", "aws:iam/role:Role"} {
		for _, m := range r.ofType(typ) {
			require.Equal(t, provider[0].name, m.provider, m.name)
		}
	}
	k, err := clientcmd.Load([]byte(in(r.get(t, "atoll-eks-kubernetes"), "kubeconfig").(string)))
	require.NoError(t, err)
	require.Equal(t, "work", k.AuthInfos["atoll-eks-cluster"].Exec.Env[0].Value)

	r, _, err = tryPrepare(t, config.EKS, nil, map[string]string{"aws:region": "us-east-1", "aws:accessKey": "AKIA"})
	require.ErrorContains(t, err, `aws:region is "us-east-1", but atoll:cloud.region is "eu-central-1"`)
	require.ErrorContains(t, err, "aws:accessKey is set, but kubectl's login (aws eks get-token) would not know it; use aws:profile")
	require.Empty(t, r.names())
}

func TestAMIType(t *testing.T) {
	for machine, arm := range map[string]bool{"m6i.xlarge": false, "m7g.xlarge": true, "c7gn.2xlarge": true, "t4g.medium": true, "a1.large": true, "x2gd.metal": true,
		"im4gn.large": true, "g4dn.xlarge": false, "r5ad.large": false, "u7i-12tb.224xlarge": false, "i4i.large": false, "g5g.xlarge": true} {
		want := "AL2023_x86_64_STANDARD"
		if arm {
			want = "AL2023_ARM_64_STANDARD"
		}
		require.Equal(t, want, amiType(machine), machine)
	}
}
