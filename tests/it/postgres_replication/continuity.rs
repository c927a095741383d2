//! Streams that end, and go on where they were.

use std::time::{Duration, Instant};

use watershed::postgres::replication::pgoutput::Message;
use watershed::postgres::replication::{Lsn, ReplicationClient, ReplicationError, StartOptions};
use watershed::testing::postgres::Cluster;

use super::bed::{Bed, Heard, LIMIT, PARTS, SETTINGS, WHOLE, endpoint};

const TABLE: &str = "create table t (id int primary key, v text)";

/// The end of the next commit.
async fn commit(heard: &mut Heard) -> Lsn {
    loop {
        if let Message::Commit(commit) = heard.data().await.message {
            return commit.end;
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_not_streamed_again_and_all_else_is() {
    let bed = Bed::new(TABLE).await;
    for id in 1..=4 {
        bed.sql(&format!("insert into t values ({id}, 'x')"));
    }
    let mut heard = bed.start(WHOLE).await;
    let ends = [commit(&mut heard).await, commit(&mut heard).await, commit(&mut heard).await];
    heard.stream.acknowledge(ends[1]);
    heard.stream.acknowledge(ends[0]);
    assert_eq!(heard.stream.acknowledged(), ends[1]);
    heard.stream.close(LIMIT).await.unwrap();
    let confirmed = format!("select confirmed_flush_lsn from pg_replication_slots where slot_name = '{}'", bed.slot);
    assert_eq!(bed.sql(&confirmed).trim(), ends[1].to_string());
    // The slot decides, unless we are further; and never the other way round.
    for (from, first) in [(Lsn::NONE, 3), (ends[0], 3), (ends[1], 3), (ends[2], 4)] {
        let mut heard = Heard::over(bed.try_start(from, WHOLE).await.unwrap());
        bed.mark("seen");
        let texts = heard.until("seen").await;
        assert_eq!(texts[2], format!("insert t ({first}|x)"), "from {from}");
        assert_eq!(texts.iter().filter(|text| text.starts_with("insert")).count(), 5 - first, "from {from}");
        heard.stream.close(LIMIT).await.unwrap();
    }
    assert_eq!(bed.sql(&confirmed).trim(), ends[1].to_string());
}

#[tokio::test]
async fn a_large_transaction_that_was_cut_off_comes_again_from_its_beginning() {
    let bed = Bed::new(TABLE).await;
    let mut heard = bed.start(PARTS).await;
    bed.sql("insert into t select n, repeat('v', 40) from generate_series(1, 5000) n");
    assert!(matches!(heard.data().await.message, Message::StreamStart { first: true, .. }));
    drop(heard);
    // The server notices in its own time; until then the slot is in use.
    let deadline = Instant::now() + LIMIT;
    let stream = loop {
        match bed.try_start(Lsn::NONE, PARTS).await {
            Ok(stream) => break stream,
            Err(error) => {
                assert_eq!(error.code().unwrap().code(), "55006", "{error}");
                assert!(error.is_retryable() && Instant::now() < deadline, "{error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut heard = Heard::over(stream);
    bed.mark("end");
    let texts = heard.until("end").await;
    assert_eq!((texts[0].as_str(), texts.last().unwrap().as_str()), ("part of x1 true", "commit x1"));
    assert_eq!(texts.iter().filter(|text| text.contains("insert t")).count(), 5000);
}

#[tokio::test]
async fn a_slot_is_used_by_one_stream_at_a_time_and_free_once_that_is_closed() {
    let bed = Bed::new(TABLE).await;
    let first = bed.try_start(Lsn::NONE, WHOLE).await.unwrap();
    let error = bed.try_start(Lsn::NONE, WHOLE).await.err().unwrap();
    assert!(error.is_retryable() && error.code().unwrap().code() == "55006", "{error}");
    assert!(error.to_string().contains("is active for PID"), "{error}");
    let error = bed.client().await.drop_slot(&bed.slot, false).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "55006", "{error}");
    first.close(LIMIT).await.unwrap();
    let second = bed.try_start(Lsn::NONE, WHOLE).await.unwrap();
    // With much under way, too.
    bed.sql("insert into t select n, repeat('v', 1000) from generate_series(1, 20000) n");
    second.close(LIMIT).await.unwrap();
    bed.try_start(Lsn::NONE, WHOLE).await.unwrap().close(LIMIT).await.unwrap();
    assert!(bed.client().await.drop_slot(&bed.slot, false).await.unwrap());
    assert!(!bed.client().await.drop_slot(&bed.slot, true).await.unwrap());
}

#[tokio::test]
async fn what_cannot_be_streamed_is_said_in_the_servers_words() {
    let bed = Bed::new(TABLE).await;
    let client = bed.client().await;
    let error = client.start("nobody's", Lsn::NONE, "p", WHOLE).await.err().unwrap();
    assert_eq!((error.code().unwrap().code(), error.is_retryable()), ("42704", false), "{error}");
    let mut client = bed.client().await;
    let error = client.create_slot(&bed.slot).await.unwrap_err();
    assert_eq!((error.code().unwrap().code(), error.is_retryable()), ("42710", false), "{error}");
    // After a refusal the connection goes on.
    let error = client.create_slot("Not allowed").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42602", "{error}");
    assert_eq!(
        client.simple_query("select 1, null; select 'x'").await.unwrap(),
        [vec![Some("1".to_string()), None], vec![Some("x".to_string())]]
    );
    let mut stream = client.start(&bed.slot, Lsn::NONE, "no publication", WHOLE).await.unwrap();
    bed.sql("insert into t values (1, 'x')");
    let error = loop {
        match tokio::time::timeout(LIMIT, stream.next()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!((error.code().unwrap().code(), error.is_retryable()), ("42704", false), "{error}");
    assert!(error.to_string().contains("no publication"), "{error}");
}

#[tokio::test]
async fn a_server_says_who_it_is() {
    let bed = Bed::new(TABLE).await;
    let mut client = bed.client().await;
    let found = client.identify().await.unwrap();
    assert_eq!(found.system, bed.sql("select system_identifier from pg_control_system()").trim());
    assert_eq!(found.timeline.to_string(), bed.sql("select timeline_id from pg_control_checkpoint()").trim());
    assert!(bed.url.ends_with(&format!("/{}", found.database)));
    let now: Lsn = bed.sql("select pg_current_wal_insert_lsn()").trim().parse().unwrap();
    assert!(found.flushed > Lsn::NONE && found.flushed <= now, "{} {now}", found.flushed);
    assert_eq!(client.parameter("server_version").unwrap(), bed.sql("show server_version").trim());
    assert_eq!(client.setting("wal_level").await.unwrap().as_deref(), Some("logical"));
}

/// What a stream ends with, when nothing is acknowledged but what is said to be.
async fn ending(heard: &mut Heard, acknowledges: bool) -> ReplicationError {
    let ended = async {
        loop {
            match heard.stream.next().await {
                Ok(watershed::postgres::replication::Event::KeepAlive { end }) if acknowledges => {
                    heard.stream.acknowledge(end);
                }
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    tokio::time::timeout(LIMIT, ended).await.expect("the end is noticed")
}

async fn own_stream(cluster: &Cluster, url: &str) -> Heard {
    let client = ReplicationClient::connect(&endpoint(url), LIMIT).await.unwrap();
    let _ = cluster;
    Heard::over(client.start("s", Lsn::NONE, "p", StartOptions::default()).await.unwrap())
}

#[tokio::test]
async fn a_server_that_dies_or_stops_ends_the_stream_and_goes_on_after() {
    let mut cluster = Cluster::with(&SETTINGS);
    let url = cluster.database();
    cluster.sql(&url, "create table t (id int primary key, v text); create publication p for all tables");
    let mut client = ReplicationClient::connect(&endpoint(&url), LIMIT).await.unwrap();
    client.create_slot("s").await.unwrap();
    let mut heard = own_stream(&cluster, &url).await;
    cluster.sql(&url, "insert into t values (1, 'x')");
    let first = commit(&mut heard).await;
    heard.stream.acknowledge(first);
    cluster.kill();
    let error = ending(&mut heard, false).await;
    assert!(matches!(error, ReplicationError::Lost { .. }) && error.is_retryable(), "{error}");
    let error = ReplicationClient::connect(&endpoint(&url), LIMIT).await.err().unwrap();
    assert!(matches!(error, ReplicationError::Connect { .. }) && error.is_retryable(), "{error}");
    cluster.restart();
    let mut heard = own_stream(&cluster, &url).await;
    cluster.sql(&url, "insert into t values (2, 'y')");
    while heard.stream.acknowledged() <= first {
        let end = commit(&mut heard).await;
        heard.stream.acknowledge(end);
    }
    // A server that stops waits until it has heard that everything is stored, and says so.
    let pid = std::fs::read_to_string(cluster.sockets().join("data/postmaster.pid")).unwrap();
    let stopped = std::process::Command::new("kill").args(["-INT", pid.lines().next().unwrap()]).status().unwrap();
    assert!(stopped.success());
    let error = ending(&mut heard, true).await;
    assert!(matches!(error, ReplicationError::Ended { .. }) && error.is_retryable(), "{error}");
}
