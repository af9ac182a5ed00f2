package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Cloud is what a platform that makes its own Kubernetes needs beside the zones.
type Cloud struct {
	// Region is the cluster's; all its zones lie in it.
	Region string
	// Version of Kubernetes; empty is what the cloud chooses when the cluster is made. With gke it
	// is the lowest one: the release channel moves it on.
	Version string
	// Machine is the type of every machine: one for each node of a zone.
	Machine       string
	Project       string   // gke
	ResourceGroup string   // aks: one that exists; empty makes one
	Subnets       []Subnet // eks: an existing VPC's subnet for each zone; empty makes a VPC
}

// Subnet is the subnet of a zone.
type Subnet struct{ Zone, ID string }

// cloudRules is what a cloud's names look like.
type cloudRules struct {
	region        *regexp.Regexp
	regionExample string
	// A zone is named by its region, this separator, and a suffix.
	zoneSeparator  string
	zoneSuffix     *regexp.Regexp
	suffixes       string // for messages
	minZones       int
	version        *regexp.Regexp
	versionExample string
	machine        *regexp.Regexp
	defaultMachine string
	keys           []string // of atoll:cloud, beside region, version and machine
}

var clouds = map[string]cloudRules{
	EKS: {
		region: regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]$`), regionExample: "eu-central-1",
		zoneSuffix: regexp.MustCompile(`^[a-z]$`), suffixes: "a letter",
		minZones: 2, // the control plane's own bound
		version:  regexp.MustCompile(`^1\.([0-9]+)$`), versionExample: "1.33",
		machine: regexp.MustCompile(`^[a-z][a-z0-9-]*\.[a-z0-9-]+$`), defaultMachine: "m6i.xlarge",
		keys: []string{"subnets"},
	},
	GKE: {
		region: regexp.MustCompile(`^[a-z]+-[a-z]+[0-9]+$`), regionExample: "europe-west3",
		zoneSeparator: "-", zoneSuffix: regexp.MustCompile(`^[a-z]$`), suffixes: "a letter", minZones: 1,
		version: regexp.MustCompile(`^1\.([0-9]+)(\.[0-9]+(-gke\.[0-9]+)?)?$`), versionExample: "1.33",
		machine: regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)+$`), defaultMachine: "n2-standard-4",
		keys: []string{"project"},
	},
	AKS: {
		region: regexp.MustCompile(`^[a-z]+[0-9]?[a-z]*$`), regionExample: "westeurope",
		zoneSeparator: "-", zoneSuffix: regexp.MustCompile(`^[1-9]$`), suffixes: "a digit", minZones: 1,
		version: regexp.MustCompile(`^1\.([0-9]+)(\.[0-9]+)?$`), versionExample: "1.33",
		machine: regexp.MustCompile(`^(Standard|Basic)_[A-Z]+[0-9]+(-[0-9]+)?[a-z]*(_[A-Za-z0-9]+)*$`), defaultMachine: "Standard_D4s_v5",
		keys: []string{"resourceGroup"},
	},
}

// minMinor is the first Kubernetes 1.x that has all that the pods and Services use
// (trafficDistribution, and sleep before the end of a container).
const minMinor = 31

// MakesCluster reports whether the platform makes a Kubernetes of its own.
func (s *Spec) MakesCluster() bool {
	_, ok := clouds[s.Platform]
	return ok
}

// ZoneSuffix returns what a zone's name adds to its region's: a of eu-central-1a, 2 of
// westeurope-2.
func (s *Spec) ZoneSuffix(zone string) string {
	return strings.TrimPrefix(zone, s.Cloud.Region+clouds[s.Platform].zoneSeparator)
}

// cloud reads atoll:cloud, and checks what the platform makes of it and of the zones.
func (s *Spec) cloud(d *decoder, top object) {
	o := d.object("atoll:cloud", top.m["cloud"], "region", "version", "machine", "project", "resourceGroup", "subnets")
	r, ok := clouds[s.Platform]
	s.Cloud = Cloud{Region: o.str("region", ""), Version: o.str("version", ""), Machine: o.str("machine", r.defaultMachine), Project: o.str("project", ""),
		ResourceGroup: o.str("resourceGroup", "")}
	for i, v := range o.list("subnets") {
		sub := d.object(fmt.Sprintf("atoll:cloud.subnets[%d]", i), v, "zone", "id")
		s.Cloud.Subnets = append(s.Cloud.Subnets, Subnet{Zone: sub.str("zone", ""), ID: sub.str("id", "")})
	}
	asked, _ := top.m["platform"].(string)
	switch {
	case ok:
		c := &cloudCheck{Spec: s, cloudRules: r, d: d}
		c.foreignKeys(o)
		c.location()
		c.versionAndMachine()
		c.ofThisCloud()
	case len(o.m) > 0 && (asked == "" || asked == s.Platform): // else the platform is misspelt, and that is the fault
		d.fault("atoll:cloud is for the platforms eks, gke and aks; the platform is %s: leave it out, or choose one of them", s.Platform)
	}
}

// cloudCheck gathers the faults of a cloud's configuration.
type cloudCheck struct {
	*Spec
	cloudRules
	d *decoder
}

// foreignKeys finds settings that this platform would not look at.
func (c *cloudCheck) foreignKeys(o object) {
	for _, k := range []string{"project", "resourceGroup", "subnets"} {
		if _, set := o.m[k]; set && !slices.Contains(c.keys, k) {
			c.d.fault("atoll:cloud.%s is set, but the platform %s has none; leave it out", k, c.Platform)
		}
	}
	for _, of := range []struct{ key, value string }{{"kubeconfig", c.Kubeconfig}, {"context", c.Context}} {
		if of.value != "" {
			c.d.fault("atoll:%s is %q, but the platform %s makes a cluster of its own; leave it out, or use platform existing", of.key, of.value, c.Platform)
		}
	}
}

// location checks the region, and that the zones lie in it; it gives them the region.
func (c *cloudCheck) location() {
	region := c.Cloud.Region
	switch {
	case region == "":
		c.d.fault("atoll:cloud.region is empty; name the region of %s, for instance with: pulumi config set --path atoll:cloud.region %s", c.Platform, c.regionExample)
		return
	case !c.region.MatchString(region):
		c.d.fault("atoll:cloud.region is %q, which no region of %s looks like; write it like %s", region, c.Platform, c.regionExample)
		return
	case c.Platform == EKS && strings.HasPrefix(region, "cn-"):
		c.d.fault("atoll:cloud.region is %q; the regions of China need endpoints and policies of their own, which this program does not know: bring the cluster up yourself and use platform existing", region)
		return
	}
	for i, z := range c.Zones {
		suffix, ok := strings.CutPrefix(z.Name, region+c.zoneSeparator)
		if !ok || !c.zoneSuffix.MatchString(suffix) {
			c.d.fault("atoll:zones[%d].name is %q; the zones of region %s are named %s%s and %s", i, z.Name, region, region, c.zoneSeparator, c.suffixes)
		}
		if z.Region != "" && z.Region != region {
			c.d.fault("atoll:zones[%d].region is %q, but a cluster of %s lies in one region, %s; leave it out", i, z.Region, c.Platform, region)
		}
		c.Zones[i].Region = region
	}
	if n := len(c.Zones); n > 0 && n < c.minZones {
		c.d.fault("atoll:zones has %d zone; the control plane of %s needs subnets in at least %d", n, c.Platform, c.minZones)
	}
}

func (c *cloudCheck) versionAndMachine() {
	if v := c.Cloud.Version; v != "" {
		m := c.version.FindStringSubmatch(v)
		if m == nil {
			c.d.fault("atoll:cloud.version is %q; write it like %q, in quotes, or leave it out for what %s chooses", v, c.versionExample, c.Platform)
		} else if minor, err := strconv.Atoi(m[1]); err != nil || minor < minMinor {
			c.d.fault("atoll:cloud.version is %q; Atoll's pods and Services need at least 1.%d", v, minMinor)
		}
	}
	machine := c.Cloud.Machine
	if !c.machine.MatchString(machine) {
		c.d.fault("atoll:cloud.machine is %q, which no machine type of %s looks like; write it like %s", machine, c.Platform, c.defaultMachine)
		return
	}
	if c.Storage.Class != "" || c.Storage.Provisioner != "" {
		return // not the volumes that the platform would choose
	}
	if c.Platform == AKS && !premiumStorage.MatchString(machine) {
		c.d.fault("atoll:cloud.machine is %q, which can't mount premium SSDs (its name has no s after the size); use one like %s, or name an atoll:storage.class", machine, c.defaultMachine)
	}
	family, _, _ := strings.Cut(machine, "-")
	if _, chosen := c.Storage.Parameters["type"]; c.Platform == GKE && !chosen && slices.Contains(hyperdiskOnly, family) {
		c.d.fault("atoll:cloud.machine is %q, whose family mounts Hyperdisks only; set atoll:storage.parameters.type to hyperdisk-balanced, or use one like %s", machine, c.defaultMachine)
	}
}

// premiumStorage matches Azure's sizes that take premium SSDs: an s among the letters after the
// size, or in the family's name of the older ones (DS2_v2).
var premiumStorage = regexp.MustCompile(`^Standard_([A-Z]+[0-9]+(-[0-9]+)?[a-z]*s[a-z]*|[A-Z]*S[0-9]+(-[0-9]+)?)(_|$)`)

// hyperdiskOnly are machine families of Google that mount no persistent disks.
var hyperdiskOnly = []string{"c4", "c4a", "c4d", "n4"}

var (
	projectID     = regexp.MustCompile(`^([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]$`)
	resourceGroup = regexp.MustCompile(`^[-\w._()]{0,89}[-\w_()]$`)
	subnetID      = regexp.MustCompile(`^subnet-[0-9a-f]{8,17}$`)
)

// ofThisCloud checks the keys that one cloud alone has.
func (c *cloudCheck) ofThisCloud() {
	switch {
	case c.Platform == GKE && c.Cloud.Project == "":
		c.d.fault("atoll:cloud.project is empty; name the project that the cluster is made in, for instance with: pulumi config set --path atoll:cloud.project $(gcloud config get-value project)")
	case c.Platform == GKE && !projectID.MatchString(c.Cloud.Project):
		c.d.fault("atoll:cloud.project is %q; write the project's ID: 6 to 30 of a-z, 0-9 and '-', a letter first", c.Cloud.Project)
	case c.Platform == AKS && c.Cloud.ResourceGroup != "" && !resourceGroup.MatchString(c.Cloud.ResourceGroup):
		c.d.fault("atoll:cloud.resourceGroup is %q; a resource group has at most 90 letters, digits, and any of ._-(), and no period at its end", c.Cloud.ResourceGroup)
	case c.Platform == EKS && len(c.Cloud.Subnets) > 0:
		c.subnets()
	}
}

// subnets checks that each zone has one subnet.
func (c *cloudCheck) subnets() {
	of := map[string]int{}
	for i, sub := range c.Cloud.Subnets {
		path := fmt.Sprintf("atoll:cloud.subnets[%d]", i)
		if !slices.ContainsFunc(c.Zones, func(z Zone) bool { return z.Name == sub.Zone }) {
			c.d.fault("%s.zone is %q, which is not in atoll:zones", path, sub.Zone)
		}
		if of[sub.Zone]++; of[sub.Zone] == 2 {
			c.d.fault("%s: zone %q has a subnet already; give each zone one", path, sub.Zone)
		}
		if !subnetID.MatchString(sub.ID) {
			c.d.fault("%s.id is %q; a subnet's ID is like subnet-0123456789abcdef0", path, sub.ID)
		}
	}
	for _, z := range c.Zones {
		if of[z.Name] == 0 {
			c.d.fault("atoll:cloud.subnets has none for zone %q; add it, or leave subnets out and a VPC is made", z.Name)
		}
	}
}
