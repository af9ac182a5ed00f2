package platform

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/atolldb/atoll/infra/config"
)

// The clouds' resources are registered by names that no compiler checks. Two tests do, with
// testdata/properties between them: the first holds it equal to what the platforms register in
// these tests, the second holds it against the sources of the clouds' Go SDKs.

// sdk is a Go module whose sources say what a provider plugin of the same version takes.
type sdk struct{ module, sum, folder, version string }

var sdks = map[string]sdk{
	"aws":   {"github.com/pulumi/pulumi-aws/sdk/v6", "h1:mHiPVwdSQp5VjpvCdPy52FeMiNcscKvJP+len/mfqdU=", "go/aws", eks.version},
	"gcp":   {"github.com/pulumi/pulumi-gcp/sdk/v9", "h1:fRovmU/VERbQqhNyVVmtaDSg617WUNu4kxvylaWNZ/8=", "go/gcp", gke.version},
	"azure": {"github.com/pulumi/pulumi-azure/sdk/v6", "h1:yeeEx5Jii96ViQytKvfURMmdfAwMWV9WubxRTUeO+iY=", "go/azure", aks.version},
}

var rewrite = flag.Bool("rewrite", false, "write testdata/properties anew")

const propertiesFile = "testdata/properties"

// TestPropertiesAreListed runs every branch of the platforms and lists each property that they set.
func TestPropertiesAreListed(t *testing.T) {
	lines := map[string]bool{}
	subnets := []any{map[string]any{"zone": "eu-central-1a", "id": "subnet-00000001"}, map[string]any{"zone": "eu-central-1b", "id": "subnet-00000002"}, map[string]any{"zone": "eu-central-1c", "id": "subnet-00000003"}}
	for _, run := range []struct {
		platform string
		cloud    map[string]any
	}{{config.EKS, nil}, {config.EKS, map[string]any{"subnets": subnets}}, {config.GKE, nil}, {config.AKS, nil}, {config.AKS, map[string]any{"resourceGroup": "mine"}}} {
		r, _, err := tryPrepare(t, run.platform, map[string]any{"cloud": run.cloud}, map[string]string{awsProfile: "work"})
		require.NoError(t, err)
		for _, m := range r.all {
			if strings.HasPrefix(m.typ, "atoll:") || m.typ == "pulumi:providers:kubernetes" {
				continue
			}
			listProperties(lines, m.typ+" takes ", "", m.inputs)
			for _, s := range m.secrets {
				lines[m.typ+" hides "+s] = true
			}
			listOutputs(lines, m.typ+" gives ", "", outputs[m.typ])
		}
	}
	set := slices.Sorted(maps.Keys(lines))
	if *rewrite {
		require.NoError(t, os.WriteFile(propertiesFile, []byte(strings.Join(set, "\n")+"\n"), 0o644))
	}
	const next = "run go test ./infra/platform -rewrite, then all tests of the package"
	listed := readProperties(t)
	require.Empty(t, without(set, listed), "not in %s; %s", propertiesFile, next)
	require.Empty(t, without(listed, set), "in %s, but set by no platform; %s", propertiesFile, next)
}

func readProperties(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(propertiesFile)
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func without(all, these []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(these, s) })
}

func listProperties(lines map[string]bool, prefix, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if strings.Contains(k, ".") {
				k = "*" // no property, but a key of a map, for instance of tags
			}
			listProperties(lines, prefix, strings.TrimPrefix(path+"."+k, "."), x)
		}
	case []any:
		for _, x := range v {
			listProperties(lines, prefix, path+"[]", x)
		}
	default:
		lines[fmt.Sprintf("%s%s %T", prefix, path, v)] = true
	}
}

func listOutputs(lines map[string]bool, prefix, path string, v map[string]any) {
	for k, x := range v {
		name := strings.TrimPrefix(path+"."+k, ".")
		if nested, ok := x.(map[string]any); ok {
			listOutputs(lines, prefix, name, nested)
			continue
		}
		lines[prefix+name] = true
	}
}

// TestPropertiesAgainstSDK: every property that is set exists with that type, every required one is
// set, every output that is read exists, and what the SDK keeps secret is kept secret.
func TestPropertiesAgainstSDK(t *testing.T) {
	type listed struct{ takes, gives, hides []string }
	all := map[string]*listed{}
	for _, line := range readProperties(t) {
		f := strings.SplitN(line, " ", 3)
		l := all[f[0]]
		if l == nil {
			l = &listed{}
			all[f[0]] = l
		}
		switch f[1] {
		case "takes":
			l.takes = append(l.takes, f[2])
		case "gives":
			l.gives = append(l.gives, f[2])
		case "hides":
			l.hides = append(l.hides, f[2])
		}
	}
	require.Greater(t, len(all), 15)
	folders := map[string]string{}
	for plugin, s := range sdks {
		folders[plugin] = s.download(t)
	}
	for typ, l := range all {
		t.Run(typ, func(t *testing.T) {
			r := readResource(t, folders, typ)
			for _, line := range l.takes {
				path, kind, _ := strings.Cut(line, " ")
				r.checkInput(t, path, kind)
			}
			for _, name := range r.required(l.takes) {
				t.Errorf("%s requires %s, which is not set", typ, name)
			}
			for _, path := range l.gives {
				r.checkOutput(t, path)
			}
			require.ElementsMatch(t, r.secrets, l.hides)
		})
	}
}

// download returns the folder of an SDK's sources.
func (s sdk) download(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", s.module+"@v"+s.version)
	cmd.Dir = t.TempDir() // outside of this module, which shall not require it
	out, err := cmd.Output()
	var answer struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(out, &answer); err != nil || jsonErr != nil || answer.Error != "" {
		if testing.Short() {
			t.Skipf("%s v%s can't be downloaded: %v %s", s.module, s.version, err, answer.Error)
		}
		t.Fatalf("%s v%s can't be downloaded: %v %s", s.module, s.version, err, answer.Error)
	}
	require.Equal(t, s.sum, answer.Sum, "checksum of %s v%s", s.module, s.version)
	return filepath.Join(answer.Dir, s.folder)
}

// sdkResource is what an SDK's sources say about a resource.
type sdkResource struct {
	typ      string
	structs  map[string]*ast.StructType // of its file and of its package's nested types
	args     string                     // name of the struct of its inputs
	state    string                     // of its outputs
	demanded []string                   // Go names of required inputs
	secrets  []string
}

var (
	demand = regexp.MustCompile(`invalid value for required argument '(\w+)'`)
	hidden = regexp.MustCompile(`AdditionalSecretOutputs\(\[\]string\{([^}]*)\}`)
	quoted = regexp.MustCompile(`"(\w+)"`)
)

// readResource parses the file that makes a resource: aws:eks/nodeGroup:NodeGroup is in
// eks/nodeGroup.go, a provider in provider.go.
func readResource(t *testing.T, folders map[string]string, typ string) *sdkResource {
	t.Helper()
	plugin, rest, _ := strings.Cut(typ, ":")
	file, name, _ := strings.Cut(rest, ":")
	if plugin == "pulumi" {
		plugin, file, name = name, "provider", "Provider"
	}
	path := filepath.Join(folders[plugin], file+".go")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), `RegisterResource("`+typ+`"`)
	r := &sdkResource{typ: typ, structs: map[string]*ast.StructType{}, args: strings.ToLower(name[:1]) + name[1:] + "Args", state: name}
	files := []string{path}
	nested, err := filepath.Glob(filepath.Join(filepath.Dir(path), "pulumiTypes*.go"))
	require.NoError(t, err)
	for _, f := range append(files, nested...) {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range parsed.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, s := range g.Specs {
				if st, ok := s.(*ast.TypeSpec).Type.(*ast.StructType); ok {
					r.structs[s.(*ast.TypeSpec).Name.Name] = st
				}
			}
		}
	}
	for _, m := range demand.FindAllStringSubmatch(string(text), -1) {
		r.demanded = append(r.demanded, m[1])
	}
	if m := hidden.FindStringSubmatch(string(text)); m != nil && name != "Provider" { // a provider's are credentials, which we don't set
		for _, q := range quoted.FindAllStringSubmatch(m[1], -1) {
			r.secrets = append(r.secrets, q[1])
		}
	}
	return r
}

// field finds a struct's field by its property name.
func (r *sdkResource) field(name, property string) ast.Expr {
	st := r.structs[name]
	if st == nil {
		return nil
	}
	for _, f := range st.Fields.List {
		if f.Tag != nil && propertyOf(f) == property {
			return f.Type
		}
	}
	return nil
}

func propertyOf(f *ast.Field) string {
	tag, err := strconv.Unquote(f.Tag.Value)
	if err != nil {
		return ""
	}
	return reflect.StructTag(tag).Get("pulumi")
}

// checkInput follows a path like routes[].cidrBlock through the types of the inputs.
func (r *sdkResource) checkInput(t *testing.T, path, kind string) {
	var at ast.Expr = &ast.Ident{Name: r.args}
	for _, step := range strings.Split(strings.ReplaceAll(path, "[]", ".[]"), ".") {
		if p, ok := at.(*ast.StarExpr); ok {
			at = p.X
		}
		switch x := at.(type) {
		case *ast.ArrayType:
			if step != "[]" {
				t.Errorf("%s: %s is a list at %q", r.typ, path, step)
				return
			}
			at = x.Elt
		case *ast.MapType:
			at = x.Value
		case *ast.Ident:
			if at = r.field(x.Name, step); at == nil {
				t.Errorf("%s: %s: %s has no property %q", r.typ, path, x.Name, step)
				return
			}
		default:
			t.Errorf("%s: %s: %q is below %T", r.typ, path, step, at)
			return
		}
	}
	if p, ok := at.(*ast.StarExpr); ok {
		at = p.X
	}
	if id, ok := at.(*ast.Ident); ok {
		goTypes := map[string][]string{"string": {"string"}, "bool": {"bool"}, "float64": {"int", "float64"}}
		if slices.Contains(goTypes[kind], id.Name) {
			return
		}
	}
	if i, ok := at.(*ast.InterfaceType); ok && len(i.Methods.List) == 0 {
		return // the SDK takes anything, for instance a role or its name
	}
	t.Errorf("%s: %s is set to a %s, but the SDK has %T %v", r.typ, path, kind, at, at)
}

// required returns the required properties that are not among those set.
func (r *sdkResource) required(set []string) []string {
	var missing []string
	has := func(path string) bool {
		return slices.ContainsFunc(set, func(s string) bool {
			rest, ok := strings.CutPrefix(s, path)
			return ok && (rest[0] == ' ' || rest[0] == '.' || rest[0] == '[')
		})
	}
	var walk func(structName, path string)
	walk = func(structName, path string) {
		for _, f := range r.structs[structName].Fields.List {
			at, full := f.Type, strings.TrimPrefix(path+"."+propertyOf(f), ".")
			if !has(full) {
				_, basic := at.(*ast.Ident) // neither a pointer, a list, nor a map
				if top := path == ""; top && slices.Contains(r.demanded, f.Names[0].Name) || !top && basic {
					missing = append(missing, full)
				}
				continue
			}
			if p, ok := at.(*ast.StarExpr); ok {
				at = p.X
			}
			if l, ok := at.(*ast.ArrayType); ok {
				at, full = l.Elt, full+"[]"
			}
			if id, ok := at.(*ast.Ident); ok && r.structs[id.Name] != nil {
				walk(id.Name, full)
			}
		}
	}
	walk(r.args, "")
	return missing
}

// checkOutput follows a path like certificateAuthority.data through the outputs: the type of a nested
// one, XOutput, is named after the struct X.
func (r *sdkResource) checkOutput(t *testing.T, path string) {
	name := r.state
	for _, step := range strings.Split(path, ".") {
		at := r.field(name, step)
		if p, ok := at.(*ast.StarExpr); ok {
			at = p.X
		}
		switch x := at.(type) {
		case nil:
			t.Errorf("%s gives no %s: %s has no property %q", r.typ, path, name, step)
			return
		case *ast.Ident:
			name = strings.TrimSuffix(x.Name, "Output")
		}
	}
}
