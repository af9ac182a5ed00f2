package raftnet

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// An address says what a server is (S22), and nothing that is not understood passes for data.
func TestAddressesMarkWitnesses(t *testing.T) {
	id := ServerID(3, 14)
	for _, want := range []bool{false, true} {
		got, err := IsWitness(raft.Server{ID: id, Address: ServerAddress(id, want)})
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, a := range []raft.ServerAddress{"", "n3/1", "n3/15", "n3/14+", "n3/14+archive", "n3/14+witness+witness"} {
		_, err := IsWitness(raft.Server{ID: id, Address: a})
		require.ErrorContains(t, err, "upgrade this node", a)
	}
}
