//! Large transactions, in parts before they are committed and whole after.

use super::bed::{Bed, Heard, LIMIT, PARTS, WHOLE, endpoint};

const TABLES: &str = "create table t (id int primary key, v text)";
/// More than a server keeps in its memory.
const LARGE: &str = "insert into t select n, repeat('v', 40) from generate_series(1, 3000) n";

fn count(texts: &[String], word: &str) -> usize {
    texts.iter().filter(|text| text.contains(word)).count()
}

/// Every part is of one transaction, and what lies within is said to be of one.
fn are_parts(texts: &[String]) {
    let mut within = false;
    for text in texts {
        if text.starts_with("part of") {
            assert!(!std::mem::replace(&mut within, true), "{text}");
        } else if text == "part ends" {
            assert!(std::mem::replace(&mut within, false), "{text}");
        } else if !text.starts_with("origin") {
            assert_eq!(within, text.contains(": "), "{text}");
        }
    }
    assert!(!within);
}

#[tokio::test]
async fn a_large_transaction_comes_in_parts_and_a_small_one_whole() {
    let bed = Bed::new(TABLES).await;
    let mut heard = bed.start(PARTS).await;
    bed.sql(&format!(
        "begin; {LARGE}; select pg_logical_emit_message(true, 'm', 'large'); {}; commit",
        LARGE.replace("select n", "select -n")
    ));
    bed.sql("update t set v = 'small' where id = 1");
    bed.mark("end");
    let texts = heard.until("end").await;
    are_parts(&texts);
    assert_eq!(texts[0], "part of x1 true");
    assert_eq!(texts[1], "x1: relation public.t default *id,v");
    assert!(count(&texts, "part of x1 false") > 2, "{}", count(&texts, "part of"));
    assert_eq!((count(&texts, "x1: insert t"), count(&texts, "part of x1 true")), (6000, 1));
    assert_eq!(count(&texts, "x1: message true m large"), 1);
    assert_eq!(texts[texts.len() - 5..], ["part ends", "commit x1", "begin", "update t (1|small)", "commit"]);
}

/// The row's number, and the transaction within which it was written.
fn numbered(text: &str) -> Option<(&str, i32)> {
    let (xid, row) = text.split_once(": insert t (")?;
    Some((xid, row.split('|').next()?.parse().ok()?))
}

/// Hears until a row from that number on comes: a server that knows already that it is undone would not send it.
async fn until_row(heard: &mut Heard, number: i32, texts: &mut Vec<String>) {
    while texts.last().and_then(|text| numbered(text)).is_none_or(|(_, row)| row < number) {
        texts.push(heard.text().await);
    }
}

#[tokio::test]
async fn an_undone_transaction_is_heard_to_be_undone() {
    let bed = Bed::new(TABLES).await;
    let mut heard = bed.start(PARTS).await;
    let session = endpoint(&bed.url).connect(LIMIT).await.unwrap();
    session.client.batch_execute(&format!("begin; {LARGE}")).await.unwrap();
    let mut texts = Vec::new();
    until_row(&mut heard, 1, &mut texts).await;
    session.client.batch_execute("rollback").await.unwrap();
    bed.mark("end");
    texts.extend(heard.until("end").await);
    are_parts(&texts);
    assert_eq!(texts.last().unwrap(), "abort x1 of x1");
    assert_eq!(count(&texts, "commit"), 0);
}

#[tokio::test]
async fn undone_subtransactions_are_named_and_the_rest_is_committed() {
    let bed = Bed::new(TABLES).await;
    let mut heard = bed.start(PARTS).await;
    let session = endpoint(&bed.url).connect(LIMIT).await.unwrap();
    let rows =
        |from: i32, to: i32| format!("insert into t select n, repeat('v', 40) from generate_series({from}, {to}) n");
    let mut texts = Vec::new();
    for (sql, heard_from) in [
        (
            format!("begin; {}; savepoint a; {}; savepoint b; {}", rows(1, 2000), rows(2001, 4000), rows(4001, 6000)),
            4001,
        ),
        (format!("rollback to b; savepoint c; {}; release c", rows(6001, 8000)), 6001),
        (format!("rollback to a; {}; commit", rows(8001, 10_000)), 8001),
    ] {
        session.client.batch_execute(&sql).await.unwrap();
        until_row(&mut heard, heard_from, &mut texts).await;
    }
    bed.mark("end");
    texts.extend(heard.until("end").await);
    are_parts(&texts);
    let undone: Vec<&str> = texts.iter().filter_map(|text| text.strip_prefix("abort ")?.split(' ').next()).collect();
    let kept = texts.iter().filter_map(|text| numbered(text)).filter(|(xid, _)| !undone.contains(xid));
    let kept: Vec<i32> = kept.map(|(_, row)| row).collect();
    let expected: Vec<i32> = (1..=2000).chain(8001..=10_000).collect();
    assert_eq!(kept, expected);
    assert!(undone.len() >= 2, "{undone:?}");
    assert_eq!(texts.last().unwrap(), "commit x1");
}

#[tokio::test]
async fn where_a_large_transaction_comes_from_is_said_before_its_changes_if_it_comes_whole() {
    let bed = Bed::new(TABLES).await;
    let mut heard = bed.start(WHOLE).await;
    let origin = format!("from {}", bed.slot);
    bed.sql(&format!("select pg_replication_origin_create('{origin}')"));
    bed.sql(&format!("select pg_replication_origin_session_setup('{origin}'); {LARGE}"));
    bed.sql(&format!("select pg_replication_origin_drop('{origin}')"));
    bed.mark("end");
    let texts = heard.until("end").await;
    assert_eq!(texts[..3], ["begin", &format!("origin {origin} 0/0"), "relation public.t default *id,v"]);
    assert_eq!(texts.len(), 3004);
}

#[tokio::test]
async fn the_same_transactions_come_whole_if_parts_are_not_asked_for() {
    let bed = Bed::new(TABLES).await;
    let mut heard = bed.start(WHOLE).await;
    bed.sql(&format!("begin; {LARGE}; rollback"));
    bed.sql(&format!("begin; savepoint a; {LARGE}; rollback to a; {LARGE}; commit"));
    bed.mark("end");
    let texts = heard.until("end").await;
    assert_eq!(texts[..2], ["begin", "relation public.t default *id,v"]);
    assert_eq!((count(&texts, "insert t"), texts.len()), (3000, 3003));
    assert_eq!(texts.last().unwrap(), "commit");
}

#[tokio::test]
async fn parts_of_several_transactions_follow_each_other() {
    let bed = Bed::new(TABLES).await;
    let mut heard = bed.start(PARTS).await;
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let url = bed.url.clone();
            let rows = format!(
                "insert into t select n, repeat('v', 40) from generate_series({}, {}) n",
                writer * 10_000,
                writer * 10_000 + 999
            );
            let sql =
                format!("begin; {rows}; select pg_sleep(0.3); {}; commit", rows.replace("select n", "select -n - 1"));
            tokio::task::spawn_blocking(move || super::bed::cluster().sql(&url, &sql))
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    bed.mark("end");
    let texts = heard.until("end").await;
    are_parts(&texts);
    for transaction in 1..=3 {
        assert_eq!(count(&texts, &format!("x{transaction}: insert t")), 2000);
        assert_eq!(count(&texts, &format!("commit x{transaction}")), 1);
    }
}
