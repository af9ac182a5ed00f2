package platform

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/infra/config"
)

func TestGKENetworkAndCluster(t *testing.T) {
	r, _ := prepare(t, config.GKE, nil)
	for _, m := range r.all {
		if m.typ != "atoll:platform:GKE" && m.typ != "pulumi:providers:kubernetes" {
			require.Equal(t, "my-project", in(m, "project"), m.name)
		}
	}
	require.Equal(t, false, in(r.get(t, "atoll-gke-network"), "autoCreateSubnetworks"))
	subnet := r.get(t, "atoll-gke-subnet")
	require.Equal(t, "atoll-gke-network-id", in(subnet, "network"))
	require.Equal(t, []any{map[string]any{"rangeName": "pods", "ipCidrRange": gkePods}, map[string]any{"rangeName": "services", "ipCidrRange": gkeServices}}, in(subnet, "secondaryIpRanges"))
	require.Equal(t, "atoll-gke-router-id", in(r.get(t, "atoll-gke-nat"), "router"))
	require.True(t, r.runsAfter("atoll-gke-zone-europe-west3-a", "atoll-gke-nat"), "private machines fetch images through it")

	c := r.get(t, "atoll-gke-cluster")
	require.Equal(t, "europe-west3", in(c, "location"), "a region: the control plane outlives a zone")
	require.Equal(t, "atoll-gke-subnet-id", in(c, "subnetwork"))
	require.Equal(t, true, in(c, "removeDefaultNodePool"))
	require.Equal(t, true, in(c, "privateClusterConfig", "enablePrivateNodes"))
	require.Equal(t, "pods", in(c, "ipAllocationPolicy", "clusterSecondaryRangeName"))
	require.Equal(t, "ADVANCED_DATAPATH", in(c, "datapathProvider"))
	require.Equal(t, true, in(c, "deletionProtection"))
	r, _ = prepare(t, config.GKE, map[string]any{"storage": map[string]any{"keep": false}})
	require.Equal(t, false, in(r.get(t, "atoll-gke-cluster"), "deletionProtection"))
}

func TestAKSCluster(t *testing.T) {
	r, _ := prepare(t, config.AKS, nil)
	group := r.get(t, "atoll-aks-group")
	require.True(t, group.protect, "the volumes go with it")
	require.Equal(t, "westeurope", in(group, "location"))
	c := r.get(t, "atoll-aks-cluster")
	require.Equal(t, "atoll-aks-group", in(c, "resourceGroupName"))
	require.Equal(t, "cilium", in(c, "networkProfile", "networkPolicy"))
	system := in(c, "defaultNodePool").(map[string]any)
	require.Equal(t, "system", system["name"])
	require.Equal(t, true, system["onlyCriticalAddonsEnabled"])
	require.Equal(t, float64(systemMachines), system["nodeCount"])
	require.Equal(t, []any{"1", "2", "3"}, system["zones"])
	require.Equal(t, "1.33", system["orchestratorVersion"])
	require.Equal(t, "atoll-aks-cluster-id", in(r.get(t, "atoll-aks-zone-westeurope-1"), "kubernetesClusterId"))

	r, _ = prepare(t, config.AKS, map[string]any{"cloud": map[string]any{"resourceGroup": "mine"}})
	require.Empty(t, r.ofType("azure:core/resourceGroup:ResourceGroup"))
	require.Equal(t, "mine", in(r.get(t, "atoll-aks-cluster"), "resourceGroupName"))
}
