package main

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is what the provider knows of a Kubernetes kind.
type kind struct {
	gvr        schema.GroupVersionResource
	namespaced bool
	// patch is a Pulumi kind that changes some fields of an object that somebody else made.
	patch bool
	// fixed are paths that can't be changed in place: a change replaces the object.
	fixed []string
}

var known = map[string]kind{
	"kubernetes:core/v1:Namespace":                  {gvr: core("namespaces")},
	"kubernetes:core/v1:Secret":                     {gvr: core("secrets"), namespaced: true, fixed: []string{"type", "immutable"}},
	"kubernetes:core/v1:ConfigMap":                  {gvr: core("configmaps"), namespaced: true, fixed: []string{"immutable"}},
	"kubernetes:core/v1:Service":                    {gvr: core("services"), namespaced: true, fixed: []string{"spec.clusterIP"}},
	"kubernetes:core/v1:ServiceAccount":             {gvr: core("serviceaccounts"), namespaced: true},
	"kubernetes:core/v1:PersistentVolumeClaim":      {gvr: core("persistentvolumeclaims"), namespaced: true, fixed: []string{"spec.storageClassName", "spec.accessModes", "spec.volumeName"}},
	"kubernetes:core/v1:PersistentVolumeClaimPatch": {gvr: core("persistentvolumeclaims"), namespaced: true, patch: true},
	"kubernetes:apps/v1:StatefulSet": {gvr: group("apps", "v1", "statefulsets"), namespaced: true,
		fixed: []string{"spec.selector", "spec.serviceName", "spec.podManagementPolicy", "spec.volumeClaimTemplates"}},
	"kubernetes:batch/v1:Job": {gvr: group("batch", "v1", "jobs"), namespaced: true,
		fixed: []string{"spec.template", "spec.selector", "spec.completions", "spec.completionMode", "spec.podFailurePolicy", "spec.backoffLimit"}},
	"kubernetes:policy/v1:PodDisruptionBudget":      {gvr: group("policy", "v1", "poddisruptionbudgets"), namespaced: true},
	"kubernetes:networking.k8s.io/v1:NetworkPolicy": {gvr: group("networking.k8s.io", "v1", "networkpolicies"), namespaced: true},
	"kubernetes:storage.k8s.io/v1:StorageClass": {gvr: group("storage.k8s.io", "v1", "storageclasses"),
		fixed: []string{"provisioner", "parameters", "reclaimPolicy", "volumeBindingMode", "allowedTopologies"}},
	"kubernetes:monitoring.coreos.com/v1:ServiceMonitor": {gvr: group("monitoring.coreos.com", "v1", "servicemonitors"), namespaced: true},
	"kubernetes:monitoring.coreos.com/v1:PrometheusRule": {gvr: group("monitoring.coreos.com", "v1", "prometheusrules"), namespaced: true},
}

func core(plural string) schema.GroupVersionResource { return group("", "v1", plural) }

func group(g, v, plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: g, Version: v, Resource: plural}
}

// kindOf returns the kind of a resource by its URN: urn:pulumi:stack::project::parent$type::name.
func kindOf(urn string) (kind, error) {
	parts := strings.SplitN(urn, "::", 4)
	if len(parts) != 4 {
		return kind{}, fmt.Errorf("%q is no URN", urn)
	}
	token := parts[2][strings.LastIndexByte(parts[2], '$')+1:]
	k, ok := known[token]
	if !ok {
		var names []string
		for n := range known {
			names = append(names, strings.TrimPrefix(n, "kubernetes:"))
		}
		slices.Sort(names)
		return kind{}, fmt.Errorf("the stand-in for Pulumi's Kubernetes provider does not serve %s; it serves %s; install the official plugin for more: pulumi plugin install resource kubernetes", token, strings.Join(names, ", "))
	}
	return k, nil
}

// immutable reports whether a change at path replaces the object.
func (k kind) immutable(path string) bool {
	for _, f := range append([]string{"metadata.name", "metadata.namespace", "apiVersion", "kind"}, k.fixed...) {
		if path == f || strings.HasPrefix(path, f+".") || strings.HasPrefix(path, f+"[") {
			return true
		}
	}
	return false
}
