package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// raiseNetwork makes the network namespaces that are not there yet, joined by the bridge.
func (c Config) raiseNetwork(ctx context.Context) error {
	for i, p := range c.networkPlan() {
		if _, err := os.Stat("/run/netns/" + p.name); err == nil {
			continue
		}
		if _, err := run(ctx, "", "ip", "netns", "add", p.name); err != nil {
			return fmt.Errorf("network of %s: %w", p.name, err)
		}
		if err := c.fillNetns(ctx, p, i); err != nil {
			// A half-made one would look finished to the next try.
			_, derr := run(context.WithoutCancel(ctx), "", "ip", "netns", "del", p.name)
			return errors.Join(fmt.Errorf("network of %s: %w", p.name, err), derr)
		}
	}
	return c.applyCuts(ctx, nil)
}

// fillNetns makes the links and routes of plan i; the bridge's own is the first.
func (c Config) fillNetns(ctx context.Context, p netnsPlan, i int) error {
	if _, err := run(ctx, strings.Join(p.commands, "\n")+"\n", "ip", "-n", p.name, "-batch", "-"); err != nil || i == 0 {
		return err
	}
	join := fmt.Sprintf("link set %s master %s up\n", c.ports()[i-1], bridgeDevice)
	_, err := run(ctx, join, "ip", "-n", c.switchNS(), "-batch", "-")
	return err
}

// applyCuts replaces the bridge's rules by those for these cuts, in one step.
func (c Config) applyCuts(ctx context.Context, cuts []Cut) error {
	_, err := run(ctx, c.cutRules(cuts), "nsenter", "--net=/run/netns/"+c.switchNS(), "nft", "-f", "-")
	return err
}

// dropNetwork removes the network namespaces, and with them all links.
func (c Config) dropNetwork(ctx context.Context) error {
	var errs []error
	for _, p := range c.networkPlan() {
		if _, err := os.Stat("/run/netns/" + p.name); err != nil {
			continue
		}
		if _, err := run(ctx, "", "ip", "netns", "del", p.name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
