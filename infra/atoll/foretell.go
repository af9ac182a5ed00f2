package atoll

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Asker runs statements on a cluster and returns the first column of all rows. connection is the
// stack's connection string, ca the certificates to trust, in PEM. It must not change anything.
type Asker func(ctx context.Context, connection, ca, sql string) ([]string, error)

// askTimeout bounds what a preview waits for the cluster.
const askTimeout = 5 * time.Second

// foretell shows in a preview what the stack's policy survives, costs and would move, as the running
// cluster sees it. A first preview has no cluster yet: the outputs are not known, and nothing is asked.
func foretell(ctx *pulumi.Context, c *Cluster, args *ClusterArgs) {
	p := inCluster(args.Spec.Policy)
	pulumi.All(c.Endpoint.Connection, c.Certificates.Bundle).ApplyT(func(v []any) (string, error) {
		connection, _ := v[0].(string)
		ca, _ := v[1].(string)
		actx, cancel := context.WithTimeout(ctx.Context(), askTimeout)
		defer cancel()
		lines, err := args.Ask(actx, connection, ca, p.PreviewSQL("CLUSTER"))
		text := fmt.Sprintf("placement by policy %q:\n  %s", p.Name, strings.Join(lines, "\n  "))
		if err != nil {
			text = fmt.Sprintf("what policy %q would move is not shown: the cluster does not say: %v", p.Name, err)
		}
		return "", ctx.Log.Info(text, &pulumi.LogArgs{Resource: c})
	})
}

// AskCluster is an Asker that connects to the cluster.
func AskCluster(ctx context.Context, connection, ca, sql string) ([]string, error) {
	u, err := url.Parse(connection)
	if err != nil {
		return nil, errors.New("the connection string can't be read") // it holds the password
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("the stack's CA is no certificate")
	}
	u.RawQuery = "sslmode=disable" // set below: the CA is not in a file here
	cfg, err := pgconn.ParseConfig(u.String())
	if err != nil {
		return nil, errors.New("the connection string can't be read")
	}
	cfg.TLSConfig = &tls.Config{RootCAs: pool, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.Exec(ctx, sql).ReadAll()
	var lines []string
	for _, r := range results {
		for _, row := range r.Rows {
			lines = append(lines, string(row[0]))
		}
	}
	return lines, err
}
