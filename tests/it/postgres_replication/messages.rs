//! Every kind of message, as a server sends it.

use watershed::model::Value;
use watershed::postgres::replication::Lsn;
use watershed::postgres::replication::pgoutput::{Message, Old};

use super::bed::{Bed, Heard, LIMIT, WHOLE};

#[tokio::test]
async fn every_kind_of_change_is_read_as_it_was_made() {
    let tables = "create type mood as enum ('ok', 'bad');
        create table t (id int primary key, v text, m mood);
        create table f (a int, b text); alter table f replica identity full;
        create table i (a int not null, b int); create unique index by_a on i (a); alter table i replica identity using index by_a;
        create schema \"S.x\"; create table \"S.x\".\"T \"\"y\" (\"ü\" int primary key, gone int, g int generated always as (7) stored);
        alter table \"S.x\".\"T \"\"y\" drop gone;
        create table n (a int)";
    let bed = Bed::new(tables).await;
    bed.sql("insert into t values (1, 'a', 'ok'), (2, null, null)");
    bed.sql("begin; update t set v = 'b' where id = 1; update t set id = 3 where id = 2; delete from t where id = 1; commit");
    bed.each("insert into f values (1, null); update f set b = 'x'; delete from f");
    bed.each("insert into i values (1, 2); update i set b = 3; update i set a = 5; delete from i");
    bed.sql("insert into \"S.x\".\"T \"\"y\" values (1)");
    bed.sql("insert into n values (1)");
    bed.sql("begin; select pg_logical_emit_message(true, 'p', 'within'); insert into n values (2); commit");
    bed.sql("select pg_logical_emit_message(false, 'q', 'at once')");
    bed.sql("truncate t, f restart identity cascade");
    bed.sql("truncate n");
    let texts = bed.everything(WHOLE).await;
    let expected =
        "begin; type public.mood; relation public.t default *id,v,m; insert t (1|a|ok); insert t (2|NULL|NULL); commit;
        begin; update t (1|b|ok); update t key (2|NULL|NULL) (3|NULL|NULL); delete t key (1|NULL|NULL); commit;
        begin; relation public.f full *a,*b; insert f (1|NULL); commit;
        begin; update f old (1|NULL) (1|x); commit; begin; delete f old (1|x); commit;
        begin; relation public.i index *a,b; insert i (1|2); commit; begin; update i (1|3); commit;
        begin; update i key (1|NULL) (5|3); commit; begin; delete i key (5|NULL); commit;
        begin; relation S.x.T \"y default *ü; insert T \"y (1); commit;
        begin; relation public.n default a; insert n (1); commit;
        begin; message true p within; insert n (2); commit;
        message false q at once;
        begin; truncate t,f cascade restart; commit;
        begin; truncate n; commit";
    let expected: Vec<&str> = expected.split(';').map(str::trim).collect();
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn a_value_that_is_stored_apart_is_unchanged_or_a_text() {
    let tables = "create table big (id int primary key, v text, n int); alter table big alter v set storage external;
        create table whole (id int primary key, v text, n int); alter table whole alter v set storage external;
        alter table whole replica identity full";
    let bed = Bed::new(tables).await;
    for table in ["big", "whole"] {
        bed.sql(&format!("insert into {table} values (1, repeat('x', 9000), 1)"));
        bed.sql(&format!("update {table} set n = 2"));
        bed.sql(&format!("update {table} set id = 2"));
        bed.sql(&format!("update {table} set v = repeat('y', 9001)"));
        bed.sql(&format!("delete from {table}"));
    }
    let mut texts = bed.everything(WHOLE).await;
    texts.retain(|text| !["begin", "commit"].contains(&text.as_str()) && !text.starts_with("relation"));
    let expected = [
        "insert big (1|9000 bytes|1)",
        "update big (1|UNCHANGED|2)",
        "update big key (1|NULL|NULL) (2|UNCHANGED|2)",
        "update big (2|9001 bytes|2)",
        "delete big key (2|NULL|NULL)",
        "insert whole (1|9000 bytes|1)",
        "update whole old (1|9000 bytes|1) (1|UNCHANGED|2)",
        "update whole old (1|9000 bytes|2) (2|UNCHANGED|2)",
        "update whole old (2|9000 bytes|2) (2|9001 bytes|2)",
        "delete whole old (2|9001 bytes|2)",
    ];
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn texts_are_written_the_same_whatever_the_database_is_set_to() {
    let bed = Bed::new(
        "create table t (a date, b timestamptz, c interval, d float8, e float4, f bytea, g regclass, h numeric, i text)",
    )
    .await;
    bed.sql(
        "do $$ begin
            execute format('alter database %I set datestyle = ''SQL, DMY''', current_database());
            execute format('alter database %I set intervalstyle = ''iso_8601''', current_database());
            execute format('alter database %I set timezone = ''Asia/Tokyo''', current_database());
            execute format('alter database %I set bytea_output = ''escape''', current_database());
            execute format('alter database %I set extra_float_digits = -10', current_database());
            execute format('alter database %I set client_encoding = ''latin1''', current_database());
        end $$",
    );
    bed.sql(
        "insert into t values ('2026-02-01', '2026-02-01 12:00:00+00', '1 day 2 hours', 0.1::float8 + 0.2, 1e-7, '\\x00ff', 't', 1.50, U&'\\00fc\\20ac')",
    );
    let texts = bed.everything(WHOLE).await;
    let expected = "insert t (2026-02-01|2026-02-01 12:00:00+00|1 day 02:00:00|0.30000000000000004|1e-07|\\x00ff|public.t|1.50|ü€)";
    assert!(texts.iter().any(|text| text == expected), "{texts:#?}");
}

#[tokio::test]
async fn where_a_transaction_was_replicated_from_is_heard_before_its_changes() {
    let bed = Bed::new("create table t (id int primary key)").await;
    let origin = format!("from {}", bed.slot);
    bed.sql(&format!(
        "select pg_replication_origin_create('{origin}');
         select pg_replication_origin_session_setup('{origin}');
         begin; select pg_replication_origin_xact_setup('1/23', now()); insert into t values (1); commit"
    ));
    bed.sql(&format!("select pg_replication_origin_session_setup('{origin}'); insert into t values (2)"));
    bed.sql("insert into t values (3)");
    let texts = bed.everything(WHOLE).await;
    bed.sql(&format!("select pg_replication_origin_drop('{origin}')"));
    let expected = [
        "begin",
        &format!("origin {origin} 1/23"),
        "relation public.t default *id",
        "insert t (1)",
        "commit",
        "begin",
        &format!("origin {origin} 0/0"),
        "insert t (2)",
        "commit",
        "begin",
        "insert t (3)",
        "commit",
    ];
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn a_table_is_described_again_when_it_has_changed() {
    let bed = Bed::new("create table t (id int primary key, v text)").await;
    bed.sql("insert into t values (1, 'a')");
    bed.sql("alter table t add w int default 5");
    bed.sql("insert into t values (2, 'b')");
    bed.sql("alter table t rename v to renamed; alter table t replica identity full");
    bed.sql("begin; insert into t values (3, 'c', 1); alter table t drop w; insert into t values (4, 'd'); commit");
    let mut texts = bed.everything(WHOLE).await;
    texts.retain(|text| !["begin", "commit"].contains(&text.as_str()));
    let expected = [
        "relation public.t default *id,v",
        "insert t (1|a)",
        "relation public.t default *id,v,w",
        "insert t (2|b|5)",
        "relation public.t full *id,*renamed,*w",
        "insert t (3|c|1)",
        "relation public.t full *id,*renamed",
        "insert t (4|d)",
    ];
    assert_eq!(texts, expected);
}

#[tokio::test]
async fn places_times_and_ids_are_those_of_the_server() {
    let bed = Bed::new("create table t (id int primary key, v text)").await;
    bed.sql("alter system set track_commit_timestamp = off");
    let before: i64 = bed.sql("select (extract(epoch from clock_timestamp()) * 1e6)::int8").trim().parse().unwrap();
    let xid: u32 = bed
        .sql("insert into t values (1, 'x'), (2, null) returning txid_current()")
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let after: i64 = bed.sql("select (extract(epoch from clock_timestamp()) * 1e6)::int8").trim().parse().unwrap();
    let mut heard = bed.start(WHOLE).await;
    let Message::Begin(begin) = heard.data().await.message else { panic!("a transaction begins") };
    assert_eq!(begin.xid, xid);
    assert!((before..=after).contains(&begin.time.0), "{} is between {before} and {after}", begin.time);
    assert!(matches!(heard.data().await.message, Message::Relation(_)));
    let row = heard.data().await;
    let Message::Insert { new, .. } = &row.message else { panic!("a row follows, not {row:?}") };
    assert_eq!(new.row().iter().map(|value| &value.text[..]).collect::<Vec<_>>(), [&b"1"[..], b"x"]);
    let Message::Insert { new, .. } = heard.data().await.message else { panic!("another row follows") };
    assert_eq!(new.row()[1], Value::NULL);
    let Message::Commit(commit) = heard.data().await.message else { panic!("it ends") };
    assert_eq!((commit.lsn, commit.time), (begin.commit, begin.time));
    assert!(row.start < commit.lsn && commit.lsn < commit.end && commit.end <= heard.stream.sent_upto());
}

#[tokio::test]
async fn the_widest_rows_and_the_longest_values_pass() {
    let columns: Vec<String> = (0..1600).map(|at| format!("c{at} int")).collect();
    let tables = format!(
        "create table wide ({}); create table long (v text); alter table wide replica identity full",
        columns.join(",")
    );
    let bed = Bed::new(&tables).await;
    bed.sql("insert into wide (c0, c1599) values (7, 8); update wide set c1599 = 9");
    bed.sql("insert into long values (repeat('long', 10000000))");
    let mut heard = bed.start(WHOLE).await;
    let mut seen = 0;
    while seen < 3 {
        match heard.data().await.message {
            Message::Update { old: Some(Old::Row(old)), new, .. } => {
                let row = new.row();
                assert_eq!((old.columns(), row.len(), &row[1599].text[..]), (1600, 1600, &b"9"[..]));
                assert_eq!((old.row()[1599].text.as_ref(), row[5].clone()), (&b"8"[..], Value::NULL));
                seen += 1;
            }
            Message::Insert { new, .. } if new.columns() == 1 => {
                let row = new.row();
                assert!(row[0].text.len() == 40_000_000 && row[0].text.chunks(4).all(|part| part == b"long"));
                seen += 1;
            }
            Message::Insert { .. } => seen += 1,
            _ => {}
        }
    }
    heard.stream.close(LIMIT).await.unwrap();
}

#[tokio::test]
async fn several_publications_are_streamed_as_one() {
    let bed = Bed::new("create table a (n int primary key); create table b (n int); create table c (n int)").await;
    bed.sql(
        "create publication \"only a\" for table a; create publication \"b's\" for table b with (publish = 'insert')",
    );
    bed.each(
        "insert into a values (1); insert into b values (2); insert into c values (3); update a set n = 4; truncate b",
    );
    let stream = bed.client().await.start(&bed.slot, Lsn::NONE, "only a,b's", WHOLE).await.unwrap();
    let mut heard = Heard::over(stream);
    bed.mark("end");
    let mut texts = heard.until("end").await;
    texts.retain(|text| !["begin", "commit"].contains(&text.as_str()) && !text.starts_with("relation"));
    assert_eq!(texts, ["insert a (1)", "insert b (2)", "update a key (1) (4)"]);
}
