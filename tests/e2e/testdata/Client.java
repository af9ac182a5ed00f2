import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.time.*;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.util.PSQLException;

/** What a Java program does with the JDBC driver. Prints "all passed" or throws. */
public final class Client {
  private static void equal(Object got, Object want) {
    if (!Objects.equals(got, want)) {
      throw new AssertionError("got " + got + ", want " + want);
    }
  }

  private interface Action {
    void run() throws SQLException;
  }

  private static PSQLException fails(String state, Action a) throws SQLException {
    try {
      a.run();
    } catch (BatchUpdateException e) {
      equal(e.getSQLState(), state);
      return null;
    } catch (PSQLException e) {
      equal(e.getSQLState() + " " + e.getMessage(), state + " " + e.getMessage());
      return e;
    }
    throw new AssertionError("no error, want " + state);
  }

  private static long number(Connection c, String sql) throws SQLException {
    try (Statement s = c.createStatement(); ResultSet r = s.executeQuery(sql)) {
      equal(r.next(), true);
      return r.getLong(1);
    }
  }

  public static void main(String[] args) throws Exception {
    try (Connection c = DriverManager.getConnection(args[0])) {
      DatabaseMetaData meta = c.getMetaData();
      equal(meta.getDatabaseProductName(), "PostgreSQL");
      equal(meta.getDatabaseMajorVersion(), 15);
      try (Statement s = c.createStatement()) {
        s.execute("CREATE TABLE jd (i int PRIMARY KEY, b bigint, n numeric(12,3), t text, y bytea, o bool, ts timestamp, tz timestamptz, d date, u uuid, j jsonb, f float8)");
      }
      types(c);
      transactions(c);
      batch(c);
      portions(c);
      copy(c);
      metadata(meta);
    }
    System.out.println("all passed");
  }

  private static void types(Connection c) throws SQLException {
    UUID u = UUID.fromString("6f6fbd5e-3d1c-4d5f-9a5d-6f2f2b8f6a10");
    LocalDateTime ts = LocalDateTime.of(2026, 3, 29, 2, 30, 0, 250_000_000);
    OffsetDateTime tz = OffsetDateTime.of(ts, ZoneOffset.UTC);
    try (PreparedStatement p = c.prepareStatement("INSERT INTO jd VALUES (?,?,?,?,?,?,?,?,?,?,?::jsonb,?)")) {
      p.setInt(1, 1);
      p.setLong(2, Long.MAX_VALUE);
      p.setBigDecimal(3, new BigDecimal("123456789.125"));
      p.setString(4, "it's ünïcode \uD83C\uDF0D");
      p.setBytes(5, new byte[] {0, 1, -1});
      p.setBoolean(6, true);
      p.setObject(7, ts);
      p.setObject(8, tz);
      p.setObject(9, LocalDate.of(2024, 2, 29));
      p.setObject(10, u);
      p.setString(11, "{\"k\": [1, null]}");
      p.setDouble(12, 0.1);
      equal(p.executeUpdate(), 1);
    }
    // The driver prepares on the server, and asks for binary results, from the fifth time on.
    try (PreparedStatement p = c.prepareStatement("SELECT * FROM jd WHERE i = ?")) {
      for (int k = 0; k < 12; k++) {
        p.setInt(1, 1);
        try (ResultSet r = p.executeQuery()) {
          equal(r.next(), true);
          equal(r.getLong("b"), Long.MAX_VALUE);
          equal(r.getBigDecimal("n"), new BigDecimal("123456789.125"));
          equal(r.getString("t"), "it's ünïcode \uD83C\uDF0D");
          equal(Arrays.toString(r.getBytes("y")), "[0, 1, -1]");
          equal(r.getBoolean("o"), true);
          equal(r.getObject("ts", LocalDateTime.class), ts);
          equal(r.getObject("tz", OffsetDateTime.class).toInstant(), tz.toInstant());
          equal(r.getObject("d", LocalDate.class), LocalDate.of(2024, 2, 29));
          equal(r.getObject("u"), u);
          equal(r.getString("j"), "{\"k\": [1, null]}");
          equal(r.getDouble("f"), 0.1);
          equal(r.next(), false);
        }
      }
    }
    try (PreparedStatement p = c.prepareStatement("UPDATE jd SET t = ? WHERE i = ?")) {
      p.setNull(1, Types.VARCHAR);
      p.setInt(2, 1);
      equal(p.executeUpdate(), 1);
    }
    equal(number(c, "SELECT count(*) FROM jd WHERE t IS NULL"), 1L);
  }

  private static void transactions(Connection c) throws SQLException {
    c.setAutoCommit(false);
    try (Statement s = c.createStatement()) {
      s.executeUpdate("INSERT INTO jd (i) VALUES (2)");
      c.rollback();
      equal(number(c, "SELECT count(*) FROM jd"), 1L);
      Savepoint sp = c.setSavepoint();
      PSQLException e = fails("23505", () -> s.executeUpdate("INSERT INTO jd (i) VALUES (1)"));
      equal(e.getServerErrorMessage().getConstraint(), "jd_pkey");
      fails("25P02", () -> s.executeQuery("SELECT 1"));
      c.rollback(sp);
      s.executeUpdate("INSERT INTO jd (i) VALUES (3)");
      c.commit();
      e = fails("42601", () -> s.executeQuery("SELECT 1 FRM jd"));
      equal(e.getServerErrorMessage().getPosition(), 14);
      c.rollback();
      fails("42P01", () -> s.executeQuery("SELECT * FROM nosuch"));
      c.rollback();
    }
    c.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
    equal(c.getTransactionIsolation(), Connection.TRANSACTION_READ_COMMITTED);
    c.commit();
    c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
    equal(c.getTransactionIsolation(), Connection.TRANSACTION_SERIALIZABLE);
    c.commit();
    c.setReadOnly(true);
    try (Statement s = c.createStatement()) {
      fails("25006", () -> s.executeUpdate("DELETE FROM jd"));
    }
    c.rollback();
    c.setReadOnly(false);
    c.setAutoCommit(true);
    equal(number(c, "SELECT count(*) FROM jd"), 2L);
  }

  private static void batch(Connection c) throws SQLException {
    c.setAutoCommit(false);
    try (PreparedStatement p = c.prepareStatement("INSERT INTO jd (i, t) VALUES (?, ?)")) {
      for (int i = 100; i < 600; i++) {
        p.setInt(1, i);
        p.setString(2, "v" + i);
        p.addBatch();
      }
      equal(p.executeBatch().length, 500);
      c.commit();
      for (int i : new int[] {700, 100, 701}) {
        p.setInt(1, i);
        p.setString(2, "x");
        p.addBatch();
      }
      fails("23505", p::executeBatch);
      c.rollback();
    }
    try (PreparedStatement p = c.prepareStatement("INSERT INTO jd (i) VALUES (?)", new String[] {"i"})) {
      p.setInt(1, 800);
      p.executeUpdate();
      try (ResultSet r = p.getGeneratedKeys()) {
        equal(r.next(), true);
        equal(r.getInt(1), 800);
      }
    }
    c.rollback();
    c.setAutoCommit(true);
    equal(number(c, "SELECT count(*) FROM jd"), 502L);
  }

  /** A fetch size makes the driver execute a portal in portions. */
  private static void portions(Connection c) throws SQLException {
    c.setAutoCommit(false);
    try (PreparedStatement p = c.prepareStatement("SELECT i FROM jd WHERE i >= ? ORDER BY i")) {
      p.setFetchSize(70);
      p.setInt(1, 100);
      int want = 100;
      try (ResultSet r = p.executeQuery()) {
        while (r.next()) {
          equal(r.getInt(1), want++);
        }
      }
      equal(want, 600);
    }
    c.commit();
    c.setAutoCommit(true);
  }

  private static void copy(Connection c) throws Exception {
    var copy = c.unwrap(PGConnection.class).getCopyAPI();
    StringBuilder b = new StringBuilder();
    for (int i = 1000; i < 1500; i++) {
      b.append(i).append(",\"c,").append(i).append("\"\n");
    }
    equal(copy.copyIn("COPY jd (i, t) FROM STDIN WITH (FORMAT csv)", new StringReader(b.toString())), 500L);
    StringWriter out = new StringWriter();
    equal(copy.copyOut("COPY (SELECT i, t FROM jd WHERE i >= 1000 ORDER BY i) TO STDOUT WITH (FORMAT csv)", out), 500L);
    equal(out.toString(), b.toString());
  }

  private static void metadata(DatabaseMetaData meta) throws SQLException {
    List<String> columns = new ArrayList<>();
    try (ResultSet r = meta.getColumns(null, "public", "jd", "%")) {
      while (r.next()) {
        columns.add(r.getString("COLUMN_NAME") + " " + r.getString("TYPE_NAME"));
      }
    }
    equal(columns.subList(0, 3), List.of("i int4", "b int8", "n numeric"));
    try (ResultSet r = meta.getTables(null, "public", "jd", new String[] {"TABLE"})) {
      equal(r.next(), true);
      equal(r.getString("TABLE_NAME"), "jd");
    }
    try (Statement s = meta.getConnection().createStatement()) {
      s.execute("CREATE TABLE jk (a int, b varchar(10) NOT NULL DEFAULT 'x', c numeric(8,2) UNIQUE, e serial, PRIMARY KEY (b, a))");
      s.execute("CREATE INDEX jk_c ON jk (c DESC, a)");
    }
    equal(lines(meta.getPrimaryKeys(null, "public", "jk"), "COLUMN_NAME", "KEY_SEQ", "PK_NAME"), List.of("b 1 jk_pkey", "a 2 jk_pkey"));
    equal(lines(meta.getIndexInfo(null, "public", "jk", false, true), "NON_UNIQUE", "INDEX_NAME", "ORDINAL_POSITION", "COLUMN_NAME", "ASC_OR_DESC"),
        List.of("f jk_c_key 1 c A", "f jk_pkey 1 b A", "f jk_pkey 2 a A", "t jk_c 1 c D", "t jk_c 2 a A"));
    equal(lines(meta.getColumns(null, "public", "jk", null), "COLUMN_NAME", "TYPE_NAME", "COLUMN_SIZE", "IS_NULLABLE", "COLUMN_DEF", "IS_AUTOINCREMENT"),
        List.of("a int4 10 NO null NO", "b varchar 10 NO 'x'::character varying NO", "c numeric 8 YES null NO",
            "e serial 10 NO nextval('jk_e_seq'::regclass) YES"));
    equal(lines(meta.getBestRowIdentifier(null, "public", "jk", DatabaseMetaData.bestRowSession, false), "COLUMN_NAME").size(), 2);
    equal(lines(meta.getImportedKeys(null, "public", "jk"), "FKTABLE_NAME").size(), 0);
    equal(lines(meta.getTypeInfo(), "TYPE_NAME").contains("int4"), true);
    equal(lines(meta.getSchemas(null, "public"), "TABLE_SCHEM"), List.of("public"));
  }

  /** The named columns of every row. */
  private static List<String> lines(ResultSet rows, String... columns) throws SQLException {
    List<String> out = new ArrayList<>();
    try (ResultSet r = rows) {
      while (r.next()) {
        StringJoiner line = new StringJoiner(" ");
        for (String c : columns) {
          line.add(String.valueOf(r.getString(c)));
        }
        out.add(line.toString());
      }
    }
    return out;
  }

  private Client() {}
}
