package local

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func decode[T any](t *testing.T, s string) T {
	t.Helper()
	var v T
	require.NoError(t, json.Unmarshal([]byte(s), &v))
	return v
}

func aClaim(t *testing.T, uid, node, size, rest string) claim {
	return decode[claim](t, fmt.Sprintf(`{"metadata":{"name":"c-%[1]s","namespace":"d","uid":%[1]q,"annotations":{%[5]q:%[2]q,%[6]q:%[7]q}},
		"spec":{"storageClassName":"s","resources":{"requests":{"storage":%[3]q}}%[4]s`, uid, node, size, rest, annSelectedNode, annProvisioner, Provisioner))
}

func aVolume(t *testing.T, uid, node, size, policy, phase string) volume {
	return decode[volume](t, fmt.Sprintf(`{"metadata":{"name":"pvc-%s","annotations":{%q:%q}},
		"spec":{"capacity":{"storage":%q},"persistentVolumeReclaimPolicy":%q,"local":{"path":"/var/lib/volumes/pvc-%s"}},
		"status":{"phase":%q}}`, uid, annNode, node, size, policy, uid, phase))
}

func describeSteps(steps []volumeStep) string {
	var out []string
	for _, s := range steps {
		what := ""
		switch {
		case s.create != nil:
			what = "create " + s.create.Metadata.UID
		case s.grow != nil:
			what = "grow " + s.vol.Metadata.Name
		case s.remove != nil:
			what = "remove " + s.remove.Metadata.Name
		}
		if s.refuse != "" {
			what += " refused: " + s.refuse
		}
		out = append(out, what)
	}
	return strings.Join(out, "\n")
}

func TestPlanVolumes(t *testing.T) {
	const pending, bound = `},"status":{"phase":"Pending"}}`, `,"volumeName":"pvc-%s"},"status":{"phase":"Bound","capacity":{"storage":%q}}}`
	for _, c := range []struct {
		name    string
		claims  []claim
		volumes []volume
		want    string
	}{
		{"a claim of this node", []claim{aClaim(t, "1", "n", "1Gi", pending)}, nil, "create 1"},
		{"of another node", []claim{aClaim(t, "1", "m", "1Gi", pending)}, nil, ""},
		{"not scheduled yet", []claim{aClaim(t, "1", "", "1Gi", pending)}, nil, ""},
		{"made, and not bound yet", []claim{aClaim(t, "1", "n", "1Gi", pending)}, []volume{aVolume(t, "1", "n", "1Gi", "Retain", "Available")}, ""},
		{"bound", []claim{aClaim(t, "1", "n", "1Gi", fmt.Sprintf(bound, "1", "1Gi"))}, []volume{aVolume(t, "1", "n", "1Gi", "Retain", "Bound")}, ""},
		{"asks for more", []claim{aClaim(t, "1", "n", "2Gi", fmt.Sprintf(bound, "1", "1Gi"))}, []volume{aVolume(t, "1", "n", "1Gi", "Retain", "Bound")}, "grow pvc-1"},
		{"has grown, and its claim does not know", []claim{aClaim(t, "1", "n", "2Gi", fmt.Sprintf(bound, "1", "1Gi"))}, []volume{aVolume(t, "1", "n", "2Gi", "Retain", "Bound")}, "grow pvc-1"},
		{"released", nil, []volume{aVolume(t, "1", "n", "1Gi", "Delete", "Released")}, "remove pvc-1"},
		{"released, and kept", nil, []volume{aVolume(t, "1", "n", "1Gi", "Retain", "Released")}, ""},
		{"released on another node", nil, []volume{aVolume(t, "1", "m", "1Gi", "Delete", "Released")}, ""},
		{"the disk is given away", []claim{aClaim(t, "2", "n", "2Gi", pending)}, []volume{aVolume(t, "1", "n", "3Gi", "Retain", "Bound")},
			"create 2 refused: 2048 MiB wanted, node n has 1024 of its disk's 4096 MiB left; make the volume smaller or the disks larger (localkube up --disk)"},
		{"two at a time share what is left", []claim{aClaim(t, "2", "n", "3Gi", pending), aClaim(t, "1", "n", "3Gi", pending)}, nil,
			"create 1\ncreate 2 refused: 3072 MiB wanted, node n has 1024 of its disk's 4096 MiB left; make the volume smaller or the disks larger (localkube up --disk)"},
		{"a block device", []claim{aClaim(t, "1", "n", "1Gi", `,"volumeMode":"Block"`+pending)}, nil,
			"create 1 refused: volumeMode Block is not served; leave it out or say Filesystem"},
		{"no size", []claim{aClaim(t, "1", "n", "much", pending)}, nil, `create 1 refused: size "much": want 0 to 1024Pi, such as 10Gi`},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, describeSteps(planVolumes("n", 4<<30, c.claims, c.volumes)))
		})
	}
}
