//! Chunks: order, resumption, limits, snapshots.

use watershed::model::{Cursor, Epoch, LogId, Position};

use super::*;

/// Every row once, whatever the key's type and the chunk's size.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_type_are_read_in_their_order() {
    let database = Database::new(
        "create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create collation german (provider = icu, locale = 'de');
         create extension citext;
         create type mood as enum ('sad', 'ok', 'happy');",
    );
    let keys = [
        ("integer", "n - 20"),
        ("numeric", "case n when 1 then 'NaN'::numeric else n / 3.0 end"),
        ("double precision", "case n when 1 then '-Infinity' when 2 then 'Infinity' else n / 7.0::float8 end"),
        ("uuid", "md5(n::text)::uuid"),
        ("bytea", "decode(md5(n::text), 'hex')"),
        ("timestamptz", "'0044-03-15 BC'::timestamptz + n * interval '70 years'"),
        ("text", "md5(n::text) || E'\\\\\\t''\\n'"),
        ("text collate german", "chr(96 + n) || 'Äöü'"),
        ("text collate loose", "'x' || n"),
        ("citext", "case when n % 2 = 0 then 'X' else 'x' end || n"),
        ("mood[]", "array_fill('ok'::mood, array[n])"),
        ("date", "'2000-01-01'::date + n"),
        ("interval", "n * interval '20 days'"),
        ("inet", "'10.0.0.0'::inet + n"),
        ("bit(8)", "n::bit(8)"),
        ("int4range", "int4range(n, n + 1)"),
    ];
    let mut reader = database.reader().await;
    for (i, (type_name, value)) in keys.iter().enumerate() {
        let table = format!("t{i}");
        database.sql(&format!(
            "create table {table} (v int, k {type_name} primary key);
             insert into {table} select n, {value} from generate_series(1, 40) n"
        ));
        let whole = database.sql(&format!("select v from {table} order by k"));
        for rows_max in [1, 7, 40, 100] {
            let chunks = read_all(&mut reader, &table, rows_max, 1 << 20).await;
            let order: String = rows(&chunks).iter().map(|row| format!("{}\n", text(&row[0]))).collect();
            assert_eq!(order, whole, "{type_name} by {rows_max}");
        }
    }
}

fn text(value: &Value) -> &str {
    std::str::from_utf8(&value.text).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn composite_keys_and_quoted_names_are_read_by_the_index() {
    let database = Database::new(
        r#"create schema "My Schema";
           create table "My Schema"."Odd ""name" ("b'" int, "A" text, gone int, g int generated always as (1) stored,
             primary key ("A", "b'"));
           alter table "My Schema"."Odd ""name" drop column gone;
           insert into "My Schema"."Odd ""name" ("b'", "A") select n % 100, 'x' || n / 100 from generate_series(0, 999) n"#,
    );
    let mut reader = database.reader().await;
    let table = r#"My Schema.Odd "name"#;
    let chunks = read_all(&mut reader, table, 33, 1 << 20).await;
    let def = &chunks[0].def;
    let columns: Vec<_> = def.columns.iter().map(|c| (&*c.name, &*c.type_name, c.key)).collect();
    assert_eq!(columns, [("b'", "integer", 2), ("A", "text", 1)]);
    let rows = rows(&chunks);
    assert_eq!(rows.len(), 1000);
    assert_eq!(chunks[0].upto, Some(vec![typed("x0"), typed("32")]));
    let unique: std::collections::HashSet<_> = rows.iter().map(|row| (text(&row[1]), text(&row[0]))).collect();
    assert_eq!(unique.len(), 1000);
}

/// The receiver may go on with another reader, and rows may come, go and move between the chunks.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_any_chunk_while_rows_change() {
    let database = Database::new(
        "create table t (id int primary key, v text);
         insert into t select n, 'v' || n from generate_series(1, 100) n",
    );
    let first = database.reader().await.read_chunk(&name("t"), None, 10, 1 << 20).await.expect("a chunk");
    assert_eq!((first.rows.len(), first.upto.clone()), (10, Some(vec![typed("10")])));
    assert!(first.left_estimate >= 80, "{}", first.left_estimate);
    // The last row read is gone, one before it is new, and one behind it moves before it.
    database.sql("delete from t where id = 10; insert into t values (0, 'new'); update t set id = -1 where id = 11");
    let next = database.reader().await.read_chunk(&name("t"), first.upto.as_ref(), 10, 1 << 20).await.expect("a chunk");
    let ids: Vec<&str> = next.rows.iter().map(|row| text(&row[0])).collect();
    assert_eq!(ids, ["12", "13", "14", "15", "16", "17", "18", "19", "20", "21"]);
    let last = database.reader().await.read_chunk(&name("t"), Some(&vec![typed("99")]), 10, 1 << 20).await;
    let last = last.expect("a chunk");
    assert_eq!((last.rows.len(), last.upto, last.left_estimate), (1, None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_has_its_bytes_and_no_more() {
    let database = Database::new(
        "create table t (id int primary key, v text);
         insert into t select n, repeat('x', case when n > 50 then 100000 else 10 end) from generate_series(1, 80) n",
    );
    let mut reader = database.reader().await;
    let chunks = read_all(&mut reader, "t", 2000, 150_000).await;
    assert_eq!(rows(&chunks).len(), 80);
    for chunk in &chunks {
        let bytes: usize = chunk.rows.iter().flatten().map(|value| value.text.len()).sum();
        assert!(bytes < 250_000 + 1000, "{bytes} bytes in a chunk");
    }
    // One row is larger than a chunk may be: it comes alone.
    let chunk = reader.read_chunk(&name("t"), Some(&vec![typed("60")]), 2000, 10).await.expect("a chunk");
    assert_eq!(chunk.rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_is_that_of_the_snapshot() {
    let database = Database::new("create table t (id int primary key); insert into t values (1)");
    let mut reader = database.reader().await;
    let chunk = reader.read_chunk(&name("t"), None, 10, 1000).await.expect("a chunk");
    assert_eq!(chunk.cursor, None);
    database.sql(
        "create schema watershed; create table watershed.cursor (one boolean primary key default true check (one), cursor text not null);
         create table watershed.lane (table_name text primary key, after bigint not null)",
    );
    assert_eq!(reader.read_chunk(&name("t"), None, 10, 1000).await.expect("a chunk").cursor, None);
    let cursor = Cursor { log: LogId(7), epoch: Epoch(9), position: Position(11) };
    database.sql(&format!("insert into watershed.cursor (cursor) values ('{cursor}')"));
    assert_eq!(reader.read_chunk(&name("t"), None, 10, 1000).await.expect("a chunk").cursor, Some(cursor));
    // A table that has a lane is where that is.
    database.sql("insert into watershed.lane values ('t', 5), ('other', 3)");
    let behind = Cursor { position: Position(5), ..cursor };
    assert_eq!(reader.read_chunk(&name("t"), None, 10, 1000).await.expect("a chunk").cursor, Some(behind));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_a_key_come_from_one_snapshot() {
    let database = Database::new(
        "create table few (a int, b text); insert into few values (1, 'x'), (1, 'x'), (null, null);
         create table many (a int); insert into many select 1 from generate_series(1, 30000);
         create table empty (a int); create table none (); insert into none default values; create view v as select 1",
    );
    let mut reader = database.reader().await;
    let chunk = reader.read_chunk(&name("few"), None, 10, 1000).await.expect("a chunk");
    assert_eq!((chunk.rows.len(), chunk.upto), (3, None));
    let first = reader.read_chunk(&name("many"), None, 1000, 1000).await.expect("a chunk");
    assert_eq!(first.rows.len(), 500, "a thousand bytes");
    database.sql("insert into many select 2 from generate_series(1, 1000)");
    let again = reader.read_chunk(&name("many"), None, 1000, 1000).await.expect("the same chunk");
    assert_eq!((&again.rows, &again.upto, &again.cut), (&first.rows, &first.upto, &first.cut));
    let (mut after, mut count) = (first.upto, 500);
    while after.is_some() {
        let chunk = reader.read_chunk(&name("many"), after.as_ref(), 20_000, 1 << 20).await.expect("a chunk");
        assert_eq!(chunk.cut, first.cut);
        assert!(chunk.rows.iter().all(|row| *row == [typed("1")]), "of the snapshot");
        count += chunk.rows.len();
        after = chunk.upto;
    }
    assert_eq!(count, 30_000);
    let next = reader.read_chunk(&name("many"), None, 10, 1000).await.expect("another snapshot");
    assert!(next.cut != first.cut && next.left_estimate == 30_990, "{}", next.left_estimate);
    assert!(reader.read_chunk(&name("empty"), None, 10, 1000).await.expect("a chunk").rows.is_empty());
    assert_eq!(reader.read_chunk(&name("none"), None, 10, 1000).await.expect("a chunk").rows, [Vec::new()]);
    for missing in ["gone", "v", "nowhere.t"] {
        let words = reader.read_chunk(&name(missing), None, 10, 1000).await.expect_err("no table");
        assert!(words.contains(missing), "{words}");
    }
    let chunk = reader.read_chunk(&name("few"), None, 10, 1000).await.expect("the reader goes on");
    assert_eq!(chunk.rows.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_partitions_and_children_are_minded() {
    let database = Database::new(
        "create table by_index (a int, b text not null, primary key (a)); create unique index i on by_index (b);
         alter table by_index replica identity using index i; insert into by_index values (1, 'z'), (2, 'a');
         create table parent (id int primary key); create table child () inherits (parent);
         insert into parent values (1); insert into child values (2);
         create table parted (id int primary key) partition by range (id);
         create table p1 partition of parted for values from (0) to (10);
         create table p2 partition of parted for values from (10) to (20); insert into parted select generate_series(0, 19)",
    );
    let mut reader = database.reader().await;
    let chunk = reader.read_chunk(&name("by_index"), None, 1, 1000).await.expect("a chunk");
    assert_eq!(chunk.upto, Some(vec![typed("a")]));
    assert_eq!(rows(&read_all(&mut reader, "parent", 5, 1000).await), [vec![typed("1")]]);
    assert_eq!(rows(&read_all(&mut reader, "parted", 3, 1000).await).len(), 20);
}

/// What a policy hides would be missing in the copy, so it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_policy_hides_are_no_silent_gap() {
    let database = Database::new(
        "create table t (id int primary key); insert into t values (1); alter table t enable row level security;
         do $$ begin create role copier login; exception when duplicate_object then null; end $$;
         grant select on t to copier; create table secret (id int primary key)",
    );
    let (start, at) = (database.url.find("://").expect("a URL") + 3, database.url.find('@').expect("a user"));
    let url = format!("{}copier{}", &database.url[..start], &database.url[at..]);
    let mut reader = PgReader::open(&Endpoint::from_url(&url).expect("a URL")).await.expect("connects");
    let words = reader.read_chunk(&name("t"), None, 10, 1000).await.expect_err("hidden rows");
    assert!(words.contains("row-level security"), "{words}");
    let words = reader.read_chunk(&name("secret"), None, 10, 1000).await.expect_err("no privilege");
    assert!(words.contains("permission denied"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_restarted_is_found_again() {
    let mut cluster = Cluster::start();
    let url = cluster.database();
    cluster.sql(&url, "create table t (id int primary key); insert into t values (1), (2)");
    let mut reader = PgReader::open(&Endpoint::from_url(&url).expect("a URL")).await.expect("connects");
    let first = reader.read_chunk(&name("t"), None, 1, 1000).await.expect("a chunk");
    cluster.kill();
    // The server's processes may answer for a moment after their parent is gone.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
    while reader.read_chunk(&name("t"), first.upto.as_ref(), 1, 1000).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "the server was killed");
    }
    cluster.restart();
    let next = reader.read_chunk(&name("t"), first.upto.as_ref(), 1, 1000).await.expect("a chunk");
    assert_eq!((next.rows, next.upto), (vec![vec![typed("2")]], None));
}
