package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// version is the provider version that it stands in for; the SDK asks for it.
const version = "4.23.0"

// manager owns the fields that are applied.
const manager = "pulumi-kubernetes-standin"

// Times that bound every operation, where the resource's customTimeouts say nothing.
const (
	requestTimeout = 30 * time.Second
	awaitTimeout   = 10 * time.Minute
	deleteTimeout  = 5 * time.Minute
)

// provider serves Pulumi's resource provider protocol.
type provider struct {
	pulumirpc.UnimplementedResourceProviderServer
	log       *slog.Logger
	connect   func(args object) (dynamic.Interface, error)
	api       dynamic.Interface
	namespace string
	poll      time.Duration // between looks at an object that is awaited
	stop      context.Context
	cancel    context.CancelFunc
}

func newProvider(log *slog.Logger, connect func(args object) (dynamic.Interface, error)) *provider {
	p := &provider{log: log, connect: connect, namespace: "default", poll: 500 * time.Millisecond}
	p.stop, p.cancel = context.WithCancel(context.Background())
	return p
}

// GetPluginInfo says which provider this stands in for.
func (p *provider) GetPluginInfo(context.Context, *emptypb.Empty) (*pulumirpc.PluginInfo, error) {
	return &pulumirpc.PluginInfo{Version: version}, nil
}

// GetSchema has none: programs are compiled against the official SDK.
func (p *provider) GetSchema(context.Context, *pulumirpc.GetSchemaRequest) (*pulumirpc.GetSchemaResponse, error) {
	return &pulumirpc.GetSchemaResponse{Schema: `{"name":"kubernetes","version":"` + version + `"}`}, nil
}

// Attach is called when the engine attaches to a provider that runs already.
func (p *provider) Attach(context.Context, *pulumirpc.PluginAttach) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// Cancel ends every wait.
func (p *provider) Cancel(context.Context, *emptypb.Empty) (*emptypb.Empty, error) {
	p.cancel()
	return &emptypb.Empty{}, nil
}

// CheckConfig accepts any configuration; Configure refuses what it can't use.
func (p *provider) CheckConfig(_ context.Context, req *pulumirpc.CheckRequest) (*pulumirpc.CheckResponse, error) {
	return &pulumirpc.CheckResponse{Inputs: req.GetNews()}, nil
}

// DiffConfig never replaces: another path of a kubeconfig is not another cluster.
func (p *provider) DiffConfig(_ context.Context, req *pulumirpc.DiffRequest) (*pulumirpc.DiffResponse, error) {
	olds, err := decode(req.GetOlds())
	if err != nil {
		return nil, err
	}
	news, err := decode(req.GetNews())
	if err != nil {
		return nil, err
	}
	r := &pulumirpc.DiffResponse{Changes: pulumirpc.DiffResponse_DIFF_NONE}
	if len(differences(olds, news, "", nil)) > 0 {
		r.Changes = pulumirpc.DiffResponse_DIFF_SOME
	}
	return r, nil
}

// Configure connects to the cluster.
func (p *provider) Configure(_ context.Context, req *pulumirpc.ConfigureRequest) (*pulumirpc.ConfigureResponse, error) {
	args, err := decode(req.GetArgs())
	if err != nil {
		return nil, err
	}
	if ns := text(args, "namespace"); ns != "" {
		p.namespace = ns
	}
	if !hasUnknown(args) { // in a preview the cluster itself may not be there yet
		if p.api, err = p.connect(args); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	p.log.Info("stand-in for Pulumi's Kubernetes provider: the official plugin is not installed")
	return &pulumirpc.ConfigureResponse{AcceptSecrets: true, SupportsPreview: true}, nil
}

// Check fills in the namespace and refuses objects without a name.
func (p *provider) Check(_ context.Context, req *pulumirpc.CheckRequest) (*pulumirpc.CheckResponse, error) {
	k, err := kindOf(req.GetUrn())
	if err != nil {
		return nil, status.Error(codes.Unimplemented, err.Error())
	}
	news, err := decode(req.GetNews())
	if err != nil {
		return nil, err
	}
	out := &pulumirpc.CheckResponse{Inputs: req.GetNews()}
	if meta, _ := news["metadata"].(object); meta == nil || meta["name"] == nil || meta["name"] == "" {
		out.Failures = append(out.Failures, &pulumirpc.CheckFailure{Property: "metadata.name", Reason: "the stand-in provider makes up no names: set metadata.name"})
	} else if k.namespaced && meta["namespace"] == nil {
		meta["namespace"] = p.namespace
		if out.Inputs, err = encode(news); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Diff compares inputs; a path that Kubernetes can't change in place replaces the object.
func (p *provider) Diff(ctx context.Context, req *pulumirpc.DiffRequest) (*pulumirpc.DiffResponse, error) {
	k, err := kindOf(req.GetUrn())
	if err != nil {
		return nil, status.Error(codes.Unimplemented, err.Error())
	}
	olds, err := decode(req.GetOldInputs())
	if err != nil {
		return nil, err
	}
	news, err := decode(req.GetNews())
	if err != nil {
		return nil, err
	}
	r := &pulumirpc.DiffResponse{Changes: pulumirpc.DiffResponse_DIFF_NONE, HasDetailedDiff: true, DetailedDiff: map[string]*pulumirpc.PropertyDiff{}}
	sameName := true
	for _, c := range differences(olds, news, "", nil) {
		r.Changes = pulumirpc.DiffResponse_DIFF_SOME
		top, _, _ := strings.Cut(strings.SplitN(c.path, "[", 2)[0], ".")
		r.Diffs = append(r.Diffs, top)
		fixed := k.immutable(c.path)
		if fixed {
			r.Replaces = append(r.Replaces, c.path)
			sameName = sameName && c.path != "metadata.name" && c.path != "metadata.namespace"
		}
		r.DetailedDiff[c.path] = &pulumirpc.PropertyDiff{Kind: diffKind(c.kind, fixed), InputDiff: true}
	}
	if len(r.Replaces) == 0 && p.failedJob(ctx, k, news) {
		r.Changes = pulumirpc.DiffResponse_DIFF_SOME
		r.Replaces = []string{"spec"}
		r.DetailedDiff["spec"] = &pulumirpc.PropertyDiff{Kind: pulumirpc.PropertyDiff_UPDATE_REPLACE, InputDiff: true}
	}
	r.DeleteBeforeReplace = len(r.Replaces) > 0 && sameName
	return r, nil
}

func diffKind(kind byte, replace bool) pulumirpc.PropertyDiff_Kind {
	d := map[byte]pulumirpc.PropertyDiff_Kind{'+': pulumirpc.PropertyDiff_ADD, '-': pulumirpc.PropertyDiff_DELETE, '~': pulumirpc.PropertyDiff_UPDATE}[kind]
	if replace {
		d++ // the kinds with replacement follow those without
	}
	return d
}

// failedJob reports whether a Job that asks for it (pulumi.com/replaceUnready) has failed for good:
// only a new one can succeed.
func (p *provider) failedJob(ctx context.Context, k kind, inputs object) bool {
	if k.gvr.Resource != "jobs" || annotation(inputs, "replaceUnready") != "true" || p.api == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	live, err := p.client(k, inputs).Get(ctx, text(inputs, "metadata", "name"), metav1.GetOptions{})
	return err == nil && condition(live.Object, "Failed") != nil
}

func annotation(o object, name string) string {
	return text(o, "metadata", "annotations", "pulumi.com/"+name)
}

// client returns the API of an object's kind and namespace.
func (p *provider) client(k kind, o object) dynamic.ResourceInterface {
	if !k.namespaced {
		return p.api.Resource(k.gvr)
	}
	ns := text(o, "metadata", "namespace")
	if ns == "" {
		ns = p.namespace
	}
	return p.api.Resource(k.gvr).Namespace(ns)
}

func identity(k kind, o object) string {
	if k.namespaced {
		return text(o, "metadata", "namespace") + "/" + text(o, "metadata", "name")
	}
	return text(o, "metadata", "name")
}

// Create applies the object and waits for it.
func (p *provider) Create(ctx context.Context, req *pulumirpc.CreateRequest) (*pulumirpc.CreateResponse, error) {
	k, in, err := p.prepare(req.GetUrn(), req.GetProperties())
	if err != nil {
		return nil, err
	}
	if req.GetPreview() {
		out, err := p.preview(ctx, k, in)
		return &pulumirpc.CreateResponse{Properties: out}, err
	}
	id := identity(k, in)
	out, err := p.applyAndAwait(ctx, k, in, id, req.GetProperties(), req.GetTimeout())
	return &pulumirpc.CreateResponse{Id: id, Properties: out}, err
}

// Update applies the object and waits for it.
func (p *provider) Update(ctx context.Context, req *pulumirpc.UpdateRequest) (*pulumirpc.UpdateResponse, error) {
	k, in, err := p.prepare(req.GetUrn(), req.GetNews())
	if err != nil {
		return nil, err
	}
	if req.GetPreview() {
		out, err := p.preview(ctx, k, in)
		return &pulumirpc.UpdateResponse{Properties: out}, err
	}
	out, err := p.applyAndAwait(ctx, k, in, req.GetId(), req.GetNews(), req.GetTimeout())
	return &pulumirpc.UpdateResponse{Properties: out}, err
}

func (p *provider) prepare(urn string, props *structpb.Struct) (kind, object, error) {
	k, err := kindOf(urn)
	if err != nil {
		return kind{}, nil, status.Error(codes.Unimplemented, err.Error())
	}
	in, err := decode(props)
	return k, in, err
}

// preview asks the API server for a dry run. What can't be asked (a namespace that is not there
// yet, a value that is not known) is answered with the inputs.
func (p *provider) preview(ctx context.Context, k kind, in object) (*structpb.Struct, error) {
	if p.api != nil && !hasUnknown(in) && !k.patch {
		live, err := p.apply(ctx, k, in, true)
		switch {
		case err == nil:
			return encode(in2out(live))
		case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
			return nil, status.Error(codes.InvalidArgument, explain(k, in, err).Error())
		}
	}
	return encode(in)
}

// apply sends the object by server-side apply.
func (p *provider) apply(ctx context.Context, k kind, in object, dryRun bool) (object, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	force := annotation(in, "patchForce") == "true"
	opts := metav1.PatchOptions{FieldManager: manager, Force: &force}
	if dryRun {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	name := text(in, "metadata", "name")
	if k.patch {
		if _, err := p.client(k, in).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return nil, err // apply would make a new object
		}
	}
	live, err := p.client(k, in).Patch(ctx, name, types.ApplyPatchType, body, opts)
	if err != nil {
		return nil, err
	}
	return normal(live.Object), nil
}

// in2out drops what only the API server's books need.
func in2out(live object) object {
	if meta, ok := live["metadata"].(object); ok {
		delete(meta, "managedFields")
	}
	return live
}

// explain says which object failed, and the next step where there is one.
func explain(k kind, in object, err error) error {
	hint := ""
	switch {
	case apierrors.IsConflict(err):
		hint = "; somebody else owns these fields: annotate the object with pulumi.com/patchForce: \"true\" to take them back"
	case apierrors.IsNotFound(err) && strings.Contains(err.Error(), "could not find the requested resource"):
		hint = "; the cluster does not have this kind: install its resource definitions first"
	case apierrors.IsForbidden(err):
		hint = "; use credentials that may, see kubectl auth can-i"
	}
	return fmt.Errorf("%s %s: %w%s", strings.TrimSuffix(k.gvr.Resource, "s"), identity(k, in), err, hint)
}

// applyAndAwait returns an ErrorResourceInitFailed where the object exists but is not what it should
// be: the state then holds it, and the next update goes on.
func (p *provider) applyAndAwait(ctx context.Context, k kind, in object, id string, inputs *structpb.Struct, seconds float64) (*structpb.Struct, error) {
	if p.api == nil {
		return nil, status.Error(codes.FailedPrecondition, "the provider has no cluster: its configuration was not known")
	}
	live, err := p.apply(ctx, k, in, false)
	if err != nil {
		return nil, status.Error(codes.Unknown, explain(k, in, err).Error())
	}
	if annotation(in, "skipAwait") != "true" && !k.patch {
		limit := awaitTimeout
		if seconds > 0 {
			limit = time.Duration(seconds * float64(time.Second))
		}
		awaited, err := p.await(ctx, k, in, limit)
		if awaited != nil {
			live = awaited
		}
		if err != nil {
			return nil, initFailed(id, live, inputs, explain(k, in, err))
		}
	}
	return encode(in2out(live))
}

func initFailed(id string, live object, inputs *structpb.Struct, err error) error {
	out, encErr := encode(in2out(live))
	if encErr != nil {
		return errors.Join(err, encErr)
	}
	st, detailErr := status.New(codes.Unknown, err.Error()).WithDetails(&pulumirpc.ErrorResourceInitFailed{Id: id, Properties: out, Inputs: inputs, Reasons: []string{err.Error()}})
	if detailErr != nil {
		return errors.Join(err, detailErr)
	}
	return st.Err()
}

// Read returns the live object, and the inputs that would describe it; nothing when it is gone.
func (p *provider) Read(ctx context.Context, req *pulumirpc.ReadRequest) (*pulumirpc.ReadResponse, error) {
	k, inputs, err := p.prepare(req.GetUrn(), req.GetInputs())
	if err != nil {
		return nil, err
	}
	if p.api == nil {
		return nil, status.Error(codes.FailedPrecondition, "the provider has no cluster: its configuration was not known")
	}
	where := inputs
	if len(where) == 0 { // an import: the ID says where
		ns, name, found := strings.Cut(req.GetId(), "/")
		if !found {
			ns, name = "", ns
		}
		where = object{"metadata": object{"name": name, "namespace": ns}}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	got, err := p.client(k, where).Get(ctx, text(where, "metadata", "name"), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &pulumirpc.ReadResponse{}, nil
	}
	if err != nil {
		return nil, status.Error(codes.Unknown, explain(k, where, err).Error())
	}
	live := normal(got.Object)
	props, err := encode(in2out(live))
	if err != nil {
		return nil, err
	}
	projected, _ := project(inputs, live).(object)
	if len(inputs) == 0 {
		projected = live
	}
	ins, err := encode(projected)
	return &pulumirpc.ReadResponse{Id: req.GetId(), Properties: props, Inputs: ins}, err
}

// Delete deletes the object and waits until it is gone. A patch's object belongs to somebody else
// and stays.
func (p *provider) Delete(ctx context.Context, req *pulumirpc.DeleteRequest) (*emptypb.Empty, error) {
	k, o, err := p.prepare(req.GetUrn(), req.GetProperties())
	if err != nil {
		return nil, err
	}
	if k.patch {
		return &emptypb.Empty{}, nil
	}
	if p.api == nil {
		return nil, status.Error(codes.FailedPrecondition, "the provider has no cluster: its configuration was not known")
	}
	limit := deleteTimeout
	if s := req.GetTimeout(); s > 0 {
		limit = time.Duration(s * float64(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	name, api := text(o, "metadata", "name"), p.client(k, o)
	foreground := metav1.DeletePropagationForeground
	opts := metav1.DeleteOptions{PropagationPolicy: &foreground}
	if uid := text(o, "metadata", "uid"); uid != "" {
		u := types.UID(uid)
		opts.Preconditions = &metav1.Preconditions{UID: &u} // one made anew by somebody else is not ours
	}
	err = api.Delete(ctx, name, opts)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return &emptypb.Empty{}, nil
	}
	if err != nil {
		return nil, status.Error(codes.Unknown, explain(k, o, err).Error())
	}
	var last *unstructured.Unstructured
	err = p.until(ctx, func(ctx context.Context) (bool, error) {
		live, err := api.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && text(o, "metadata", "uid") != "" && string(live.GetUID()) != text(o, "metadata", "uid") {
			return true, nil
		}
		if err == nil {
			last = live
		}
		return false, nil
	})
	if err != nil {
		why := ""
		if last != nil && len(last.GetFinalizers()) > 0 {
			why = fmt.Sprintf("; it waits for its finalizers %v", last.GetFinalizers())
		}
		return nil, status.Error(codes.Unknown, explain(k, o, fmt.Errorf("not gone after %s%s: %w", limit, why, err)).Error())
	}
	return &emptypb.Empty{}, nil
}

// until asks every poll until the answer is yes, an error, or the time is over.
func (p *provider) until(ctx context.Context, done func(context.Context) (bool, error)) error {
	t := time.NewTicker(p.poll)
	defer t.Stop()
	for {
		ok, err := done(ctx)
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.stop.Done():
			return errors.New("the update was cancelled")
		case <-t.C:
		}
	}
}
