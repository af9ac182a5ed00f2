// Package sim runs whole clusters, the real node code below SQL, in one process on virtual
// time: an in-memory network, disks that lose what was not synced, clocks that differ, and
// machines that stop. A seed decides the cluster, the faults, the workload and the delay of
// every message. Histories are judged by package check.
//
// Run must be called inside a testing/synctest bubble. Virtual time does not fix the order in
// which goroutines run at one instant, so that a seed that failed once may pass when it is
// run again: the event trace of a failing run is kept for that reason.
package sim
