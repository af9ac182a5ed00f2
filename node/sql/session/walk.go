package session

import (
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/atolldb/atoll/node/sql/parser/ast"
)

// walkNodes calls f with a node and every node below it, whatever its kind.
func walkNodes(n *ast.Node, f func(*ast.Node)) {
	if n != nil {
		walkMessage(n.ProtoReflect(), f)
	}
}

func walkMessage(m protoreflect.Message, f func(*ast.Node)) {
	if n, ok := m.Interface().(*ast.Node); ok {
		f(n)
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Kind() != protoreflect.MessageKind {
			return true
		}
		if fd.IsList() {
			for i := range v.List().Len() {
				walkMessage(v.List().Get(i).Message(), f)
			}
			return true
		}
		walkMessage(v.Message(), f)
		return true
	})
}
