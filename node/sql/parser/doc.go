// Package parser turns SQL text into PostgreSQL's parse tree (package ast).
//
// PostgreSQL's own grammar does the work (libpg_query, through cgo). This package adds what a
// server needs around it: a cache from text to tree, limits that hold before C code sees the
// text, error positions in characters, and Atoll's own statements, which are recognised on
// tokens.
//
// A tree is shared by every session that sends the same text: nobody may change it.
package parser
