//! Both sides know that the other is there.

use std::time::{Duration, Instant};

use watershed::postgres::replication::pgoutput::Message;
use watershed::postgres::replication::{Event, Lsn, ReplicationClient, ReplicationError, StartOptions};
use watershed::testing::proxy::FaultProxy;

use super::bed::{Bed, LIMIT, WHOLE, cluster, endpoint};

const TABLE: &str = "create table t (id int primary key, v text)";

fn impatient(ms: u64) -> StartOptions {
    StartOptions { silence: Duration::from_millis(ms), ..WHOLE }
}

#[tokio::test]
async fn a_server_that_does_not_answer_any_more_is_given_up() {
    let bed = Bed::new(TABLE).await;
    let proxy = FaultProxy::start(([127, 0, 0, 1], cluster().port()).into(), |_| Default::default()).await.unwrap();
    let url = bed.url.replace(&cluster().port().to_string(), &proxy.address().port().to_string());
    let client = ReplicationClient::connect(&endpoint(&url), LIMIT).await.unwrap();
    let mut stream = client.start(&bed.slot, Lsn::NONE, "The Pub's", impatient(1000)).await.unwrap();
    bed.sql("insert into t values (1, 'x')");
    while !matches!(stream.next().await.unwrap(), Event::Data(data) if matches!(data.message, Message::Commit(_))) {}
    proxy.black_hole(true);
    let error = loop {
        match tokio::time::timeout(LIMIT, stream.next()).await.unwrap() {
            Ok(event) => assert!(matches!(event, Event::KeepAlive { .. }), "{event:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReplicationError::Silent { .. }) && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_server_that_has_nothing_to_send_is_asked_and_answers() {
    let bed = Bed::new(TABLE).await;
    let mut stream = bed.try_start(Lsn::NONE, impatient(400)).await.unwrap();
    for _ in 0..5 {
        let event = tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap();
        assert!(matches!(event, Event::KeepAlive { .. }), "{event:?}");
    }
    // And says how far it is, when it is asked to.
    let upto: Lsn = bed.sql("select pg_current_wal_flush_lsn()").trim().parse().unwrap();
    let deadline = Instant::now() + LIMIT;
    while stream.sent_upto() < upto {
        assert!(Instant::now() < deadline);
        stream.ask_for_reply();
        let Event::KeepAlive { end } = stream.next().await.unwrap() else { panic!("nothing is published") };
        assert!(end <= stream.sent_upto());
    }
}

#[tokio::test]
async fn a_reader_that_is_busy_for_long_is_not_thrown_out() {
    let bed = Bed::new(TABLE).await;
    let timeout = "do $$ begin execute format('alter database %I set wal_sender_timeout = ''900ms''', current_database()); end $$";
    bed.sql(timeout);
    bed.sql("insert into t select n, repeat('v', 1000) from generate_series(1, 20000) n");
    let mut stream = bed.try_start(Lsn::NONE, impatient(60_000)).await.unwrap();
    let pid = format!("select active_pid from pg_replication_slots where slot_name = '{}'", bed.slot);
    let first = bed.sql(&pid);
    // Nobody reads for several times as long as the server waits: it cannot send meanwhile.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(bed.sql(&pid), first);
    let mut rows = 0;
    loop {
        match tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap() {
            Event::Data(data) if matches!(data.message, Message::Insert { .. }) => rows += 1,
            Event::Data(data) if matches!(data.message, Message::Commit(_)) => break,
            _ => {}
        }
    }
    assert_eq!(rows, 20_000);
    // Nor one that has nothing to read.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bed.sql(&pid), first);
    while stream.try_next().unwrap().is_some() {}
    stream.close(LIMIT).await.unwrap();
}

#[tokio::test]
async fn what_is_acknowledged_is_told_soon() {
    let bed = Bed::new(TABLE).await;
    let mut stream = bed.try_start(Lsn::NONE, WHOLE).await.unwrap();
    let slot = format!("from pg_replication_slots where slot_name = '{}'", bed.slot);
    for id in 0..3 {
        bed.sql(&format!("insert into t values ({id}, 'x')"));
        let end = loop {
            if let Event::Data(data) = stream.next().await.unwrap()
                && let Message::Commit(commit) = data.message
            {
                break commit.end;
            }
        };
        stream.acknowledge(end);
        let deadline = Instant::now() + Duration::from_secs(5);
        while bed.sql(&format!("select confirmed_flush_lsn {slot}")).trim() != end.to_string() {
            assert!(Instant::now() < deadline, "it is told soon, not with the next sign of life");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let told = "select write_lsn >= flush_lsn and flush_lsn = replay_lsn from pg_stat_replication where pid = ";
    assert_eq!(bed.sql(&format!("{told} (select active_pid {slot})")), "t\n");
}

#[tokio::test]
async fn whoever_cannot_wait_is_told_that_nothing_is_there() {
    let bed = Bed::new(TABLE).await;
    let mut stream = bed.try_start(Lsn::NONE, WHOLE).await.unwrap();
    while stream.try_next().unwrap().is_some() {}
    assert_eq!(stream.try_next().unwrap(), None);
    bed.sql("insert into t select n, 'x' from generate_series(1, 1000) n");
    // A wait that is given up again and again loses nothing.
    let (mut rows, deadline) = (0, Instant::now() + LIMIT);
    while rows < 1000 {
        assert!(Instant::now() < deadline);
        let waited = tokio::time::timeout(Duration::from_micros(50), stream.next()).await;
        let event = match waited {
            Ok(event) => Some(event.unwrap()),
            Err(_) => stream.try_next().unwrap(),
        };
        if let Some(Event::Data(data)) = event
            && let Message::Insert { new, .. } = data.message
        {
            rows += 1;
            assert_eq!(new.row()[0].text, rows.to_string());
        }
    }
}
