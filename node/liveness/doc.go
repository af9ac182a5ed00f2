// Package liveness is what nodes know of each other: who answers, who supports whom, and
// how far clocks are apart. There is one mechanism per pair of nodes, not per range.
//
// Support. A node sends heartbeats to its neighbours, the nodes with which it shares
// ranges. By answering, B promises to support A for D from the moment it received the
// heartbeat; A counts that support from the moment it sent it, less 2% for clock rates
// (SAFETY S2, S4). While B supports A, B's raft transport refuses votes to others in the
// ranges that A leads (package raftnet). Each lapse of B's support for A raises the
// epoch of B's support, which carries B's boot counter in its upper half, so that it
// never repeats.
//
// Invariant: a lapse is marked, and the epoch raised, before anybody is told that B does
// not support A. Therefore a promise that has run out but was seen by nobody may still
// be prolonged, and every prolonging of a promise is safe.
//
// Clock assumptions. B keeps a promise by CLOCK_MONOTONIC, which stands still when the
// machine is suspended: that only prolongs the promise. A counts the longest time that
// any of CLOCK_MONOTONIC, CLOCK_BOOTTIME and the wall clock says has passed, and drops
// everything if they disagree by more than 20 ms or its own ticker is late by more than
// D/2. What remains assumed: the rates of A's fastest and B's monotonic clock differ by
// less than 2%, and no hypervisor freezes all three of A's clocks while B's run on.
package liveness
