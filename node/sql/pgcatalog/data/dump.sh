#!/bin/sh
# Dumps the facts about PostgreSQL 15's own catalogs that package pgcatalog embeds, from a
# freshly made database cluster: PGHOST, PGPORT and PGUSER say which. Run it in this folder.
set -eu
q() { psql -XAtq -v ON_ERROR_STOP=1 "$@"; }

q -F "$(printf '\t')" -c "
select n.nspname, c.relname, c.oid, c.relkind, a.attname,
  case when t.typtype = 'd' then t.typbasetype else a.atttypid end,
  case when t.typtype = 'd' then t.typtypmod else a.atttypmod end, a.attnotnull
from pg_attribute a join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid = c.relnamespace join pg_type t on t.oid = a.atttypid
where n.nspname in ('pg_catalog', 'information_schema') and c.relkind in ('r', 'v')
  and a.attnum > 0 and not a.attisdropped
order by 1, 2, a.attnum" | gzip -9n > columns.tsv.gz

dump() { # table, condition
  cols=$(q -c "
select string_agg(case
    when atttypid in ('regproc'::regtype, 'regtype'::regtype) then attname || '::oid'
    when atttypid in ('pg_node_tree'::regtype, 'aclitem[]'::regtype, 'anyarray'::regtype) then 'null::text'
    else attname end, ', ' order by attnum)
from pg_attribute where attrelid = 'pg_catalog.$1'::regclass and attnum > 0 and not attisdropped")
  q -c "copy (select $cols from pg_catalog.$1 where $2 order by 1) to stdout" | gzip -9n > "$1.tsv.gz"
}
dump pg_type "typnamespace = 'pg_catalog'::regnamespace and typrelid = 0 and not exists (select from pg_type e where e.oid = pg_type.typelem and e.typrelid <> 0)"
for t in pg_proc pg_operator pg_cast pg_am pg_amop pg_amproc pg_opclass pg_opfamily pg_conversion \
  pg_language pg_aggregate pg_range pg_ts_config pg_ts_dict pg_ts_parser pg_ts_template pg_tablespace; do
  dump $t "true"
done
dump pg_collation "collname in ('default', 'C', 'POSIX', 'ucs_basic')"
dump pg_description "classoid <> 'pg_collation'::regclass"
