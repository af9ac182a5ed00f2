package atoll

import (
	_ "embed"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apiextensions"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/atolldb/atoll/infra/config"
)

// MonitoringArgs configures Monitoring.
type MonitoringArgs struct {
	Spec *config.Spec
}

// Monitoring is what a Prometheus operator and Grafana's side-car pick up: a ServiceMonitor, alerts
// and a dashboard. The cluster must have the operator's resource definitions
// (monitoring.coreos.com/v1).
type Monitoring struct {
	pulumi.ResourceState
}

//go:embed dashboard.json
var dashboard string

// alert is one rule. For is how long it must hold.
type alert struct{ name, expr, wait, severity, summary string }

func (n names) alerts() []alert {
	job := `namespace="` + n.Namespace + `",service="` + n.headless() + `"`
	return []alert{
		{"AtollNodeDown", `up{` + job + `} == 0`, "2m", "warning", "An Atoll node does not answer: see kubectl get pods and atoll.nodes"},
		{"AtollZoneDown", `count by (namespace) (up{` + job + `} == 0) > 1`, "1m", "critical", "Several Atoll nodes do not answer: no further failure may be survived"},
		{"AtollSupportLapses", `sum(rate(atoll_liveness_lapses_total{` + job + `}[5m])) > 0.2`, "5m", "warning", "Nodes lose each other's support again and again: look at CPU throttling, disks and the network"},
		{"AtollClockOffset", `max(abs(atoll_liveness_clock_offset_seconds{` + job + `})) > 0.1`, "5m", "critical", "Clocks differ by more than 100 ms: nodes beyond 200 ms stop; see to NTP"},
		{"AtollRefusedClients", `sum(rate(atoll_sql_connections_refused_total{` + job + `}[5m])) > 0`, "5m", "warning", "SQL clients are refused: raise --max-connections or pool them"},
	}
}

// NewMonitoring makes the monitoring objects.
func NewMonitoring(ctx *pulumi.Context, name string, args *MonitoringArgs, opts ...pulumi.ResourceOption) (*Monitoring, error) {
	m := &Monitoring{}
	if err := ctx.RegisterComponentResource("atoll:index:Monitoring", name, m, opts...); err != nil {
		return nil, err
	}
	n := names{args.Spec}
	_, err := apiextensions.NewCustomResource(ctx, name+"-scrape", &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("monitoring.coreos.com/v1"), Kind: pulumi.String("ServiceMonitor"), Metadata: n.meta(n.Name, nil),
		OtherFields: kubernetes.UntypedArgs{"spec": map[string]any{
			"selector":  map[string]any{"matchLabels": map[string]any{labelCluster: n.Name, labelRole: "node"}},
			"endpoints": []any{map[string]any{"port": "http", "path": "/metrics", "interval": "15s"}},
		}},
	}, pulumi.Parent(m))
	if err != nil {
		return nil, err
	}
	var rules []any
	for _, a := range n.alerts() {
		rules = append(rules, map[string]any{"alert": a.name, "expr": a.expr, "for": a.wait,
			"labels": map[string]any{"severity": a.severity}, "annotations": map[string]any{"summary": a.summary}})
	}
	_, err = apiextensions.NewCustomResource(ctx, name+"-alerts", &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("monitoring.coreos.com/v1"), Kind: pulumi.String("PrometheusRule"), Metadata: n.meta(n.Name, nil),
		OtherFields: kubernetes.UntypedArgs{"spec": map[string]any{"groups": []any{map[string]any{"name": "atoll", "rules": rules}}}},
	}, pulumi.Parent(m))
	if err != nil {
		return nil, err
	}
	_, err = corev1.NewConfigMap(ctx, name+"-dashboard", &corev1.ConfigMapArgs{
		Metadata: n.meta(n.Name+"-dashboard", nil, "grafana_dashboard", "1"), Data: pulumi.StringMap{"atoll.json": pulumi.String(dashboard)},
	}, pulumi.Parent(m))
	if err != nil {
		return nil, err
	}
	return m, ctx.RegisterResourceOutputs(m, pulumi.Map{})
}
