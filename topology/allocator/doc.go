// Package allocator decides where replicas and leases go. It is a pure function from a View (what
// a node knows of nodes and ranges) and compiled rules (package placement) to changes, each with
// its reason in words. It has no clock and does no I/O: ages are values in the view. Equal views
// give equal decisions.
//
// New summarises a view's nodes and rules once; Decide then answers for one range, in time that
// depends on its replicas and on the zones, not on the number of nodes; Plan decides all ranges of a view,
// orders the changes, and keeps within the limits; Explain says about every node why it was
// chosen or not.
//
// # The ladder
//
// Decide climbs down the steps below and returns the first change that is due. One range has one
// change at a time (SAFETY S19).
//
//  1. A range that has lost its quorum, or has no leaseholder, is left alone.
//  2. A lease leaves a node that drains, is decommissioned, or whose replica is distrusted.
//  3. A voter too many goes: most often the half that is left of a replacement.
//  4. A voter that is missing, or whose node is lost or leaves, is replaced. A copy that is there is used, unless
//     it could vote only in a window that does not open: one that waits for a lost node, or that nobody may lead.
//     Then a copy is made where it may vote.
//  5. Voters that can't be replaced go, where the range is better off without them.
//  6. A copy that was begun for a move becomes a voter, or goes if it has lost its point.
//  7. Voters move where they fit the rule better: the goal, data instead of witnesses, leases'
//     preferences, diversity (placement.Score, in this order).
//  8. Non-voters are added and removed.
//  9. Replicas leave disks that are nearly full.
//  10. The lease goes where it is preferred.
//  11. Leases, then replicas, move to even out load and disks.
//
// # Why it converges, and stays
//
// Steps 7, 9, 10 and 11 are moves of choice. Each lowers a score that is compared field by field: the
// placement.Score of the range; the bytes by which disks exceed FullAt; the lease's rank; and the
// imbalance P of the nodes, by more than a slack. While the view stays as it is but for our own changes, no sequence of
// moves can therefore come back to where it was; and there are finitely many placements.
//
// P is the sum over nodes of (their share of the total)² / (their share of the capacity), for CPU and for
// disk, weighted: it is least where every node is as full as all the others in proportion to what it
// can hold. What moving a range changes in P depends on its two nodes only (load.go).
//
// # What keeps a range safe
//
// REQUIRES S19: a removal leaves a quorum of the old configuration reachable, and no change leaves
// a range weaker than it was (placement.Weaker) or lets witnesses alone, or by a new vote the voters of one failure domain, be a quorum, but for the
// pairs Replace, Grow and Shrink: two consecutive entries, needed where one of them alone would
// weaken the goal. They are proposed only while every voter that stays is reachable and has caught
// up, and led from outside the failure domains that they weaken. So is TurnWitness, where a data
// voter's node is the only place for a witness in its zone; it can't be led from a place that it
// does not weaken, since for a moment the loss of either voter that is left stops the range.
package allocator
