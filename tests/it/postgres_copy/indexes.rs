//! Tables that are made for a copy have the indexes that can be told by their columns.

use watershed::postgres::build;

use super::copies::{End, copy};
use super::*;

const SERVER: &str = "create table t (k int primary key, a text, b int, \"C c\" jsonb, d text, e text collate \"C\", unique (b, k));
    create index by_a on t (a desc nulls last); create index by_b on t (b, a desc) include (d);
    create unique index \"By d\" on t (d); create index by_c on t using gin (\"C c\"); create index by_hash on t using hash (a);
    create index by_brin on t using brin (b); create index by_first on t (b nulls first);";
/// What columns do not tell all of.
const MORE: &str = "create index partial on t (b) where b > 3; create index lowered on t (lower(a)); create index collated on t (a collate \"C\");
    create index pattern on t (a text_pattern_ops); alter table t add constraint later unique (b, a) deferrable;";
const ROWS: &str = "insert into t select n, 'a' || n, n % 7, '{}', 'd' || n, 'e' from generate_series(1, 50) n;";
const FILE: &str = "create table t (k integer primary key, a text, b int, d text, unique (b, k));
    create index by_a on t (a desc); create unique index by_d on t (d, b); create index partial on t (b) where b > 3;
    create index lowered on t (lower(a)); create index caseless on t (a collate nocase);
    with recursive n(n) as (select 1 union all select n + 1 from n where n < 50) insert into t select n, 'a' || n, n % 7, 'd' || n from n";

fn of_server(end: &End) -> Vec<String> {
    let End::Server(database) = end else { panic!("no server") };
    let sql =
        "select pg_get_indexdef(indexrelid) from pg_index where indrelid = 't'::regclass and indisvalid order by 1";
    database.sql(sql).lines().map(str::to_owned).collect()
}

fn of_file(end: &End) -> Vec<String> {
    let End::File(path, _) = end else { panic!("no file") };
    let conn = rusqlite::Connection::open(path).expect("opens");
    let sql = "select l.\"unique\" || ' ' || (select group_concat(name || ' ' || \"desc\") from pragma_index_xinfo(l.name) where key) \
               from pragma_index_list('t') l order by 1";
    let mut statement = conn.prepare(sql).expect("a query");
    let found = statement.query_map([], |row| row.get(0)).expect("runs");
    found.map(|row| row.expect("reads")).collect()
}

/// The indexes that are put off are built, as a node does it when the rows are there.
async fn built(end: &End) {
    let End::Server(database) = end else { panic!("no server") };
    let endpoint = Endpoint::from_url(&database.url).expect("a URL");
    build(&endpoint, &name("t")).await.expect("builds");
    assert_eq!(database.sql("select count(*) from watershed.index_later").trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn between_servers_they_are_what_they_were() {
    let plain = End::server(&format!("{SERVER}{ROWS}"));
    let sender = End::server(&format!("{SERVER}{MORE}{ROWS}"));
    for rows_max in [7, 100] {
        let receiver = End::server("select 1");
        copy(&sender, &receiver, rows_max).await.expect("copied");
        if rows_max == 7 {
            let during = of_server(&receiver);
            assert!(during.iter().all(|definition| definition.starts_with("CREATE UNIQUE")), "{during:?}");
        }
        built(&receiver).await;
        // That of a constraint is an index of the same kind.
        assert_eq!(of_server(&receiver), of_server(&plain), "by {rows_max}");
    }
    // What is there already stays as it is.
    let receiver = End::server("create table t (k int primary key, a text, b int, \"C c\" jsonb, d text, e text)");
    copy(&sender, &receiver, 100).await.expect("copied");
    assert_eq!(of_server(&receiver).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn between_engines_they_are_those_of_plain_columns() {
    let (server, file) = (End::server(&format!("{SERVER}{MORE}{ROWS}")), End::file(FILE));
    let receiver = End::file("select 1");
    copy(&server, &receiver, 7).await.expect("copied");
    assert_eq!(of_file(&receiver), ["0 a 1", "0 b 0", "0 b 0,a 1", "1 b 0,k 0", "1 d 0"]);
    let expected = ["0 a 1", "1 b 0,k 0", "1 d 0,b 0"];
    let receiver = End::file("create table by_a (i)");
    copy(&file, &receiver, 7).await.expect("copied");
    assert_eq!(of_file(&receiver), expected, "also where a name is taken");
    let receiver = End::server("create table by_a (i int)");
    copy(&file, &receiver, 7).await.expect("copied");
    built(&receiver).await;
    let found = of_server(&receiver);
    assert_eq!(found.len(), 4, "{found:?}");
    for columns in ["(a DESC)", "(b, k)", "(d, b)", "(k)"] {
        assert!(found.iter().any(|definition| definition.ends_with(columns)), "{columns} in {found:?}");
    }
}
