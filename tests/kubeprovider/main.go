package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// maxMessage is the largest message between the engine and a provider, as the engine has it.
const maxMessage = 400 << 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-kubernetes (stand-in):", err)
		os.Exit(1)
	}
}

// run serves the protocol on a port of its own, which it prints: the engine reads it there.
func run(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	// What goes to stderr is shown to the user as the provider's messages.
	p := newProvider(slog.New(slog.NewTextHandler(os.Stderr, nil)), connect)
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	pulumirpc.RegisterResourceProviderServer(s, p)
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	go func() {
		<-ctx.Done()
		p.cancel()
		s.Stop()
	}()
	return s.Serve(l)
}

// connect reads the provider's kubeconfig: a path, its content, or what kubectl would use.
func connect(args object) (dynamic.Interface, error) {
	cfg, err := clientConfig(text(args, "kubeconfig"), text(args, "context"))
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 50, 100
	cfg.UserAgent = manager
	return dynamic.NewForConfig(cfg)
}

func clientConfig(kubeconfig, contextName string) (*rest.Config, error) {
	overrides := &clientcmd.ConfigOverrides{CurrentContext: contextName}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if kubeconfig != "" {
		_, err := os.Stat(kubeconfig)
		switch {
		case err == nil:
			rules.ExplicitPath = kubeconfig
		case len(kubeconfig) < 4096 && errors.Is(err, os.ErrNotExist) && !looksLikeConfig(kubeconfig):
			return nil, fmt.Errorf("kubeconfig %s does not exist", kubeconfig)
		default:
			raw, err := clientcmd.Load([]byte(kubeconfig))
			if err != nil {
				return nil, fmt.Errorf("the provider's kubeconfig is neither a file nor a configuration: %w", err)
			}
			return clientcmd.NewDefaultClientConfig(*raw, overrides).ClientConfig()
		}
	}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
}

func looksLikeConfig(s string) bool {
	for _, c := range s {
		if c == '\n' || c == '{' {
			return true
		}
	}
	return false
}
