//! Transactions that are not of the plain kind.

use super::bed::{Bed, PARTS, WHOLE};

/// Without beginnings, ends and descriptions.
fn changes(mut texts: Vec<String>) -> Vec<String> {
    texts.retain(|text| !["begin", "commit"].contains(&text.as_str()) && !text.contains("relation public"));
    texts
}

#[tokio::test]
async fn what_is_undone_or_empty_is_not_heard_of() {
    let bed = Bed::new("create table t (n int primary key); create table other (n int)").await;
    bed.sql("begin; insert into t values (1); select pg_logical_emit_message(true, 'p', 'undone'); rollback");
    bed.sql("begin; savepoint a; select pg_logical_emit_message(true, 'p', 'undone'); rollback to a; insert into t values (2); commit");
    bed.sql("begin; select txid_current(); commit");
    bed.sql("create table later (n int); drop table other");
    bed.sql("insert into later values (3)");
    let texts = bed.everything(WHOLE).await;
    assert_eq!(texts.iter().filter(|text| *text == "begin").count(), 2, "{texts:#?}");
    assert_eq!(changes(texts), ["insert t (2)", "insert later (3)"]);
}

#[tokio::test]
async fn interleaved_transactions_come_in_the_order_of_their_commits() {
    let bed = Bed::new("create table t (n int primary key)").await;
    let url = bed.url.clone();
    let slow = "begin; insert into t values (1); select pg_sleep(1); insert into t values (2); commit";
    let slow = tokio::task::spawn_blocking(move || super::bed::cluster().sql(&url, slow));
    while bed.sql("select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'")
        == "0\n"
    {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    bed.each("insert into t values (3); insert into t values (4)");
    slow.await.unwrap();
    let texts = changes(bed.everything(WHOLE).await);
    assert_eq!(texts, ["insert t (3)", "insert t (4)", "insert t (1)", "insert t (2)"]);
}

#[tokio::test]
async fn a_prepared_transaction_comes_when_it_is_committed() {
    let bed = Bed::new("create table t (n int primary key)").await;
    let name = &bed.slot;
    bed.sql(&format!("begin; insert into t values (1); prepare transaction '{name} a'"));
    bed.sql(&format!("begin; insert into t values (2); prepare transaction '{name} b'"));
    bed.sql("insert into t values (3)");
    bed.sql(&format!("commit prepared '{name} b'"));
    bed.sql(&format!("rollback prepared '{name} a'"));
    assert_eq!(changes(bed.everything(WHOLE).await), ["insert t (3)", "insert t (2)"]);
}

#[tokio::test]
async fn many_rows_written_at_one_place_are_all_heard_of_in_order() {
    let bed = Bed::new("create table t (n int primary key, v text)").await;
    bed.sql("copy t from program 'seq -f \"%.0f\tv\" 1 1000'");
    let texts = changes(bed.everything(PARTS).await);
    let expected: Vec<String> = (1..=1000).map(|n| format!("insert t ({n}|v)")).collect();
    let found: Vec<&str> = texts.iter().filter_map(|text| Some(&text[text.find("insert t")?..])).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn partitions_are_heard_of_by_leaf_or_by_root() {
    for (via_root, expected) in [
        (
            false,
            "insert low (1); insert high (200); update low (2); delete low key (2); insert high (150); truncate low,high",
        ),
        (
            true,
            "insert whole (1); insert whole (200); update whole (2); delete whole key (2); insert whole (150); truncate whole",
        ),
    ] {
        let bed = Bed::new(
            "create table whole (n int primary key, v int) partition by range (n);
             create table low partition of whole for values from (0) to (100);
             create table high partition of whole for values from (100) to (1000)",
        )
        .await;
        bed.sql(&format!("alter publication \"The Pub's\" set (publish_via_partition_root = {via_root})"));
        bed.each("insert into whole values (1); insert into whole values (200); update whole set v = 1 where n = 1");
        bed.each("update whole set n = 150 where n = 1; truncate whole");
        let texts = changes(bed.everything(WHOLE).await);
        let words = |text: &str| text.split(' ').take(2).map(str::to_string).collect::<Vec<_>>();
        let found: Vec<_> = texts.iter().map(|text| words(text)).collect();
        let expected: Vec<_> = expected.split("; ").map(words).collect();
        assert_eq!(found, expected, "{texts:#?}");
    }
}
