// Command example uses Atoll as a Go package in a Pulumi program of its own: the database beside
// the application that needs it. Copy it, with a Pulumi.yaml that says runtime: go.
package main

import (
	"os"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/atoll"
	"github.com/atolldb/atoll/infra/config"
)

func main() { pulumi.Run(program) }

func program(ctx *pulumi.Context) error {
	// The same keys as in a stack's file; every fault is listed at once.
	spec, err := config.Read(config.FromStack(map[string]any{
		"image":     "registry.example/atoll:1.0",
		"namespace": "shop",
		"policy":    "survive-zone",
		"zones": []any{
			map[string]any{"name": "eu-a", "region": "eu", "nodes": 2},
			map[string]any{"name": "eu-b", "region": "eu", "nodes": 2},
			map[string]any{"name": "eu-c", "region": "eu", "nodes": 2},
		},
		"storage": map[string]any{"class": "standard", "size": "50Gi"},
	}), os.ReadFile)
	if err != nil {
		return err
	}
	db, err := atoll.NewCluster(ctx, "shop-db", &atoll.ClusterArgs{Spec: spec})
	if err != nil {
		return err
	}
	// The application finds its connection string in a Secret, and the CA beside it.
	_, err = corev1.NewSecret(ctx, "shop-db-login", &corev1.SecretArgs{
		Metadata:   &metav1.ObjectMetaArgs{Name: pulumi.String("shop-db-login"), Namespace: pulumi.String("shop")},
		StringData: pulumi.StringMap{"url": db.Endpoint.InCluster, "ca.crt": db.Certificates.Bundle},
	}, pulumi.DependsOn([]pulumi.Resource{db}))
	if err != nil {
		return err
	}
	ctx.Export("connection", db.Endpoint.Connection)
	return nil
}
