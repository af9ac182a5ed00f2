package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hopeless is how long a pod's fault of the kind that seldom mends itself (an image that can't
// be pulled, no host that can take it) is watched before the wait ends with it.
const hopeless = 90 * time.Second

// atOnce are reasons that never mend themselves.
var atOnce = []string{"InvalidImageName", "ErrImageNeverPull"}

// lasting are reasons that end a wait when they last. A container can't be made while its node has not
// heard of a new Secret, or the runtime is busy for longer than the kubelet waits; both pass.
var lasting = []string{"ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff", "Unschedulable", "CreateContainerConfigError", "CreateContainerError"}

// problem is why a pod does not run.
type problem struct{ pod, reason, message string }

func (p problem) String() string { return fmt.Sprintf("pod %s: %s: %s", p.pod, p.reason, p.message) }

// await waits until an object is what it says; it returns the object as last seen. The error
// says why, with what the pods say.
func (p *provider) await(ctx context.Context, k kind, in object, limit time.Duration) (object, error) {
	ready, pods := readiness(k)
	if ready == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var live object
	var why string
	var problems []problem
	since := map[problem]time.Time{}
	err := p.until(ctx, func(ctx context.Context) (bool, error) {
		got, err := p.client(k, in).Get(ctx, text(in, "metadata", "name"), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return false, errors.New("it was deleted while it was waited for")
		case err != nil:
			why = err.Error()
			return false, nil // the API server may be away for a moment
		}
		live = normal(got.Object)
		var ok bool
		var final error
		ok, why, final = ready(live)
		if ok {
			return true, nil
		}
		if pods != nil {
			problems = p.podProblems(ctx, in, pods(live), final != nil)
		}
		if final != nil {
			return false, final
		}
		return false, lost(problems, since, time.Now())
	})
	if err == nil {
		return live, nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("not ready after %s: %s", limit, why)
	}
	for _, pr := range problems {
		if !strings.Contains(err.Error(), pr.message) {
			err = fmt.Errorf("%w\n  %s", err, pr)
		}
	}
	return live, err
}

// lost reports a problem that will not mend itself.
func lost(problems []problem, since map[problem]time.Time, now time.Time) error {
	for known := range since {
		if !slices.ContainsFunc(problems, func(q problem) bool { return q.pod == known.pod && slices.Contains(lasting, q.reason) }) {
			delete(since, known)
		}
	}
	for _, q := range problems {
		if slices.Contains(atOnce, q.reason) {
			return errors.New(q.String())
		}
		if !slices.Contains(lasting, q.reason) {
			continue
		}
		key := problem{pod: q.pod} // ErrImagePull and ImagePullBackOff take turns
		first, ok := since[key]
		if !ok {
			since[key] = now
		} else if now.Sub(first) >= hopeless {
			return fmt.Errorf("%s (for %s)", q, hopeless)
		}
	}
	return nil
}

// readiness returns how an object of this kind is judged, and which pods are behind it; nil where
// nothing is awaited. A judgement is: ready, else why not, and an error if it never will be.
func readiness(k kind) (func(object) (bool, string, error), func(object) string) {
	switch k.gvr.Resource {
	case "statefulsets":
		return statefulSetReady, func(o object) string { return selector(o, "spec", "selector", "matchLabels") }
	case "jobs":
		return jobReady, func(o object) string { return "batch.kubernetes.io/job-name=" + text(o, "metadata", "name") }
	case "persistentvolumeclaims":
		return func(o object) (bool, string, error) {
			phase := text(o, "status", "phase")
			return phase == "Bound", "the claim is " + phase, nil
		}, nil
	case "namespaces":
		return func(o object) (bool, string, error) {
			phase := text(o, "status", "phase")
			if phase == "Terminating" {
				return false, "", errors.New("the namespace is being deleted; wait until it is gone")
			}
			return phase == "Active", "the namespace is " + phase, nil
		}, nil
	case "services":
		if k.namespaced {
			return serviceReady, nil
		}
	}
	return nil, nil
}

func selector(o object, keys ...string) string {
	var m any = o
	for _, k := range keys {
		x, _ := m.(object)
		m = x[k]
	}
	var parts []string
	labels, _ := m.(object)
	for k, v := range labels {
		if s, ok := v.(string); ok {
			parts = append(parts, k+"="+s)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func statefulSetReady(o object) (bool, string, error) {
	want := number(o, "spec", "replicas")
	updated, ready := number(o, "status", "updatedReplicas"), number(o, "status", "readyReplicas")
	if number(o, "status", "observedGeneration") < number(o, "metadata", "generation") {
		return false, "its controller has not seen it yet", nil
	}
	if text(o, "status", "currentRevision") == text(o, "status", "updateRevision") {
		updated = max(updated, number(o, "status", "currentReplicas"))
	}
	if updated < want || ready < want || number(o, "status", "replicas") != want {
		return false, fmt.Sprintf("%v of %v pods are as they should be, %v are ready", updated, want, ready), nil
	}
	return true, "", nil
}

func jobReady(o object) (bool, string, error) {
	if c := condition(o, "Failed"); c != nil {
		return false, "", fmt.Errorf("the Job failed: %s: %s", text(c, "reason"), text(c, "message"))
	}
	if condition(o, "Complete") != nil {
		return true, "", nil
	}
	return false, fmt.Sprintf("the Job runs: %v active, %v failed", number(o, "status", "active"), number(o, "status", "failed")), nil
}

func serviceReady(o object) (bool, string, error) {
	if text(o, "spec", "type") == "LoadBalancer" && len(items(o, "status", "loadBalancer", "ingress")) == 0 {
		return false, "the load balancer has no address yet", nil
	}
	return true, "", nil
}

// condition returns an object's condition of that type if it is true.
func condition(o object, name string) object {
	for _, c := range items(o, "status", "conditions") {
		if m, ok := c.(object); ok && m["type"] == name && m["status"] == "True" {
			return m
		}
	}
	return nil
}

// podProblems reads why pods do not run; with ended, also what ended containers said last.
func (p *provider) podProblems(ctx context.Context, in object, labels string, ended bool) []problem {
	if labels == "" {
		return nil
	}
	if ended && ctx.Err() != nil {
		return nil
	}
	list, err := p.client(kind{gvr: core("pods"), namespaced: true}, in).List(ctx, metav1.ListOptions{LabelSelector: labels, Limit: 500})
	if err != nil {
		return nil
	}
	var out []problem
	for _, item := range list.Items {
		pod := normal(item.Object)
		name := text(pod, "metadata", "name")
		for _, c := range items(pod, "status", "conditions") {
			m, _ := c.(object)
			if m["type"] == "PodScheduled" && m["status"] == "False" {
				out = append(out, problem{name, text(m, "reason"), text(m, "message")})
			}
		}
		for _, c := range append(items(pod, "status", "initContainerStatuses"), items(pod, "status", "containerStatuses")...) {
			if reason := text(c, "state", "waiting", "reason"); reason != "" && reason != "ContainerCreating" && reason != "PodInitializing" {
				out = append(out, problem{name, reason, join2(text(c, "state", "waiting", "message"), text(c, "lastState", "terminated", "message"))})
			}
			if t := text(c, "state", "terminated", "reason"); ended && t != "" && t != "Completed" {
				out = append(out, problem{name, t, strings.TrimSpace(text(c, "state", "terminated", "message"))})
			}
		}
	}
	return out
}

func join2(a, b string) string {
	if b == "" {
		return a
	}
	return a + ": " + strings.TrimSpace(b)
}
