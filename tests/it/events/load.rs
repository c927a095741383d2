//! Events loaded through the sources' own way of appending.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use watershed::testing::postgres::Cluster;

use super::tables;

fn watershed(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn load(url: &str, arguments: &[&str]) -> Output {
    let fixed = ["events", "load", "--json", "--url", url];
    watershed(&[&fixed[..], arguments].concat()).output().expect("the binary starts")
}

#[track_caller]
fn summary(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn sqlite(path: &Path) -> (String, rusqlite::Connection) {
    let conn = tables::sqlite(path, true);
    conn.execute_batch("pragma journal_mode = wal; pragma synchronous = off").expect("set");
    (format!("sqlite:{}", path.display()), conn)
}

#[test]
fn a_file_gets_consecutive_ids_one_time_per_transaction_and_whole_groups() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, conn) = sqlite(&folder.path().join("s.db"));
    let output = load(&url, &["--count", "500", "--batch", "3..7", "--loaders", "4", "--seed", "1"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let summary = summary(&output);
    assert_eq!((&summary["events"], &summary["schema"]), (&500.into(), &1.into()));
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a number");
    assert_eq!(number("select count(*) from events where json_valid(event)"), 500);
    assert_eq!((number("select max(id) from events"), number("select id from id")), (500, 501));
    let transactions = summary["transactions"].as_i64().expect("a number");
    let group = "event ->> '$.testingStats.dbOperationId'";
    assert_eq!(number(&format!("select count(distinct {group}) from events")), transactions);
    let torn = format!(
        "select count(*) from (select 1 from events group by {group} having count(distinct ts) > 1 \
         or count(*) <> max(event ->> '$.testingStats.dbOperationEventCount') or max(id) - min(id) + 1 <> count(*) \
         or min(id - (event ->> '$.testingStats.dbOperationEventNum')) <> max(id - (event ->> '$.testingStats.dbOperationEventNum')))"
    );
    assert_eq!(number(&torn), 0);
    assert!(number("select count(*) from events where event like '%O''Neil%'") > 0);
}

#[test]
fn what_cannot_be_loaded_into_is_said_and_ends_the_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = format!("sqlite:{}", folder.path().join("missing.db").display());
    let output = load(&missing, &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let bare = folder.path().join("bare.db");
    let conn = rusqlite::Connection::open(&bare).expect("a file");
    conn.execute_batch("create table t (a)").expect("made");
    assert_eq!(load(&format!("sqlite:{}", bare.display()), &[]).status.code(), Some(3));
    let gone = load("postgres://me:secret@127.0.0.1:1/none", &[]);
    assert_eq!(gone.status.code(), Some(4));
    assert!(!String::from_utf8_lossy(&gone.stderr).contains("secret"));
    for wrong in [&["--batch", "0"][..], &["--batch", "9..3"], &["--loaders", "0"], &["--count", "0"], &["--rate", "x"]]
    {
        assert_eq!(load(&missing, wrong).status.code(), Some(2), "{wrong:?}");
    }
    for url in ["mysql://me:secret@host/x", "postgres://me:secret@host:port/x"] {
        for arguments in
            [&["load", "--url", url][..], &["diff", url, url], &["restore", "--yes", "--from", url, "--to", url]]
        {
            let output = events(arguments);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}");
            assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"), "{output:?}");
        }
    }
}

/// Waits until the file has that many events.
fn wait_for(conn: &rusqlite::Connection, events: i64) {
    let deadline = Instant::now() + Duration::from_secs(180);
    let count = || conn.query_row("select count(*) from events", [], |row| row.get::<_, i64>(0)).expect("a number");
    while count() < events {
        assert!(Instant::now() < deadline, "no {events} events");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
}

#[test]
fn a_signal_ends_it_between_transactions_and_what_was_acknowledged_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, code) in [(&["--count", "100000000"][..], 130), (&["--forever", "--rate", "2000"], 0)] {
        let path = folder.path().join(format!("{code}.db"));
        let (url, conn) = sqlite(&path);
        let fixed = ["events", "load", "--json", "--url", &url];
        let child = watershed(&[&fixed[..], arguments].concat()).spawn().expect("the binary starts");
        wait_for(&conn, 100);
        interrupt(&child);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let count: i64 = conn.query_row("select count(*) from events", [], |row| row.get(0)).expect("a number");
        assert_eq!(summary(&output)["events"], count);
    }
}

#[test]
fn a_rate_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, _conn) = sqlite(&folder.path().join("s.db"));
    let output = load(&url, &["--count", "100", "--rate", "200", "--batch", "10"]);
    let seconds = summary(&output)["seconds"].as_f64().expect("a number");
    assert!(seconds >= 0.4, "100 events at 200 a second took {seconds} s");
}

fn events(arguments: &[&str]) -> Output {
    watershed(&[&["events"], arguments].concat()).output().expect("the binary starts")
}

#[track_caller]
fn done(arguments: &[&str]) {
    let output = events(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
}

/// A new source, as `events init` makes it.
fn source(cluster: &Cluster, ids: &str) -> String {
    let url = cluster.database();
    done(&["init", "--url", &url, "--role", "source", "--ids", ids]);
    url
}

#[test]
fn a_server_gets_whole_transactions_with_every_character_whatever_gives_the_ids() {
    let cluster = tables::cluster();
    for ids in ["table", "sequence"] {
        let url = source(&cluster, ids);
        let output = load(&url, &["--count", "1000", "--batch", "1..9", "--seed", "3"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(summary(&output)["events"], 1000);
        let texts = "select count(*) > 0 from events where event::text like";
        for part in ["%O''Neil%", "%$1[1]%", "%$2,%", r"%\\n%", "%🦊%", "%\\\\\"so\\\\\"%"] {
            assert_eq!(cluster.sql(&url, &format!("{texts} '{part}'")), "t\n", "{part} with {ids}");
        }
        assert_eq!(cluster.sql(&url, "select max(octet_length(event::text)) <= 450 from events"), "t\n");
        let copy = source(&cluster, ids);
        done(&["restore", "--yes", "--from", &url, "--to", &copy]);
        done(&["diff", &url, &copy, "--all", "--validate-tables"]);
    }
}

#[test]
fn loaders_that_may_connect_again_survive_a_killed_server_and_tear_nothing() {
    let mut cluster = Cluster::start();
    let url = source(&cluster, "table");
    let fixed = ["events", "load", "--json", "--forever", "--retry", "--rate", "5000", "--url", &url];
    let child = watershed(&fixed).spawn().expect("the binary starts");
    let wait = |cluster: &Cluster, events: i64| {
        let deadline = Instant::now() + Duration::from_secs(180);
        let enough = format!("select count(*) >= {events} from events");
        while cluster.try_sql(&url, &enough).as_deref() != Ok("t\n") {
            assert!(Instant::now() < deadline, "no {events} events");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait(&cluster, 200);
    cluster.kill();
    cluster.restart();
    let before: i64 = cluster.sql(&url, "select count(*) from events").trim().parse().expect("a number");
    wait(&cluster, before + 200);
    interrupt(&child);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let summary = summary(&output);
    assert!(summary["reconnects"].as_i64() >= Some(1), "{summary}");
    let count: i64 = cluster.sql(&url, "select count(*) from events").trim().parse().expect("a number");
    assert!(summary["events"].as_i64() <= Some(count), "acknowledged means there: {summary}, {count}");
    let copy = source(&cluster, "table");
    done(&["restore", "--yes", "--from", &url, "--to", &copy]);
    done(&["diff", &url, &copy, "--all", "--validate-tables"]);
    let gone = load(&cluster.url("nowhere"), &["--retry"]);
    assert_eq!(gone.status.code(), Some(3), "what will not come back is not waited for");
}
