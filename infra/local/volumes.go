package local

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// How long the volume agent waits between looks when nothing changes, and after a failure.
const (
	volumeResync = 60 * time.Second
	volumeRetry  = 2 * time.Second
)

// Objects of the API, with the fields that provisioning reads.
type (
	objectMeta struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace,omitempty"`
		UID               string            `json:"uid,omitempty"`
		Annotations       map[string]string `json:"annotations,omitempty"`
		DeletionTimestamp string            `json:"deletionTimestamp,omitempty"`
	}
	claim struct {
		Metadata objectMeta `json:"metadata"`
		Spec     struct {
			StorageClassName string   `json:"storageClassName"`
			VolumeName       string   `json:"volumeName"`
			VolumeMode       string   `json:"volumeMode"`
			AccessModes      []string `json:"accessModes"`
			Resources        struct {
				Requests map[string]string `json:"requests"`
			} `json:"resources"`
		} `json:"spec"`
		Status struct {
			Phase    string            `json:"phase"`
			Capacity map[string]string `json:"capacity"`
		} `json:"status"`
	}
	volume struct {
		Metadata objectMeta `json:"metadata"`
		Spec     struct {
			Capacity      map[string]string `json:"capacity"`
			ReclaimPolicy string            `json:"persistentVolumeReclaimPolicy"`
			ClaimRef      *struct {
				UID string `json:"uid"`
			} `json:"claimRef"`
			Local *struct {
				Path string `json:"path"`
			} `json:"local"`
		} `json:"spec"`
		Status struct {
			Phase string `json:"phase"`
		} `json:"status"`
	}
	listOf[T any] struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []T `json:"items"`
	}
)

const (
	annSelectedNode  = "volume.kubernetes.io/selected-node"
	annProvisioner   = "volume.kubernetes.io/storage-provisioner"
	annProvisionedBy = "pv.kubernetes.io/provisioned-by"
	annNode          = "local.atolldb.dev/node"
)

// volumeStep is one thing to do about volumes. Exactly one of its parts is set.
type volumeStep struct {
	create *claim  // a claim that waits for a volume of this node
	grow   *claim  // a claim that asks for more than its volume, which is vol
	remove *volume // a volume that nobody claims any more
	vol    *volume
	bytes  int64  // of create and grow
	refuse string // why a claim gets nothing; claim is then in create or grow
}

// planVolumes decides what one node does, from all claims and volumes of the cluster. A node serves
// the claims that the scheduler has given to it, and the volumes that it made.
func planVolumes(node string, disk int64, claims []claim, volumes []volume) []volumeStep {
	var steps []volumeStep
	used := int64(0)
	byName := map[string]*volume{}
	for i, v := range volumes {
		byName[v.Metadata.Name] = &volumes[i]
		if v.Metadata.Annotations[annNode] != node {
			continue
		}
		size, _ := parseQuantity(v.Spec.Capacity["storage"])
		used += size
		if v.Status.Phase == "Released" && v.Spec.ReclaimPolicy == "Delete" && v.Metadata.DeletionTimestamp == "" {
			steps = append(steps, volumeStep{remove: &volumes[i]})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int { return strings.Compare(a.Metadata.UID, b.Metadata.UID) })
	for i := range claims {
		c := &claims[i]
		want, err := parseQuantity(c.Spec.Resources.Requests["storage"])
		step := volumeStep{bytes: want}
		extra := want
		switch {
		case c.Metadata.DeletionTimestamp != "":
			continue
		case c.Spec.VolumeName == "":
			if c.Metadata.Annotations[annProvisioner] != Provisioner || c.Metadata.Annotations[annSelectedNode] != node ||
				byName[volumeName(c)] != nil {
				continue
			}
			step.create = c
		default:
			v := byName[c.Spec.VolumeName]
			if v == nil || v.Metadata.Annotations[annNode] != node || c.Status.Phase != "Bound" {
				continue
			}
			have, _ := parseQuantity(v.Spec.Capacity["storage"])
			shown, _ := parseQuantity(c.Status.Capacity["storage"])
			if err == nil && want <= have && want <= shown {
				continue
			}
			step.grow, step.vol = c, v
			extra = max(0, want-have)
		}
		switch {
		case err != nil:
			step.refuse = err.Error()
		case c.Spec.VolumeMode == "Block":
			step.refuse = "volumeMode Block is not served; leave it out or say Filesystem"
		case used+extra > disk:
			step.refuse = fmt.Sprintf("%d MiB wanted, node %s has %d of its disk's %d MiB left; make the volume smaller or the disks larger (localkube up --disk)",
				extra>>20, node, max(0, disk-used)>>20, disk>>20)
		default:
			used += extra
		}
		steps = append(steps, step)
	}
	return steps
}

func volumeName(c *claim) string { return "pvc-" + c.Metadata.UID }

// volumeAgent carries out one node's steps.
type volumeAgent struct {
	api     *apiClient
	log     *slog.Logger
	node    Node
	dir     string // where volumes lie
	disk    int64  // bytes
	refused map[string]string
}

// runVolumes serves volumes from this node's disk until ctx ends.
func runVolumes(ctx context.Context, log *slog.Logger, node Node, disk int64) {
	api, err := newAPIClient(nodeCreds + "/volumes.kubeconfig")
	if err != nil {
		log.Error("volumes are not served", "err", err)
		return
	}
	a := &volumeAgent{api: api, log: log, node: node, dir: nodeVolumes, disk: disk, refused: map[string]string{}}
	for ctx.Err() == nil {
		if err := a.round(ctx); err != nil {
			log.Warn("volumes: trying again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(volumeRetry):
			}
		}
	}
}

// round looks once, does what is to be done, and then waits for the next change.
func (a *volumeAgent) round(ctx context.Context) error {
	const claimsPath, volumesPath = "/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes"
	var claims listOf[claim]
	var volumes listOf[volume]
	look, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := a.api.get(look, claimsPath, &claims); err != nil {
		return err
	}
	if err := a.api.get(look, volumesPath, &volumes); err != nil {
		return err
	}
	for _, s := range planVolumes(a.node.Name, a.disk, claims.Items, volumes.Items) {
		if err := a.step(look, s); err != nil {
			return err
		}
	}
	wait, stop := context.WithCancel(ctx)
	defer stop()
	changed := make(chan error, 2)
	go func() {
		changed <- a.api.waitChange(wait, claimsPath, claims.Metadata.ResourceVersion, volumeResync)
	}()
	go func() {
		changed <- a.api.waitChange(wait, volumesPath, volumes.Metadata.ResourceVersion, volumeResync)
	}()
	return <-changed
}

func (a *volumeAgent) step(ctx context.Context, s volumeStep) error {
	switch {
	case s.refuse != "" && s.create != nil:
		return a.refuse(ctx, s.create, "ProvisioningFailed", s.refuse)
	case s.refuse != "":
		return a.refuse(ctx, s.grow, "VolumeResizeFailed", s.refuse)
	case s.remove != nil:
		return a.remove(ctx, s.remove)
	case s.grow != nil:
		return a.grow(ctx, s)
	default:
		return a.create(ctx, s)
	}
}

// create makes a folder and the volume that stands for it. Any user may write to the folder: like a
// fresh disk of a cloud it belongs to nobody, and kubelet gives it to the pod's fsGroup.
func (a *volumeAgent) create(ctx context.Context, s volumeStep) error {
	c := s.create
	var class struct {
		ReclaimPolicy string `json:"reclaimPolicy"`
	}
	if err := a.api.get(ctx, "/apis/storage.k8s.io/v1/storageclasses/"+c.Spec.StorageClassName, &class); err != nil {
		return err
	}
	dir := filepath.Join(a.dir, volumeName(c))
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	in := func(key, value string) object {
		return object{"key": key, "operator": "In", "values": []string{value}}
	}
	pv := object{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": object{
			"name":        volumeName(c),
			"annotations": object{annProvisionedBy: Provisioner, annNode: a.node.Name},
		},
		"spec": object{
			"capacity":                      object{"storage": c.Spec.Resources.Requests["storage"]},
			"accessModes":                   c.Spec.AccessModes,
			"persistentVolumeReclaimPolicy": class.ReclaimPolicy,
			"storageClassName":              c.Spec.StorageClassName,
			"local":                         object{"path": dir},
			"claimRef": object{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
				"namespace": c.Metadata.Namespace, "name": c.Metadata.Name, "uid": c.Metadata.UID},
			"nodeAffinity": object{"required": object{"nodeSelectorTerms": []object{{"matchExpressions": []object{
				in("topology.kubernetes.io/zone", a.node.Zone), in("kubernetes.io/hostname", a.node.Name)}}}}},
		},
	}
	err := a.api.do(ctx, http.MethodPost, "/api/v1/persistentvolumes", "application/json", pv, nil)
	if err == nil {
		a.log.Info("a volume is made", "volume", volumeName(c), "claim", c.Metadata.Namespace+"/"+c.Metadata.Name, "bytes", s.bytes)
	}
	if apiStatus(err, http.StatusConflict) {
		return nil // made by the round before, whose answer was lost
	}
	return err
}

// grow raises a volume and shows its claim that it has grown. The folder has no size of its own.
func (a *volumeAgent) grow(ctx context.Context, s volumeStep) error {
	capacity := object{"capacity": object{"storage": s.grow.Spec.Resources.Requests["storage"]}}
	err := a.api.do(ctx, http.MethodPatch, "/api/v1/persistentvolumes/"+s.vol.Metadata.Name,
		"application/merge-patch+json", object{"spec": capacity}, nil)
	if err != nil {
		return err
	}
	a.log.Info("a volume has grown", "volume", s.vol.Metadata.Name, "bytes", s.bytes)
	return a.api.do(ctx, http.MethodPatch, fmt.Sprintf("/api/v1/namespaces/%s/persistentvolumeclaims/%s/status",
		s.grow.Metadata.Namespace, s.grow.Metadata.Name), "application/merge-patch+json", object{"status": capacity}, nil)
}

// remove deletes a released volume and what was in it.
func (a *volumeAgent) remove(ctx context.Context, v *volume) error {
	if v.Spec.Local == nil || filepath.Dir(v.Spec.Local.Path) != a.dir {
		return fmt.Errorf("volume %s: its path is not below %s", v.Metadata.Name, a.dir)
	}
	if err := os.RemoveAll(v.Spec.Local.Path); err != nil {
		return err
	}
	err := a.api.do(ctx, http.MethodDelete, "/api/v1/persistentvolumes/"+v.Metadata.Name, "", nil, nil)
	if err != nil && !apiStatus(err, http.StatusNotFound) {
		return err
	}
	a.log.Info("a volume is removed", "volume", v.Metadata.Name)
	return nil
}

// refuse says in an event of the claim why it gets nothing, once for each reason.
func (a *volumeAgent) refuse(ctx context.Context, c *claim, reason, why string) error {
	if a.refused[c.Metadata.UID] == why {
		return nil
	}
	now := time.Now().UTC().Format(time.RFC3339)
	event := object{
		"apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": reason, "message": why, "count": 1,
		"metadata":       object{"generateName": c.Metadata.Name + ".", "namespace": c.Metadata.Namespace},
		"source":         object{"component": "localkube", "host": a.node.Name},
		"firstTimestamp": now, "lastTimestamp": now,
		"involvedObject": object{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
			"namespace": c.Metadata.Namespace, "name": c.Metadata.Name, "uid": c.Metadata.UID},
	}
	a.log.Warn("a claim is refused", "claim", c.Metadata.Namespace+"/"+c.Metadata.Name, "why", why)
	if err := a.api.do(ctx, http.MethodPost, "/api/v1/namespaces/"+c.Metadata.Namespace+"/events", "application/json", event, nil); err != nil {
		return err
	}
	if len(a.refused) > 1000 {
		clear(a.refused)
	}
	a.refused[c.Metadata.UID] = why
	return nil
}
