package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/atolldb/atoll/infra/config"
)

// cluster reads a Kubernetes API.
type cluster struct {
	http  *http.Client
	url   string
	where string // for messages
}

// maxAnswer bounds what is read of one answer.
const maxAnswer = 64 << 20

var errNotFound = errors.New("not found")

func (c *cluster) get(ctx context.Context, path string, into any) error {
	base := c.url
	if !strings.Contains(base, "://") {
		base = "https://" + base
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: the API server does not answer: %w; see kubectl cluster-info", c.where, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("%s: GET %s: %w", c.where, path, err)
	case resp.StatusCode == http.StatusNotFound:
		return errNotFound
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%s: GET %s: %s: this user may not read it; use credentials that may, or set atoll:inspect to false and name the zones", c.where, path, resp.Status)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: GET %s: %s", c.where, path, resp.Status)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: GET %s: the answer is no Kubernetes object: %w", c.where, path, err)
	}
	return nil
}

type meta struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
}

type nodeList struct {
	Items []struct {
		Metadata meta `json:"metadata"`
		Spec     struct {
			Unschedulable bool `json:"unschedulable"`
			Taints        []struct{ Effect, Key string }
		} `json:"spec"`
	} `json:"items"`
}

const (
	zoneLabel   = "topology.kubernetes.io/zone"
	regionLabel = "topology.kubernetes.io/region"
)

// inspect fills in zones and regions, and reports every fault that can be seen from outside.
func (c *cluster) inspect(ctx context.Context, s *config.Spec) error {
	var nodes nodeList
	if err := c.get(ctx, "/api/v1/nodes", &nodes); err != nil {
		return err
	}
	regions, order := map[string]string{}, []string{}
	for _, n := range nodes.Items {
		zone := n.Metadata.Labels[zoneLabel]
		control := slices.ContainsFunc(n.Spec.Taints, func(t struct{ Effect, Key string }) bool {
			return t.Effect == "NoSchedule" && strings.HasPrefix(t.Key, "node-role.kubernetes.io/")
		})
		if zone == "" || control {
			continue
		}
		if _, seen := regions[zone]; !seen {
			order = append(order, zone)
		}
		regions[zone] = n.Metadata.Labels[regionLabel]
	}
	slices.Sort(order)
	if len(order) == 0 {
		return fmt.Errorf("%s: none of its %d nodes that take pods has the label %s; label them, for instance: kubectl label node NAME %s=us-a", c.where, len(nodes.Items), zoneLabel, zoneLabel)
	}
	var faults []string
	add := func(format string, args ...any) { faults = append(faults, c.where+": "+fmt.Sprintf(format, args...)) }
	if len(s.Zones) == 0 {
		for _, z := range order {
			s.Zones = append(s.Zones, config.Zone{Name: z, Region: regions[z], Nodes: s.NodesPerZone})
		}
	}
	for i, z := range s.Zones {
		region, there := regions[z.Name]
		switch {
		case !there:
			add("zone %q of atoll:zones has no node that takes pods; the zones with nodes are %s", z.Name, strings.Join(order, ", "))
		case z.Region == "":
			s.Zones[i].Region = region
		case region != "" && region != z.Region:
			add("zone %q is in region %q by atoll:zones, but its nodes have %s=%s", z.Name, z.Region, regionLabel, region)
		}
	}
	if err := c.inspectStorage(ctx, s, add); err != nil {
		return err
	}
	if len(faults) > 0 {
		return &config.Error{Faults: faults}
	}
	return nil
}

func (c *cluster) inspectStorage(ctx context.Context, s *config.Spec, add func(string, ...any)) error {
	if s.Storage.Class != "" {
		var class struct {
			VolumeBindingMode string `json:"volumeBindingMode"`
		}
		err := c.get(ctx, "/apis/storage.k8s.io/v1/storageclasses/"+url.PathEscape(s.Storage.Class), &class)
		switch {
		case errors.Is(err, errNotFound):
			var all struct {
				Items []struct {
					Metadata meta `json:"metadata"`
				} `json:"items"`
			}
			if err := c.get(ctx, "/apis/storage.k8s.io/v1/storageclasses", &all); err != nil {
				return err
			}
			var names []string
			for _, i := range all.Items {
				names = append(names, i.Metadata.Name)
			}
			add("storage class %q of atoll:storage.class does not exist; the classes are %s", s.Storage.Class, orNone(names))
		case err != nil:
			return err
		case class.VolumeBindingMode != "WaitForFirstConsumer":
			add("storage class %q has volumeBindingMode %s: volumes would be made before it is known in which zone their node runs; use a class with WaitForFirstConsumer", s.Storage.Class, class.VolumeBindingMode)
		}
	}
	return c.inspectVolumes(ctx, s, add)
}

// inspectVolumes finds volumes of an earlier cluster that can't be mounted where their node will
// run.
func (c *cluster) inspectVolumes(ctx context.Context, s *config.Spec, add func(string, ...any)) error {
	for _, z := range s.Zones {
		for i := range z.Nodes {
			claim := "data-" + config.PodName(s.Name, z.Name, i)
			var pvc struct {
				Spec struct {
					VolumeName string `json:"volumeName"`
					Resources  struct {
						Requests struct{ Storage string } `json:"requests"`
					} `json:"resources"`
				} `json:"spec"`
			}
			err := c.get(ctx, "/api/v1/namespaces/"+s.Namespace+"/persistentvolumeclaims/"+claim, &pvc)
			if errors.Is(err, errNotFound) || err == nil && pvc.Spec.VolumeName == "" {
				continue
			}
			if err != nil {
				return err
			}
			size := pvc.Spec.Resources.Requests.Storage
			if has, err := config.ParseBytes(size); err == nil && has > s.Storage.SizeBytes {
				add("claim %s/%s asks for %s, but atoll:storage.size is %s: volumes grow and never shrink; set it to %s, or start with new volumes under another atoll:name",
					s.Namespace, claim, size, config.FormatBytes(s.Storage.SizeBytes), size)
			}
			zones, err := c.volumeZones(ctx, pvc.Spec.VolumeName)
			switch {
			case errors.Is(err, errNotFound):
				add("claim %s/%s is bound to volume %q, which is gone: its data is lost; if the other zones have it, delete the claim and the node's data is made anew", s.Namespace, claim, pvc.Spec.VolumeName)
			case err != nil:
				return err
			case len(zones) > 0 && !slices.Contains(zones, z.Name):
				add("claim %s/%s is bound to volume %q in zone %s, but its node belongs to zone %s and could never start; delete the claim if the other zones have the data, or give the cluster another atoll:name", s.Namespace, claim, pvc.Spec.VolumeName, strings.Join(zones, ", "), z.Name)
			}
		}
	}
	return nil
}

// volumeZones returns the zones that a volume's affinity names; none if it names no zone.
func (c *cluster) volumeZones(ctx context.Context, volume string) ([]string, error) {
	var pv struct {
		Spec struct {
			NodeAffinity struct {
				Required struct {
					NodeSelectorTerms []struct {
						MatchExpressions []struct {
							Key      string   `json:"key"`
							Operator string   `json:"operator"`
							Values   []string `json:"values"`
						} `json:"matchExpressions"`
					} `json:"nodeSelectorTerms"`
				} `json:"required"`
			} `json:"nodeAffinity"`
		} `json:"spec"`
	}
	if err := c.get(ctx, "/api/v1/persistentvolumes/"+url.PathEscape(volume), &pv); err != nil {
		return nil, err
	}
	var zones []string
	for _, t := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, e := range t.MatchExpressions {
			// Clouds' drivers use labels of their own that end in /zone.
			if e.Operator == "In" && (e.Key == zoneLabel || strings.HasSuffix(e.Key, "/zone")) {
				zones = append(zones, e.Values...)
			}
		}
	}
	return zones, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
