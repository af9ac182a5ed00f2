// Package terratest is the zone-failure kit: Terratest around the real pulumi CLI, on any stack.
//
//	make zone-test                       # the local platform (root); deploys it first
//	make zone-test STACK=my-stack        # any other stack that is up; SKIP_deploy=1 leaves it as it is
//
// It checks what was deployed, loses zones in every way that the platform can, changes image and
// certificates, all under a workload of plain pgx clients, and holds the cluster to its promises:
// no acknowledged write is lost, no read is stale, a copy of all tables is one moment's, all replicas
// come back. A fault that needs the local platform is skipped elsewhere, with the reason. Stages
// (deploy, inspect, faults, change, policy, drift, destroy) are Terratest's: SKIP_<stage>=1 leaves one out. The
// stack is up at the end; where a promise was broken the workload's tables stay, in schema zone_failure.
//
// It is a module of its own: Terratest brings the SDKs of three clouds, which the database's module
// must not ask for.
package terratest
