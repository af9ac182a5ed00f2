package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// apiServer is as much of one as the provider sees: objects by path, server-side apply (whole
// objects), dry runs, lists by label, deletion. after is called with each object that is read, and
// plays the controllers.
type apiServer struct {
	mu      sync.Mutex
	objects map[string]object
	after   func(path string, reads int, o object)
	reads   map[string]int
	patches []string // path?query of every apply
	refuse  map[string]int
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if code := a.refuse[r.Method+" "+r.URL.Path]; code != 0 {
		fail(w, code, map[int]string{409: "Conflict", 403: "Forbidden", 422: "Invalid"}[code])
		return
	}
	switch r.Method {
	case http.MethodPatch:
		body, _ := io.ReadAll(r.Body)
		var o object
		if json.Unmarshal(body, &o) != nil || r.Header.Get("Content-Type") != "application/apply-patch+yaml" {
			fail(w, 400, "BadRequest")
			return
		}
		a.patches = append(a.patches, r.URL.String())
		meta := o["metadata"].(object)
		meta["uid"], meta["generation"] = "uid-of-"+meta["name"].(string), 1.0
		meta["managedFields"] = []any{object{"manager": "x"}}
		if old := a.objects[r.URL.Path]; old != nil && o["spec"] == nil {
			o["spec"] = old["spec"]
		}
		if !r.URL.Query().Has("dryRun") {
			if old := a.objects[r.URL.Path]; old != nil {
				o["status"] = old["status"]
			}
			a.objects[r.URL.Path] = o
		}
		answer(w, o)
	case http.MethodGet:
		if strings.HasSuffix(r.URL.Path, "/pods") {
			list := []any{}
			for p, o := range a.objects {
				if strings.HasPrefix(p, r.URL.Path+"/") {
					list = append(list, o)
				}
			}
			answer(w, object{"apiVersion": "v1", "kind": "PodList", "items": list})
			return
		}
		o, ok := a.objects[r.URL.Path]
		if !ok {
			fail(w, 404, "NotFound")
			return
		}
		a.reads[r.URL.Path]++
		if a.after != nil {
			a.after(r.URL.Path, a.reads[r.URL.Path], o)
		}
		answer(w, o)
	case http.MethodDelete:
		o, ok := a.objects[r.URL.Path]
		if !ok {
			fail(w, 404, "NotFound")
			return
		}
		if o["metadata"].(object)["finalizers"] == nil {
			delete(a.objects, r.URL.Path)
		}
		answer(w, o)
	}
}

func answer(w http.ResponseWriter, o object) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(o)
}

func fail(w http.ResponseWriter, code int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object{"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "the server says " + reason})
}

func start(t *testing.T) (*provider, *apiServer) {
	t.Helper()
	a := &apiServer{objects: map[string]object{}, reads: map[string]int{}, refuse: map[string]int{}}
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	p := newProvider(slog.New(slog.DiscardHandler), func(object) (dynamic.Interface, error) {
		return dynamic.NewForConfig(&rest.Config{Host: srv.URL})
	})
	p.poll = time.Millisecond
	_, err := p.Configure(context.Background(), &pulumirpc.ConfigureRequest{Args: props(t, object{"namespace": "ns"})})
	require.NoError(t, err)
	return p, a
}

func props(t *testing.T, o object) *structpb.Struct {
	t.Helper()
	s, err := encode(o)
	require.NoError(t, err)
	return s
}

func urn(token string) string {
	return "urn:pulumi:test::atoll::atoll:index:Cluster$kubernetes:" + token + "::x"
}

func thing(apiVersion, kind, name string, more object) object {
	o := object{"apiVersion": apiVersion, "kind": kind, "metadata": object{"name": name, "namespace": "ns"}}
	maps.Copy(o, more)
	return o
}

func create(t *testing.T, p *provider, token string, o object) (object, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := p.Create(ctx, &pulumirpc.CreateRequest{Urn: urn(token), Properties: props(t, o), Timeout: 5})
	if err != nil {
		return nil, err
	}
	out, err := decode(r.GetProperties())
	require.NoError(t, err)
	return out, nil
}

func TestCreateAppliesAndHidesManagedFields(t *testing.T) {
	p, a := start(t)
	in := thing("v1", "Secret", "s", object{"data": object{"k": "dg=="}})
	r, err := p.Create(context.Background(), &pulumirpc.CreateRequest{Urn: urn("core/v1:Secret"), Properties: props(t, in)})
	require.NoError(t, err)
	require.Equal(t, "ns/s", r.GetId())
	require.Contains(t, r.GetProperties().GetFields()["data"].String(), "4dabf18193072939515e22adb298388d", "marked secret")
	out, err := decode(r.GetProperties())
	require.NoError(t, err)
	require.Equal(t, "dg==", text(out, "data", "k"))
	require.NotContains(t, out["metadata"], "managedFields")
	require.Equal(t, []string{"/api/v1/namespaces/ns/secrets/s?fieldManager=pulumi-kubernetes-standin&force=false"}, a.patches)
}

func TestPreviewIsADryRun(t *testing.T) {
	p, a := start(t)
	in := thing("v1", "ConfigMap", "c", nil)
	_, err := p.Create(context.Background(), &pulumirpc.CreateRequest{Urn: urn("core/v1:ConfigMap"), Properties: props(t, in), Preview: true})
	require.NoError(t, err)
	require.Contains(t, a.patches[0], "dryRun=All")
	require.Empty(t, a.objects)

	in["data"] = object{"k": unknown}
	r, err := p.Create(context.Background(), &pulumirpc.CreateRequest{Urn: urn("core/v1:ConfigMap"), Properties: props(t, in), Preview: true})
	require.NoError(t, err)
	require.Len(t, a.patches, 1, "what is not known can't be asked for")
	out, err := decode(r.GetProperties())
	require.NoError(t, err)
	require.True(t, hasUnknown(out))

	a.refuse["PATCH /api/v1/namespaces/ns/configmaps/c"] = 422
	in["data"] = object{"k": "v"}
	_, err = p.Create(context.Background(), &pulumirpc.CreateRequest{Urn: urn("core/v1:ConfigMap"), Properties: props(t, in), Preview: true})
	require.ErrorContains(t, err, "configmap ns/c: the server says Invalid")
}

func statefulSet() object {
	return thing("apps/v1", "StatefulSet", "a", object{"spec": object{"replicas": 2.0, "selector": object{"matchLabels": object{"app": "a"}}, "serviceName": "n"}})
}

const setPath = "/apis/apps/v1/namespaces/ns/statefulsets/a"

func TestStatefulSetIsAwaited(t *testing.T) {
	p, a := start(t)
	a.after = func(_ string, reads int, o object) {
		n := min(float64(reads), 2)
		o["status"] = object{"observedGeneration": 1.0, "replicas": n, "updatedReplicas": n, "readyReplicas": n - 0, "currentRevision": "1", "updateRevision": "1"}
	}
	out, err := create(t, p, "apps/v1:StatefulSet", statefulSet())
	require.NoError(t, err)
	require.Equal(t, 2.0, number(out, "status", "readyReplicas"))
	require.GreaterOrEqual(t, a.reads[setPath], 2)
}

func TestSkipAwait(t *testing.T) {
	p, a := start(t)
	in := statefulSet()
	in["metadata"].(object)["annotations"] = object{"pulumi.com/skipAwait": "true"}
	_, err := create(t, p, "apps/v1:StatefulSet", in)
	require.NoError(t, err)
	require.Zero(t, a.reads[setPath])
}

// TestWaitEndsWithTheReason: bounded, with what the pod says, and the object stays in the state.
func TestWaitEndsWithTheReason(t *testing.T) {
	p, a := start(t)
	a.objects["/api/v1/namespaces/ns/pods/a-0"] = thing("v1", "Pod", "a-0", object{"status": object{"conditions": []any{
		object{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 1 node(s) had volume node affinity conflict."}}}})
	began := time.Now()
	ctx := context.Background()
	_, err := p.Create(ctx, &pulumirpc.CreateRequest{Urn: urn("apps/v1:StatefulSet"), Properties: props(t, statefulSet()), Timeout: 0.3})
	require.Less(t, time.Since(began), 10*time.Second)
	require.ErrorContains(t, err, "statefulset ns/a: not ready after 300ms")
	require.ErrorContains(t, err, "pod a-0: Unschedulable: 0/3 nodes are available: 1 node(s) had volume node affinity conflict.")
	st, ok := status.FromError(err)
	require.True(t, ok)
	require.Len(t, st.Details(), 1)
	failed := st.Details()[0].(*pulumirpc.ErrorResourceInitFailed)
	require.Equal(t, "ns/a", failed.GetId())
	require.NotNil(t, failed.GetInputs())
}

func TestImageThatCanNeverBePulledEndsAtOnce(t *testing.T) {
	p, a := start(t)
	a.objects["/api/v1/namespaces/ns/pods/a-0"] = thing("v1", "Pod", "a-0", object{"status": object{"containerStatuses": []any{
		object{"state": object{"waiting": object{"reason": "ErrImageNeverPull", "message": `image "atoll:nope" is not present with pull policy of Never`}}}}}})
	_, err := create(t, p, "apps/v1:StatefulSet", statefulSet())
	require.ErrorContains(t, err, `pod a-0: ErrImageNeverPull: image "atoll:nope" is not present`)
	require.NotContains(t, err.Error(), "not ready after")
}

func TestLastingProblems(t *testing.T) {
	since := map[problem]time.Time{}
	t0 := time.Unix(0, 0)
	pull, back := problem{"a-0", "ErrImagePull", "no such image"}, problem{"a-0", "ImagePullBackOff", "Back-off"}
	require.NoError(t, lost([]problem{pull}, since, t0))
	require.NoError(t, lost([]problem{back}, since, t0.Add(hopeless/2)), "the two reasons take turns")
	require.ErrorContains(t, lost([]problem{pull}, since, t0.Add(hopeless)), "no such image")
	require.NoError(t, lost(nil, since, t0.Add(hopeless)))
	require.NoError(t, lost([]problem{pull}, since, t0.Add(hopeless)), "it had gone in between")
	clear(since)
	secret := problem{"a-0", "CreateContainerConfigError", `secret "s" not found`}
	require.NoError(t, lost([]problem{secret}, since, t0), "the node will hear of it")
	require.ErrorContains(t, lost([]problem{secret}, since, t0.Add(hopeless)), `secret "s" not found`)
}

func job(annotations object) object {
	o := thing("batch/v1", "Job", "j", object{"spec": object{"template": object{"spec": object{"containers": []any{object{"image": "atoll:1"}}}}}})
	o["metadata"].(object)["annotations"] = annotations
	return o
}

const jobPath = "/apis/batch/v1/namespaces/ns/jobs/j"

func TestJobIsAwaited(t *testing.T) {
	p, a := start(t)
	a.after = func(_ string, reads int, o object) {
		if reads == 3 {
			o["status"] = object{"conditions": []any{object{"type": "Complete", "status": "True"}}}
		}
	}
	_, err := create(t, p, "batch/v1:Job", job(nil))
	require.NoError(t, err)
	require.Equal(t, 3, a.reads[jobPath])
}

// TestFailedJob says what the command said last, and is made anew by the next update if it asks
// for that.
func TestFailedJob(t *testing.T) {
	p, a := start(t)
	a.objects["/api/v1/namespaces/ns/pods/j-x"] = thing("v1", "Pod", "j-x", object{"status": object{"containerStatuses": []any{
		object{"state": object{"terminated": object{"reason": "Error", "message": "Error: zone us-a would lose its last node\n"}}}}}})
	a.after = func(path string, _ int, o object) {
		if path == jobPath {
			o["status"] = object{"conditions": []any{object{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}}}
		}
	}
	in := job(object{"pulumi.com/replaceUnready": "true"})
	_, err := create(t, p, "batch/v1:Job", in)
	require.ErrorContains(t, err, "the Job failed: BackoffLimitExceeded: too often")
	require.ErrorContains(t, err, "pod j-x: Error: Error: zone us-a would lose its last node")

	diff := func(o object) *pulumirpc.DiffResponse {
		d, err := p.Diff(context.Background(), &pulumirpc.DiffRequest{Urn: urn("batch/v1:Job"), OldInputs: props(t, o), News: props(t, o)})
		require.NoError(t, err)
		return d
	}
	d := diff(in)
	require.Equal(t, []string{"spec"}, d.GetReplaces())
	require.True(t, d.GetDeleteBeforeReplace(), "the name is the same")
	require.Equal(t, pulumirpc.DiffResponse_DIFF_NONE, diff(job(nil)).GetChanges())
}

func TestDiff(t *testing.T) {
	p, _ := start(t)
	diff := func(token string, a, b object) *pulumirpc.DiffResponse {
		d, err := p.Diff(context.Background(), &pulumirpc.DiffRequest{Urn: urn(token), OldInputs: props(t, a), News: props(t, b)})
		require.NoError(t, err)
		return d
	}
	a := statefulSet()
	require.Equal(t, pulumirpc.DiffResponse_DIFF_NONE, diff("apps/v1:StatefulSet", a, statefulSet()).GetChanges())

	b := statefulSet()
	b["spec"].(object)["replicas"] = 3.0
	d := diff("apps/v1:StatefulSet", a, b)
	require.Equal(t, pulumirpc.DiffResponse_DIFF_SOME, d.GetChanges())
	require.Empty(t, d.GetReplaces())
	require.Equal(t, pulumirpc.PropertyDiff_UPDATE, d.GetDetailedDiff()["spec.replicas"].GetKind())

	b["spec"].(object)["serviceName"] = "other"
	d = diff("apps/v1:StatefulSet", a, b)
	require.Equal(t, []string{"spec.serviceName"}, d.GetReplaces())
	require.True(t, d.GetDeleteBeforeReplace())

	c := job(object{"a.example/b": "1"})
	d = diff("batch/v1:Job", job(nil), c)
	require.Contains(t, d.GetDetailedDiff(), `metadata.annotations["a.example/b"]`)
	renamed := job(nil)
	renamed["metadata"].(object)["name"] = "k"
	renamed["spec"] = object{"template": object{}}
	d = diff("batch/v1:Job", job(nil), renamed)
	require.Contains(t, d.GetReplaces(), "metadata.name")
	require.False(t, d.GetDeleteBeforeReplace(), "the new one stands beside the old one")
}

// TestDrift: what was changed by hand shows as changed inputs; what Kubernetes filled in, or wrote
// in another way, does not.
func TestDrift(t *testing.T) {
	p, a := start(t)
	in := statefulSet()
	in["spec"].(object)["template"] = object{"resources": object{"memory": "2048Mi"}, "flags": []any{}}
	live := statefulSet()
	live["spec"].(object)["template"] = object{"resources": object{"memory": "2Gi", "cpu": "1"}}
	live["status"] = object{"replicas": 2.0}
	a.objects[setPath] = live
	read := func() object {
		r, err := p.Read(context.Background(), &pulumirpc.ReadRequest{Id: "ns/a", Urn: urn("apps/v1:StatefulSet"), Inputs: props(t, in), Properties: props(t, in)})
		require.NoError(t, err)
		out, err := decode(r.GetInputs())
		require.NoError(t, err)
		return out
	}
	require.Empty(t, differences(in, read(), "", nil))
	a.objects[setPath]["spec"].(object)["replicas"] = 1.0
	delete(a.objects[setPath]["spec"].(object), "serviceName")
	require.Equal(t, []change{{"spec.replicas", '~'}, {"spec.serviceName", '-'}}, differences(in, read(), "", nil))

	delete(a.objects, setPath)
	r, err := p.Read(context.Background(), &pulumirpc.ReadRequest{Id: "ns/a", Urn: urn("apps/v1:StatefulSet"), Inputs: props(t, in)})
	require.NoError(t, err)
	require.Empty(t, r.GetId(), "gone")
}

func TestForceTakesFieldsBack(t *testing.T) {
	p, a := start(t)
	in := thing("v1", "ConfigMap", "c", nil)
	a.refuse["PATCH /api/v1/namespaces/ns/configmaps/c"] = 409
	_, err := create(t, p, "core/v1:ConfigMap", in)
	require.ErrorContains(t, err, "pulumi.com/patchForce")
	delete(a.refuse, "PATCH /api/v1/namespaces/ns/configmaps/c")
	in["metadata"].(object)["annotations"] = object{"pulumi.com/patchForce": "true"}
	_, err = create(t, p, "core/v1:ConfigMap", in)
	require.NoError(t, err)
	require.Contains(t, a.patches[0], "force=true")
}

func TestPatchNeverCreatesOrDeletes(t *testing.T) {
	p, a := start(t)
	in := thing("v1", "PersistentVolumeClaim", "c", object{"spec": object{"resources": object{"requests": object{"storage": "2Gi"}}}})
	_, err := create(t, p, "core/v1:PersistentVolumeClaimPatch", in)
	require.ErrorContains(t, err, "persistentvolumeclaim ns/c: the server says NotFound")
	path := "/api/v1/namespaces/ns/persistentvolumeclaims/c"
	a.objects[path] = thing("v1", "PersistentVolumeClaim", "c", nil)
	_, err = create(t, p, "core/v1:PersistentVolumeClaimPatch", in)
	require.NoError(t, err)
	_, err = p.Delete(context.Background(), &pulumirpc.DeleteRequest{Id: "ns/c", Urn: urn("core/v1:PersistentVolumeClaimPatch"), Properties: props(t, in)})
	require.NoError(t, err)
	require.Contains(t, a.objects, path)
}

func TestDeleteWaitsUntilItIsGone(t *testing.T) {
	p, a := start(t)
	in := job(nil)
	a.objects[jobPath] = job(nil)
	a.objects[jobPath]["metadata"].(object)["finalizers"] = []any{"foregroundDeletion"}
	_, err := p.Delete(context.Background(), &pulumirpc.DeleteRequest{Id: "ns/j", Urn: urn("batch/v1:Job"), Properties: props(t, in), Timeout: 0.1})
	require.ErrorContains(t, err, "not gone after 100ms; it waits for its finalizers [foregroundDeletion]")
	delete(a.objects[jobPath]["metadata"].(object), "finalizers")
	for range 2 { // a second time is harmless
		_, err = p.Delete(context.Background(), &pulumirpc.DeleteRequest{Id: "ns/j", Urn: urn("batch/v1:Job"), Properties: props(t, in)})
		require.NoError(t, err)
	}
	require.Empty(t, a.objects)
}

func TestCheck(t *testing.T) {
	p, _ := start(t)
	in := object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": "c"}}
	r, err := p.Check(context.Background(), &pulumirpc.CheckRequest{Urn: urn("core/v1:ConfigMap"), News: props(t, in)})
	require.NoError(t, err)
	out, err := decode(r.GetInputs())
	require.NoError(t, err)
	require.Equal(t, "ns", text(out, "metadata", "namespace"))
	r, err = p.Check(context.Background(), &pulumirpc.CheckRequest{Urn: urn("core/v1:ConfigMap"), News: props(t, object{})})
	require.NoError(t, err)
	require.Len(t, r.GetFailures(), 1)
	_, err = p.Check(context.Background(), &pulumirpc.CheckRequest{Urn: urn("apps/v1:Deployment"), News: props(t, in)})
	require.ErrorContains(t, err, "install the official plugin")
}

func TestCancelEndsAWait(t *testing.T) {
	p, _ := start(t)
	_, _ = p.Cancel(context.Background(), nil)
	_, err := create(t, p, "batch/v1:Job", job(nil))
	require.ErrorContains(t, err, "cancelled")
}

func TestKubeconfigFaults(t *testing.T) {
	_, err := connect(object{"kubeconfig": "/does/not/exist"})
	require.ErrorContains(t, err, "does not exist")
	_, err = connect(object{"kubeconfig": "{not a config"})
	require.ErrorContains(t, err, "neither a file nor a configuration")
	_, err = connect(object{"kubeconfig": fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: a, context: {cluster: c}}]\n", "http://127.0.0.1:1")})
	require.NoError(t, err)
}
