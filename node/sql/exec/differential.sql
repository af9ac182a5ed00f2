-- One statement a line. TestAgainstPostgres compares each with PostgreSQL.
create table a (id int primary key, x int, s text, d date, n numeric(10,2))
create table b (id int primary key, aid int, t text, f float8)
create table c (k text, v int, primary key (k, v))
create table u (id int primary key, e text unique, x int check (x > 0), c varchar(3), bp char(4), ts timestamptz)
create table r (v int, w text)
insert into a select g, g % 5, 's' || g, date '2020-01-01' + g, g * 1.5 from generate_series(1, 20) g
insert into b select g, g % 7 + 1, 't' || (g % 3), g / 4.0 from generate_series(1, 30) g
insert into b values (100, null, null, null)
insert into c select chr(97 + g % 3), g from generate_series(1, 9) g
insert into r values (1, 'x'), (1, 'x'), (2, null), (null, 'y')
create index a_x on a (x)
create index b_aid on b (aid, f desc)
select * from a where id = 3
select * from a where id in (3, 5, 5, 99) order by id
select id from a where id between 3 and 6 and x <> 4 order by id desc
select id from a where x = 2 order by id
select id from a where x = any('{1,2}') and id > 5 order by 1
select id from a where x > 2 and x <= 3 order by x, id
select id from a where x < 1 or x is null order by id
select id, aid from b where aid is null
select id from b where aid > 6 order by f desc, id
select id from b where aid = 3 order by f desc
select id, f from b order by f desc nulls last limit 3
select id, f from b order by f desc limit 3
select id, f from b order by f limit 3 offset 2
select id from a order by id desc limit 2
select id from a order by x, id desc limit 5
select * from c where k = 'a' order by v
select * from c where k >= 'b' and k < 'c' order by v desc
select * from c where (k, v) > ('a', 6) order by k, v
select * from c where k = 'b' and v in (1, 4, 7) order by v desc
select a.id, b.id from a join b on a.id = b.aid where a.id < 3 order by 1, 2
select a.id, b.id from a left join b on a.id = b.aid and b.f > 3 where a.id < 4 order by 1, 2
select a.id, b.id from b right join a on a.id = b.aid where a.id > 6 order by 1, 2
select a.id, b.id from a full join b on a.id = b.aid and a.id < 3 where a.id is null or a.id > 18 order by 1, 2
select count(*) from a cross join b
select count(*) from a, b where a.x = b.aid
select * from a join b using (id) where id < 3 order by id
select * from a natural join b where id < 3 order by id
select id, a.id, b.id from a left join b using (id) where id > 19 order by 1
select a.id from a where exists (select 1 from b where b.aid = a.id and b.f > 6) order by 1
select a.id from a where not exists (select 1 from b where b.aid = a.id) order by 1
select a.id from a where a.id in (select aid from b where t = 't1') order by 1
select a.id from a where a.id not in (select aid from b where aid is not null) order by 1
select a.id from a where a.id not in (select aid from b) order by 1
select a.id, (select max(f) from b where b.aid = a.id) m from a where id < 9 order by 1
select a.id, (select count(*) from b where b.aid = a.x) m from a where id < 9 order by 1
select (select id from a)
select x, count(*), sum(n), avg(n), min(s), max(d) from a group by x order by x
select x, count(*) from a group by 1 having count(*) > 3 order by 1
select x % 2 p, sum(id) from a group by p order by p
select x % 2 + 1, sum(id) from a group by x % 2 order by 1
select a.id, a.s from a group by a.id order by a.id limit 2
select a.s from a group by a.id order by a.id limit 2
select s from a group by x
select x, s from a group by x
select count(*) from a where false
select sum(x) from a where false
select max(id) - min(id) from a
select count(distinct x), count(x), count(*) from a
select count(*) filter (where x = 1), sum(id) filter (where x > 2) from a
select string_agg(s, ',' order by id desc) from a where id < 4
select array_agg(x order by id) from a where id < 7
select distinct x from a order by x
select distinct on (x) x, id from a order by x, id desc
select distinct x, s from a where id < 4 order by s desc
select x from a union select aid from b order by 1
select x from a where id < 4 union all select 7 order by 1
select x from a intersect select aid from b order by 1
select x from a except select aid from b order by 1
select v from r intersect all select 1
select v, w from r except all select 1, 'x'
select '1' union select 2 order by 1
select null union select 2 order by 1
select 1 union select 'a'
select 1, 2 union select 1
values (1, 'a'), (2, 'b') order by 1 desc
select * from (values (1, 'a'), (2, null)) v(x, y) order by x
select * from generate_series(1, 3) g
select * from generate_series(1, 2) with ordinality
select g, h from generate_series(1, 2) g, generate_series(g, 2) h order by 1, 2
select generate_series(1, 3), 'x'
select generate_series(1, 2), generate_series(1, 3)
select unnest(array[1,2]), unnest(array['a','b','c'])
select a.id, l.m from a, lateral (select max(f) m from b where b.aid = a.id) l where a.id < 3 order by 1
select a.id, l.f from a left join lateral (select f from b where b.aid = a.id order by f desc limit 1) l on true where a.id > 5 and a.id < 10 order by 1
with q as (select x, count(*) c from a group by x) select * from q where c > 3 order by x
with q as (select id from a where id < 4) select q1.id, q2.id from q q1 join q q2 on q1.id = q2.id + 1 order by 1
with recursive t(n) as (values (1) union all select n + 1 from t where n < 5) select n from t order by n
with recursive t(n) as (select 1 union select (n + 1) % 3 from t) select n from t order by n
with q(a, b) as (select 1, 2) select b, a from q
select row_number() over (order by id desc), id from a where id < 5 order by id
select x, id, rank() over (partition by x order by id), sum(id) over (partition by x order by id), sum(id) over (partition by x) from a where id < 12 order by x, id
select id, lag(id) over w, lead(id, 2, -1) over w, first_value(id) over w, last_value(id) over w from a where id < 6 window w as (order by id) order by id
select id, sum(id) over (order by id rows between 1 preceding and 1 following), ntile(3) over (order by id), dense_rank() over (order by x) from a where id < 8 order by id
select case when x > 2 then 'big' when x = 2 then 'two' else 'small' end, id from a where id < 5 order by id
select case x when 1 then 'one' when 2 then 'two' end from a where id < 4 order by id
select coalesce(null, x, 3), nullif(x, 2), greatest(x, 2, null), least(x, 2) from a where id < 4 order by id
select x is null, x is not null, x is distinct from 2, x is not distinct from 2 from a where id < 3 order by id
select true and null, false and null, true or null, not null
select 1 in (1, null), 2 in (1, null), 2 not in (1, null), 1 not in (1, 2)
select (1, 2) = (1, 2), (1, 2) < (1, 3), (1, null) = (2, null), row(1, 'a') <> row(1, 'b')
select 'abc' like 'a%', 'abc' not like '%d', 'ABC' ilike 'abc', 'abc' ~ '^a', 'abc' !~ 'x', 'aXc' ~* 'x', 'abc' similar to 'a(b|c)*'
select 1 between 0 and 2, 3 not between 1 and 2, 2 between symmetric 3 and 1
select '5'::int + 1, 5::text || 'x', cast('1.50' as numeric(5,1)), 1.5::int, 2.5::int, '2020-02-30'::date
select '2020-02-29'::date + 1, date '2020-03-01' - date '2020-02-01', timestamp '2020-01-01 10:00' + interval '1 day 2 hours'
select 7 / 2, -7 / 2, 7 % 3, 7.0 / 2, 2 ^ 10, 10 / 4.0, 1e3, 5 / 0
select 2147483647 + 1
select 2147483648, -2147483648, 9223372036854775807, 9223372036854775808, -9223372036854775808
select 1 + '2', '3' || 4, 'a' || null, 1 || 'x'
select array[1, 2, 3], array[[1, 2], [3, 4]], (array[1, 2, 3])[2], (array[1, 2, 3])[2:3], array[]::int[], array['a', null]
select array[1, 2] || 3, 1 = any(array[1, 2]), 1 = all(array[1, 1]), 3 <> all(array[1, 2]), array[1,2] = array[1,2]
select array(select id from a where id < 4 order by id)
select upper(s), length(s), substring(s from 2), position('1' in s), lower('ABC'), trim('  x '), replace(s, 's', 'z') from a where id = 11
select abs(-5), round(2.567, 2), floor(2.7), ceil(2.1), sqrt(16.0), mod(7, 3), sign(-2)
select extract(year from date '2020-05-06'), date_trunc('month', timestamp '2020-05-06 10:11:12'), to_char(date '2020-05-06', 'YYYY/MM/DD')
select pg_typeof(1), pg_typeof(1.5), pg_typeof(now()::date)
insert into u values (1, 'e1', 5, 'abc', 'ab', '2020-01-01 00:00+00')
insert into u values (1, 'e2', 5)
insert into u values (2, 'e1', 5)
insert into u (id, e, x) values (3, 'e3', 0)
insert into u (id, e, c) values (3, 'e3', 'abcd')
insert into u (id, e, c) values (3, 'e3', 'abc   ')
insert into u (id, bp) values (4, 'abcde')
insert into u (id) values (null)
insert into u (id, nope) values (1, 2)
insert into u (id, id) values (1, 2)
insert into u (id, x) values (1)
insert into u (id, x) values (1, 2, 3)
insert into u (id, x) values ('a', 2)
insert into u (id, x) values (5, 'z'::text)
insert into u (id, x) select 5, 'z'
insert into u (id, x) select 5, w from r
insert into u (id, e, x) values (7, null, 1), (8, null, 2) returning id, e, x * 2 as y
insert into u (id, e, x) values (10, 'a', 1), (10, 'b', 1)
insert into u (id, e, x) values (1, 'zz', 9) on conflict do nothing
insert into u (id, e, x) values (1, 'zz', 9) on conflict (id) do update set x = excluded.x + u.x, e = excluded.e returning *
insert into u (id, e, x) values (99, 'zz', 9) on conflict (e) do update set x = 100 where u.x > 1000 returning *
insert into u (id, e, x) values (99, 'zz', 9) on conflict (e) do update set x = 100 returning id, x
insert into u (id, e, x) values (50, 'q', 1), (50, 'q', 2) on conflict (id) do update set x = 3
insert into u (id, e, x) values (51, 'q1', 1), (51, 'q1', 2) on conflict do nothing returning id
insert into u (id) values (1) on conflict (x) do nothing
insert into u (id) values (1) on conflict do update set x = 1
select * from u order by id
select id from u where bp = 'ab' and c = 'abc'
select length(bp), bp || '|' from u where id = 1
update u set x = x + 1 where id = 1 returning id, x
update u set x = -1 where id = 1
update u set e = 'zz' where id = 7
update u set id = 8 where id = 7
update u set id = 70 where id = 7 returning id
update u set nope = 1
update u set x = 'abc'
update u set x = 1, x = 2
update u set (x, c) = (7, 'c') where id = 8 returning *
update u set (x, c) = (select 9, 'd') where id = 8 returning x, c
update u set x = default where id = 8 returning x
update u set x = b.id from b where b.id = u.id and u.id = 8 returning u.x, b.t
update a set x = 100 where x = 4
select id, x from a where x = 100 order by id
update a set x = x + 1 where id > 15
select x, count(*) from a group by x order by x
delete from a where x = 100 returning id
delete from b using a where a.id = b.aid and a.id = 2
select count(*) from b
delete from r where v is null returning *
select * from r order by v, w
select nope from a
select a.nope from a
select z.id from a
select a.id from a aa
select id from a, b
select * from nope
select * from nope.nope
select nofunc(1)
select length(1, 2)
select 1 + date '2020-01-01' + true
select 'a' + 1
select - 'a'
select sum(sum(x)) from a
select * from a where sum(x) > 1
select * from a where id
select * from a order by 9
select * from a group by 9
select x from a order by nope
select id from a limit -1
select id from a limit 'x'
select x as y from a group by y order by y limit 2
select 1 as a, 2 as a order by a
select * from a as q(i) where i = 3
select q.* from (select id, x from a where id = 3) q
select q from (select 1 as id, 'x' as t) q
select (select 1, 2)
select 1 where 1 in (select 1, 2)
select exists (select 1 where false), exists (select 1)
select * from a a1 join a a2 on a1.id = a2.id join a a3 on a3.id = a2.id where a1.id = 3
select a from a, a
select count(*) over () from a where id < 3
select sum(count(*)) over () from a group by x
select x from a having true
select 1 having false
select $1
select E'a\nb', U&'d\0061t', 'it''s', $$q$$
select 'a'::bpchar = 'a  '::bpchar, 'a'::char(3) || 'b'
select cast(null as int) + 1, null = null, null is null
select interval '1 year 2 months', interval '90 minutes', age(date '2020-03-01', date '2020-01-15')
select 1::bool, 0::bool, 'yes'::bool, true::int, true::text
select 'abc'::int
select '99999999999'::int
select 100000::int2
select '{1,2,3}'::int[], '{"a","b c"}'::text[], array_length(array[1,2,3], 1), array_to_string(array['a','b'], '-')
select '{"a": 1, "b": [1, 2]}'::jsonb -> 'b' ->> 0, '{"a": 1}'::jsonb @> '{"a": 1}'
select md5('a'), encode('abc'::bytea, 'hex'), '\x6162'::bytea
select x, sum(n) s from a group by x order by s desc, x limit 2
select id from a where s = 's3' and n = 4.5 and d = '2020-01-04'
select id from a where d > '2020-01-15' and s like 's1%' order by id
select count(*) from b b1 join b b2 on b1.t = b2.t and b1.id < b2.id
select b1.t, count(*) from b b1 left join a on a.id = b1.aid and a.x > 1 group by b1.t order by 1
select b.id, a.id, c.v from b join a on a.id = b.aid join c on c.v = a.id where b.id < 6 order by 1, 2, 3
select * from a where (id, x) in ((3, 3), (6, 1), (7, 7)) order by id
select * from a where (id, x) in (select id, x from a where id < 3) order by id
select id from a where x = (select max(x) from a a2 where a2.id < 10) order by id
select id from a where n > all (select n from a where id < 10) order by id
select id from a where n < any (select n from a where id < 4) order by id
select max(id) from a where x > 1000
select sum(f), avg(f), count(f) from b
select bool_and(x > 0), bool_or(x > 3), stddev(x), variance(x) from a
select x, x + 1 as y from a where x + 1 > 3 order by y, x limit 3
select 'a' as "A b", 1 as "select"
select a.*, 1 from a where id = 2
select substr('hello', 2, 3), left('hello', 2), right('hello', 2), lpad('x', 3, '-'), repeat('ab', 2), reverse('abc'), initcap('hello world'), split_part('a,b', ',', 2)
select format('%s-%I-%L', 'a', 'b c', 'd'), concat('a', null, 1), concat_ws(',', 'a', null, 'b'), quote_ident('A'), quote_literal('x')
select count(*) from a, (select 1) z, (select 1 where false) y
select * from a left join (select id as bid, count(*) over () from b) b on b.bid = a.id where a.id < 3 order by 1
select a.id, sum(b.f) from a left join b on b.aid = a.id group by a.id having sum(b.f) > 10 or sum(b.f) is null order by 1
select * from (select x, count(*) c from a group by x) q where x = 1 and c > 1
select * from (select id, row_number() over (order by id desc) r from a) q where r < 4 order by r
select * from (select id from a order by id limit 5) q where id > 3 order by id
select * from (select distinct x from a) q where x > 2 order by x
select * from (select 1 as k union all select 2) q where k = 2
select * from (select id, generate_series(1, 2) g from a) q where id = 1 and g = 2
select a.id from a join (select aid, count(*) from b group by aid) q on q.aid = a.id order by 1 limit 3
select a.id, exists (select 1 from b where b.aid = a.id) e, (select count(*) from c where c.v = a.id) k from a where a.id < 5 order by 1
select a.id from a where a.id = (select min(b.aid) from b where b.aid > a.x) order by 1
select x, (select count(*) from b where b.aid = a.x) from a group by x order by x
select x + 1, (select max(f) from b where aid = x) from a where id < 5 group by x order by 1
select (select a.id + b.id from b where b.id = 1) from a where a.id = 1
select a.id from a where (select count(*) from b where b.aid = a.id and exists (select 1 from c where c.v = b.aid and c.v = a.id)) > 0 order by 1
with w as (insert into r values (7, 'w') returning v) select * from w
with w as (delete from r where v = 7 returning *) insert into r select v + 1, w from w returning *
with w as (update a set s = 'W' where id = 1 returning id) select a.s from a, w where a.id = w.id
select s from a where id = 1
select * from r order by v, w
insert into r select * from r where v = 1
select count(*) from r
insert into u (id, e, x) select 200 + g, 'g' || g, g from generate_series(1, 3) g on conflict (id) do update set x = 0 returning id
insert into u (id, e, x) select 201 + g, 'h' || g, g from generate_series(1, 3) g on conflict (id) do update set x = excluded.x * 10, e = excluded.e returning id, e, x
update u set e = 'same' where id in (201, 202)
update u set id = id + 1000 where id > 200 returning id
delete from u where id > 1000
select id, x from u order by x nulls first, id limit 4
select id from b where t like 't%' and f is not null order by t desc, f asc limit 4
select id from b order by aid nulls first, f desc, id limit 4
select id from b order by aid desc, id limit 4
select aid, max(f), min(f) from b where aid in (1, 3, 5) group by aid order by aid
select * from c order by k desc, v limit 3
select * from c order by k desc, v desc limit 3
select k, sum(v) from c group by k order by 2 desc
select * from c where v > 3 and k = 'c' order by v
select * from c where k > 'a' order by k, v limit 2
select * from a where id > 5 and id > 7 and id < 10 order by id
select * from a where id = 3 and id = 4
select id from a where id = null or id = 2
select id from a where 3 < id and 6 > id order by id
select id from a where id = 2.0
select id from a where id = 2.5
select id from a where id = '7'
select id from a where id = 3::bigint
select id from a where s = 's5'::varchar
select count(*) from a where not (x = 1)
select count(*) from a where (x = 1) is not true
select count(*) from a where n is null or n > 20 and not x in (1, 2)
select a.id, b.id from a inner join b on a.id = b.id and b.t = 't1' where a.x = 1 order by 1
select count(*) from a join b on a.x = b.aid and a.id > b.id
select count(*) from a left join b on false
select a.id, b.id from a full join b using (id) where id between 19 and 22 order by id
select count(*) from a a1, a a2, a a3 where a1.id = a2.id and a2.id = a3.id and a3.x = 1
select a.id from a left join b on b.id = a.id where b.id is null order by 1
select a.id from a left join b on b.id = a.id where b.t = 't2' order by 1 limit 2
select x, count(*) filter (where exists (select 1 from b where b.aid = a.id)) from a group by x order by x
select array_agg(distinct x order by x desc) from a
select string_agg(distinct t, ',' order by t) from b
select json_agg(x order by id) from a where id < 4
select min(s), max(s), min(d), max(n) from a
select sum(distinct x), avg(distinct x) from a
select count(*), count(*) filter (where x = 0), 'k' from a group by 3
select x from a group by x order by count(*) desc, x limit 1
select x, count(*) from a group by x order by count(*) + x, x limit 2
select nullif(x, 1), coalesce(nullif(x, 1), -1) from a where id < 3 order by id
select id from a order by case when x = 3 then 0 else 1 end, id limit 3
select id as foo from a order by foo limit 2
select id as foo from a order by foo + 1 limit 2
select -x as x from a where id < 4 order by x
select length(s) from a group by s order by s limit 1
select max(x) from a group by ()
select 1 from a group by 1 limit 1
select 'x' as lit, count(*) from a group by lit
select a.* from a, b where a.id = b.id and b.id = 5
select distinct on (t) t, id from b where t is not null order by t, id desc
select * from generate_series(3, 1, -1) g
select * from generate_series('2020-01-01'::timestamp, '2020-01-03', '1 day') g
select * from unnest(array[1,2], array['a','b','c']) as t(x, y)
select * from rows from (generate_series(1, 2), generate_series(5, 7)) as t(a, b)
select x.* from jsonb_each_text('{"a": 1, "b": null}') x
select * from json_array_elements('[1, [2]]')
select * from regexp_split_to_table('a,b', ',')
select current_date = now()::date, current_timestamp = now(), localtimestamp is not null
select (array[[1,2],[3,4]])[2][1], (array[1,2,3])[5], array[1,2,3][1:2]
select 3 = any(array[1,null,3]), 2 = any(array[1,null]), 2 = all(array[2,null])
select row(1, 2), (1, 'a', null)
select a from (select 1 as x, 'b' as y) a
select (a).x from (select 1 as x) a
select cast('1,2' as text), 'a' < 'B', 'a' collate "C" < 'B'
select true::text, 't'::bool and 'off'::bool
select 1.10 + 2.2, 1.5 * 2, 1.0 / 3, 10::numeric / 3, 5 % 3.5, -1.5, +2
select 0.1::float8 + 0.2::float8, 1e20::float8, 'NaN'::float8, 'Infinity'::float4, 1/3::float8
select 5::int8 * 1000000000000, 3 & 5, 3 | 4, 1 << 3, ~1, 5 # 1
select not 1 = 2, - - 1, 2 - -1
select 'a' || 1, 1 || 'a', 'a' || 1.5 || true
select (select max(id) from a) + 1, (select null::int) is null
select case when false then 1/0 else 2 end
select coalesce(1, 1/0)
select greatest('a', 'b'), greatest(1, 2.5), least(null, null)
select 1 = 1.0, 1 < 1.5, '1' = 1, 'a' = 'a '
select date '2020-01-01' = timestamp '2020-01-01', date '2020-01-01' < timestamptz '2020-01-01 01:00+00'
select '10' > '9', '10'::int > '9'::int
select interval '1 month' = interval '30 days', interval '1 day' < interval '25 hours'
select x from a where id = (select 1 union select 1)
select * from a where id in (select id from a order by id desc limit 2) order by 1
select (select x from a where id = b.aid) from b where b.id < 4 order by b.id
select * from nope.t
select n.* from a
select a.id from b
select * from a where x = y
select id from a union select t from b
select 1 as x union select 2 order by y
select x from a where x in (select id, x from a)
select x = (select id, x from a) from a
select foo(1, 'a')
select max(1, 2)
select count(distinct *) from a
select length(distinct 'a')
select 1 over ()
select row_number()
select sum(x) over (partition by nope) from a
insert into nope values (1)
insert into a (id) values (1), (2, 3)
insert into a values (default)
insert into a (id, x) values (500, 'abc')
insert into u (id, ts) values (300, 'garbage')
update a set id = 'x' where id = 1
update nope set x = 1
delete from nope
select array[1, 'a']
select array[1, array[2]]
select '{1,2'::int[]
select 1::text::int::text || 'x'
select 'a'::nope
select 1::varchar(0)
select 1::int[]
select date 'x'
select * from a limit 1 offset -1
select 1 limit null
select 1 limit 0
select sum(x) from a group by 1
select id, id from a order by id desc limit 1
select x y, y from a, (select 1 as y) q where a.id = 1
