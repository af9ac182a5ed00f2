package types

import "unsafe"

// KindOf returns how values of a type are held; KindNull for pseudo-types without values and
// types that are not supported. Types that PostgreSQL has and Atoll does not yet (xml, inet,
// money, bit, ranges, geometry, text search) have no kind: a column can't be of such a type.
func KindOf(oid OID) Kind {
	switch oid {
	case OIDBool:
		return KindBool
	case OIDInt2, OIDInt4, OIDInt8, OIDOID, OIDXID, OIDCID, OIDXID8:
		return KindInt
	case OIDFloat4, OIDFloat8:
		return KindFloat
	case OIDText, OIDVarChar, OIDBPChar, OIDName, OIDChar, OIDJSON, OIDUnknown, OIDCString, OIDRefCursor, OIDPgNodeTree, OIDVoid, OIDACLItem:
		return KindString
	case OIDTimestamp, OIDTimestampTZ:
		return KindTimestamp
	case OIDDate:
		return KindDate
	case OIDTime, OIDTimeTZ:
		return KindTime
	case OIDBytea:
		return KindBytes
	case OIDUUID:
		return KindUUID
	case OIDNumeric:
		return KindNumeric
	case OIDInterval:
		return KindInterval
	case OIDJSONB:
		return KindJSON
	case OIDRecord:
		return KindRecord
	}
	if isReg(oid) {
		return KindInt
	}
	if t, ok := Lookup(oid); ok && (t.IsArray() && KindOf(t.Elem) != KindNull || t.IsVector()) {
		return KindArray
	}
	return KindNull
}

// Storable says whether a column can be of a type: it has values and is no pseudo-type.
func Storable(oid OID) bool {
	t, ok := Lookup(oid)
	return ok && !t.IsPseudo() && KindOf(oid) != KindNull
}

// AliasString returns a text value that lives in b, which nobody may change afterwards.
func AliasString(b []byte) Datum {
	return Datum{kind: KindString, bits: uint64(len(b)), ptr: unsafe.Pointer(unsafe.SliceData(b))}
}

// AliasJSON is AliasString for jsonb in its canonical text form.
func AliasJSON(b []byte) Datum {
	return Datum{kind: KindJSON, bits: uint64(len(b)), ptr: unsafe.Pointer(unsafe.SliceData(b))}
}

// AliasUUID returns a uuid that lives in b. REQUIRES: len(b) == 16.
func AliasUUID(b []byte) Datum {
	_ = b[15]
	return Datum{kind: KindUUID, ptr: unsafe.Pointer(unsafe.SliceData(b))}
}
