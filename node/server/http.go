package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// status is what the HTTP port shows of a node.
type status interface {
	// Healthy is nil while the process works, ready or not.
	Healthy() error
	// Ready is nil when the node serves SQL now.
	Ready() error
	Overview() Overview
	// Isolate cuts the node off from the others (fault injection).
	Isolate(on bool)
}

// Overview is the console's content.
type Overview struct {
	ClusterID string     `json:"cluster_id"`
	Node      int32      `json:"node"`
	Zone      string     `json:"zone"`
	SQL       string     `json:"sql"`
	Ready     bool       `json:"ready"`
	Reason    string     `json:"reason,omitempty"`
	Newborn   bool       `json:"newborn"`            // no identity yet: waits to be founded or admitted
	Revision  string     `json:"revision,omitempty"` // --revision
	Nodes     []NodeRow  `json:"nodes"`
	Ranges    []RangeRow `json:"ranges"`
	Clients   int        `json:"clients"`
	// Placement is what the ranges that this node leads lack; nil before it has a store.
	Placement *Placement `json:"placement,omitempty"`
}

// Placement says whether the ranges that a node leads are placed as their policies want.
type Placement struct {
	Known   bool   `json:"known"`   // the policies are known
	Lacking int    `json:"lacking"` // ranges that lack something
	Reason  string `json:"reason,omitempty"`
}

// NodeRow is a node as this one sees it.
type NodeRow struct {
	ID       int32  `json:"id"`
	Region   string `json:"region"`
	Zone     string `json:"zone"`
	State    string `json:"state"`
	Live     bool   `json:"live"`
	SQL      string `json:"sql"`
	HTTP     string `json:"http"`
	Replicas int    `json:"replicas"`
	Leases   int    `json:"leases"`
}

// RangeRow is a range of which this node holds a replica.
type RangeRow struct {
	ID          int64  `json:"id"`
	Start       string `json:"start"`
	End         string `json:"end"`
	Replicas    string `json:"replicas"`
	Leaseholder int32  `json:"leaseholder"`
	Applied     uint64 `json:"applied"`
	Bytes       int64  `json:"bytes"`
}

// newHTTP returns the handler of the HTTP port.
func newHTTP(s status, reg *prometheus.Registry, faults bool) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, err error) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.Healthy()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.Ready()) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Timeout: 10 * time.Second, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /api/overview", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Overview())
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_ = console.Execute(w, s.Overview())
	})
	if faults {
		mux.HandleFunc("POST /debug/faults/isolate", func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Query().Get("on") {
			case "true":
				s.Isolate(true)
			case "false":
				s.Isolate(false)
			default:
				http.Error(w, "on must be true or false", http.StatusBadRequest)
				return
			}
			answer(w, nil)
		})
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

var errStarting = errors.New("the node is starting: it waits for its ranges and for a measured clock")

// console is one page without scripts: it works through any tunnel, at 3 a.m. too.
var console = template.Must(template.New("console").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>Atoll node {{.Node}}</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#16262e;background:#fbfcfc}
h1{font-size:1.3rem;margin:0}h2{font-size:1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;color:#55707c;border-bottom:1px solid #c9d6db}
td,th{padding:.3rem .8rem .3rem 0;vertical-align:top}td{border-bottom:1px solid #e8eef0;font-variant-numeric:tabular-nums}
.up{color:#0b7a4b}.down{color:#b3261e;font-weight:600}code{font-size:.9em}p{margin:.2rem 0;color:#55707c}
</style></head><body>
<h1>Node {{.Node}}, zone {{.Zone}} {{if .Ready}}<span class="up">serves SQL</span>{{else}}<span class="down">not ready</span>{{end}}</h1>
<p>cluster {{.ClusterID}} · SQL on <code>{{.SQL}}</code> · {{.Clients}} clients{{if .Reason}} · {{.Reason}}{{end}}</p>
<h2>Nodes</h2>
<table><tr><th>node</th><th>region</th><th>zone</th><th>state</th><th>seen from here</th><th>replicas</th><th>leases</th><th>SQL</th><th>HTTP</th></tr>
{{range .Nodes}}<tr><td>{{.ID}}</td><td>{{.Region}}</td><td>{{.Zone}}</td><td>{{.State}}</td><td>{{if .Live}}<span class="up">live</span>{{else}}<span class="down">silent</span>{{end}}</td><td>{{.Replicas}}</td><td>{{.Leases}}</td><td><code>{{.SQL}}</code></td><td><a href="http://{{.HTTP}}/">{{.HTTP}}</a></td></tr>
{{end}}</table>
<h2>Ranges with a replica here</h2>
<table><tr><th>range</th><th>from</th><th>to</th><th>replicas</th><th>leaseholder</th><th>applied</th><th>bytes</th></tr>
{{range .Ranges}}<tr><td>{{.ID}}</td><td><code>{{.Start}}</code></td><td><code>{{.End}}</code></td><td>{{.Replicas}}</td><td>{{if .Leaseholder}}node {{.Leaseholder}}{{else}}<span class="down">none known</span>{{end}}</td><td>{{.Applied}}</td><td>{{.Bytes}}</td></tr>
{{end}}</table>
<p>This page reloads itself every five seconds. <a href="/metrics">metrics</a> · <a href="/healthz">healthz</a> · <a href="/readyz">readyz</a></p>
</body></html>
`))
