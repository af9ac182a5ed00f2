package store

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/node/keys"
)

// Work that fails for a minute is mentioned, once a minute and range, and ten times a minute in all;
// what fails now and then is not.
func TestTroubleIsMentioned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &Store{ctx: context.Background(), logger: slog.New(slog.NewTextHandler(&log, nil))}
		var err error
		s.metrics, err = newMetrics(nil, s)
		require.NoError(t, err)
		said := func() int {
			defer log.Reset()
			return strings.Count(log.String(), "again and again")
		}
		fail := func(r *rep, every time.Duration, times int) {
			for range times {
				s.complain(r, "repair", errors.New("no"))
				time.Sleep(every)
			}
		}
		r := &rep{rangeID: 7}
		fail(r, 2*time.Second, 30)
		require.Zero(t, said(), "less than a minute")
		fail(r, 2*time.Second, 60)
		require.Contains(t, log.String(), "range=7 work=repair")
		require.Equal(t, 2, said())
		s.complain(r, "repair", nil)
		fail(r, 2*time.Second, 29)
		require.Zero(t, said(), "it has worked in between")
		time.Sleep(time.Hour)
		fail(r, 2*time.Minute, 10)
		require.Zero(t, said(), "rarely")

		all := make([]*rep, 100)
		for i := range all {
			all[i] = &rep{rangeID: keys.RangeID(i + 1)}
		}
		for range 61 {
			for _, r := range all {
				fail(r, 0, 1)
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, maxTroubles, said())
	})
}
