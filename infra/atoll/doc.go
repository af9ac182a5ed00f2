// Package atoll is Atoll as Pulumi components, for use in any Pulumi program:
//
//	Cluster            a whole database: namespace, identity, network rules, and all below
//	├── Certificates   the CA and one certificate per zone, rotated without a restart
//	├── SQLEndpoint    Services: all nodes, each zone, the console, and the nodes' own names
//	├── ZoneGroup      one for each zone: StorageClass, StatefulSet, volumes
//	└── Monitoring     ServiceMonitor, alerts and a dashboard (optional)
//
// What has to happen between resources happens in Kubernetes Jobs that run the atoll binary and
// are part of the graph; a Job is named by the hash of what it does, so it runs again exactly
// when that changes:
//
//	retire → zone 1 → wait → zone 2 → wait → zone 3 → wait → found → wait for full replication → policy
//
// retire moves data off nodes that the stack no longer has, and refuses where that is not
// possible: where the nodes that stay could not keep the policies in force. policy, last of all,
// puts the stack's policy into force. The waits make a new image go zone by zone; until the cluster was founded they
// end as soon as the zone's nodes answer. found is harmless when repeated.
//
// Nothing happens in a preview or inside an Apply but computing.
package atoll
