"""What a Python program does with psycopg2. Prints "all passed" or raises."""
import datetime
import decimal
import io
import json
import sys
import uuid

import psycopg2
import psycopg2.errorcodes
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras

psycopg2.extras.register_uuid()
dsn = dict(host="127.0.0.1", port=int(sys.argv[1]), user="postgres", dbname="postgres", sslmode="disable", connect_timeout=10)


def equal(got, want):
    if got != want:
        raise AssertionError("got %r, want %r" % (got, want))


def fails(cur, error, sql, args=None):
    try:
        cur.execute(sql, args)
    except psycopg2.Error as e:
        if not isinstance(e, error):
            raise AssertionError("%s: got %s %s, want %s" % (sql, e.pgcode, e, error.__name__))
        return e
    raise AssertionError("%s succeeded, want %s" % (sql, error.__name__))


conn = psycopg2.connect(**dsn)
equal(conn.server_version // 10000, 15)
equal(conn.encoding, "UTF8")
cur = conn.cursor()

# Types, there and back.
cur.execute("""CREATE TABLE py (i int PRIMARY KEY, b bigint, f float8, n numeric(12,3), t text, y bytea, o bool,
    ts timestamp, tz timestamptz, d date, u uuid, j jsonb)""")
conn.commit()
at = datetime.datetime(2026, 3, 29, 2, 30, 0, 250000)
tz = at.replace(tzinfo=datetime.timezone.utc)
row = (1, 2**62, 0.1, decimal.Decimal("123456789.125"), "it's \"täxt\" \\ %", b"\x00\xff'\\", True, at, tz,
       datetime.date(2024, 2, 29), uuid.UUID("6f6fbd5e-3d1c-4d5f-9a5d-6f2f2b8f6a10"), psycopg2.extras.Json({"k": [1, None, "v"]}))
cur.execute("INSERT INTO py VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s) RETURNING i", row)
equal(cur.fetchone(), (1,))
conn.commit()
cur.execute("SELECT * FROM py WHERE i = %s", (1,))
got = list(cur.fetchone())
got[5] = bytes(got[5])
equal(got, list(row[:11]) + [{"k": [1, None, "v"]}])
equal([c.name for c in cur.description][:3], ["i", "b", "f"])
conn.commit()

# Transactions: rollback, savepoints, an aborted block.
cur.execute("INSERT INTO py (i) VALUES (2)")
conn.rollback()
cur.execute("SELECT count(*) FROM py")
equal(cur.fetchone()[0], 1)
cur.execute("SAVEPOINT a")
e = fails(cur, psycopg2.errors.UniqueViolation, "INSERT INTO py (i) VALUES (1)")
equal(e.pgcode, psycopg2.errorcodes.UNIQUE_VIOLATION)
equal((e.diag.constraint_name, e.diag.table_name, e.diag.severity), ("py_pkey", "py", "ERROR"))
equal(e.diag.message_detail, "Key (i)=(1) already exists.")
fails(cur, psycopg2.errors.InFailedSqlTransaction, "SELECT 1")
cur.execute("ROLLBACK TO a")
cur.execute("INSERT INTO py (i) VALUES (3)")
conn.commit()
equal(conn.get_transaction_status(), psycopg2.extensions.TRANSACTION_STATUS_IDLE)
e = fails(cur, psycopg2.errors.SyntaxError, "SELECT 1 FRM py")
equal(e.diag.statement_position, "14")
conn.rollback()
fails(cur, psycopg2.errors.UndefinedTable, "SELECT * FROM nosuch")
conn.rollback()

# Isolation levels, read-only, autocommit.
conn.set_session(isolation_level="READ COMMITTED", readonly=True)
fails(cur, psycopg2.errors.ReadOnlySqlTransaction, "DELETE FROM py")
conn.rollback()
conn.set_session(isolation_level="SERIALIZABLE", readonly=False, autocommit=True)
cur.execute("SHOW default_transaction_isolation")
cur.fetchone()

# Write skew does not happen: one of two must be told to retry.
cur.execute("CREATE TABLE skew (id int PRIMARY KEY, v int); INSERT INTO skew VALUES (1, 1), (2, 1)")
a, b = psycopg2.connect(**dsn), psycopg2.connect(**dsn)
failed = 0
ca, cb = a.cursor(), b.cursor()
ca.execute("SELECT sum(v) FROM skew")
cb.execute("SELECT sum(v) FROM skew")
equal((ca.fetchone()[0], cb.fetchone()[0]), (2, 2))
for c, k, i in ((a, ca, 1), (b, cb, 2)):
    try:
        k.execute("UPDATE skew SET v = 0 WHERE id = %s", (i,))
        c.commit()
    except psycopg2.errors.SerializationFailure:
        failed += 1
        c.rollback()
equal(failed, 1)
cur.execute("SELECT sum(v) FROM skew")
equal(cur.fetchone()[0], 1)
a.close()
b.close()

# Prepared statements in SQL, many rows at once, COPY, a cursor on the server.
cur.execute("PREPARE one (int) AS SELECT i + $1 FROM py WHERE i = 1")
cur.execute("EXECUTE one (%s)", (41,))
equal(cur.fetchone()[0], 42)
cur.execute("DEALLOCATE one")
psycopg2.extras.execute_values(cur, "INSERT INTO py (i, t) VALUES %s", [(i, "v%d" % i) for i in range(100, 600)], page_size=100)
psycopg2.extras.execute_batch(cur, "UPDATE py SET t = %s WHERE i = %s", [("w%d" % i, i) for i in range(100, 200)])
cur.execute("SELECT count(*) FROM py WHERE t LIKE 'w%'")
equal(cur.fetchone()[0], 100)
cur.copy_expert("COPY py (i, t) FROM STDIN WITH (FORMAT csv)", io.StringIO("".join("%d,\"c,%d\"\n" % (i, i) for i in range(1000, 1500))))
equal(cur.rowcount, 500)
out = io.StringIO()
cur.copy_expert("COPY (SELECT i, t FROM py WHERE i >= 1000 ORDER BY i) TO STDOUT WITH (FORMAT csv)", out)
equal(out.getvalue().splitlines()[0], '1000,"c,1000"')
equal(len(out.getvalue().splitlines()), 500)
conn.autocommit = False
named = conn.cursor("portions")
named.itersize = 100
named.execute("SELECT i FROM py WHERE i >= 100 ORDER BY i")
equal([r[0] for r in named], list(range(100, 600)) + list(range(1000, 1500)))
conn.rollback()
with psycopg2.connect(**dsn) as second, second.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as k:
    k.execute("SELECT j FROM py WHERE i = 1")
    equal(json.dumps(k.fetchone()["j"]), '{"k": [1, null, "v"]}')
second.close()
conn.close()
print("all passed")
