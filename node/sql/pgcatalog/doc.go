// Package pgcatalog computes PostgreSQL's system catalogs (pg_catalog, information_schema)
// and Atoll's own views (schema atoll) from descriptors, and the functions that print
// definitions (pg_get_indexdef, format_type and their kin).
//
// The facts about PostgreSQL 15's own types, functions, operators and so on (names, OIDs,
// flags) are PostgreSQL's: Portions Copyright (c) 1996-2022, The PostgreSQL Global
// Development Group; Portions Copyright (c) 1994, The Regents of the University of
// California, under the PostgreSQL licence.
package pgcatalog

import "github.com/atolldb/atoll/node/sql/catalog"

// ClusterInfo answers the atoll views.
type ClusterInfo = catalog.ClusterInfo
