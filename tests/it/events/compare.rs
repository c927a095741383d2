//! `watershed events diff`: what it finds, and how it ends.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

use super::tables;

fn diff(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    command.args(["events", "diff", "--json"]).args(arguments).stdin(Stdio::null());
    command.env_remove("WATERSHED_CONFIG").output().expect("the binary starts")
}

/// The exit code, what was found, and the summary.
#[track_caller]
fn found(arguments: &[&str]) -> (Option<i32>, Vec<Json>, Json) {
    let output = diff(arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let summary = lines.pop().unwrap_or_else(|| panic!("no summary: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!((&summary["summary"], &summary["schema"]), (&true.into(), &1.into()));
    (output.status.code(), lines, summary)
}

/// Kinds and ids of what was found.
fn kinds(found: &[Json]) -> Vec<(String, i64)> {
    let text = |json: &Json| json.as_str().unwrap_or_default().to_string();
    found
        .iter()
        .map(|one| (text(&one["finding"]), one["id"].as_i64().or(one["first"].as_i64()).unwrap_or(-1)))
        .collect()
}

const EVENTS: &str = "insert into events select i, timestamptz '2024-01-01 00:00:00.000001+00' + i / 10 * interval '1 s', \
     jsonb_build_object('n', 1.10, 'text', 'O''Neil ' || i, 'big', '123456789012345678901234567890.10'::numeric) \
     from generate_series(1, 5000) i;";

/// Two databases with the same 5,000 events; the first is a source.
fn two(cluster: &watershed::testing::postgres::Cluster) -> (String, String) {
    let (a, b) = (tables::destination(cluster), tables::destination(cluster));
    cluster.sql(&a, &format!("create table id (id bigint primary key); insert into id values (5001); {EVENTS}"));
    cluster.sql(&b, EVENTS);
    (a, b)
}

#[test]
fn equal_tables_are_equal_and_every_kind_of_difference_is_found() {
    let cluster = tables::cluster();
    let (a, b) = two(&cluster);
    let (code, lines, summary) = found(&[&a, &b]);
    assert_eq!((code, lines.len(), &summary["equal"]), (Some(0), 0, &true.into()));
    for (statement, kind, id) in [
        ("update events set ts = ts + interval '1 microsecond' where id = 1234", "changed", 1234),
        ("update events set event = jsonb_set(event, '{n}', '1.1') where id = 4999", "changed", 4999),
        (
            "update events set event = jsonb_set(event, '{big}', '123456789012345678901234567890.11') where id = 2",
            "changed",
            2,
        ),
        ("update events set event = jsonb_set(event, '{text}', '\"O''Neill 7\"') where id = 7", "changed", 7),
        ("delete from events where id = 1", "missing", 1),
        ("delete from events where id = 3000", "missing", 3000),
        ("insert into events select 0, ts, event from events where id = 1", "id", 0),
    ] {
        cluster.sql(&b, &format!("create table kept as select * from events; {statement}"));
        for (one, other) in [(&a, &b), (&b, &a)] {
            let (code, lines, summary) = found(&[one, other]);
            assert_eq!(code, Some(6), "{statement}");
            assert_eq!(kinds(&lines), [(kind.to_string(), id)], "{statement}: {lines:?}");
            assert_eq!(summary["differences"].as_i64().zip(summary["faults"].as_i64()).map(|(d, f)| d + f), Some(1));
        }
        cluster.sql(&b, "truncate events; insert into events select * from kept; drop table kept");
    }
}

#[test]
fn a_tail_is_compared_when_asked_for_and_nothing_is_never_equal_to_something() {
    let cluster = tables::cluster();
    let (a, b) = two(&cluster);
    cluster.sql(&a, "insert into events select 5001, ts, event from events where id = 1");
    let (code, lines, summary) = found(&[&a, &b]);
    assert_eq!((code, lines.len(), &summary["compared_to_id"]), (Some(0), 0, &5000.into()));
    assert_eq!((&summary["a"]["max_id"], &summary["b"]["max_id"]), (&5001.into(), &5000.into()));
    let (code, lines, _) = found(&[&a, &b, "--all"]);
    assert_eq!((code, kinds(&lines)), (Some(6), vec![("missing".to_string(), 5001)]));
    let empty = tables::destination(&cluster);
    let (code, _, summary) = found(&[&a, &empty]);
    assert_eq!((code, &summary["differences"]), (Some(6), &5001.into()));
    let (code, lines, summary) = found(&[&a, &empty, "--max", "3"]);
    assert_eq!((code, lines.len(), &summary["complete"]), (Some(6), 3, &false.into()));
    assert_eq!(found(&[&tables::destination(&cluster), &empty]).0, Some(0));
}

#[test]
fn gaps_and_doubles_are_faults_also_when_both_tables_have_them() {
    let cluster = tables::cluster();
    let (a, b) = two(&cluster);
    for url in [&a, &b] {
        cluster.sql(url, "delete from events where id between 1500 and 2600 or id = 5");
    }
    let (code, lines, summary) = found(&[&a, &b]);
    assert_eq!((code, &summary["differences"], &summary["faults"]), (Some(6), &0.into(), &2.into()));
    assert_eq!(kinds(&lines), [("gap".to_string(), 5), ("gap".to_string(), 1500)]);
    assert_eq!(lines[1]["last"], 2600);
    assert_eq!(found(&[&a, &b, "--ids", "sequence"]).0, Some(0), "a sequence leaves gaps");
    cluster.sql(
        &b,
        "alter table events drop constraint events_pkey; insert into events select * from events where id = 9",
    );
    let (code, lines, _) = found(&[&a, &b, "--ids", "sequence"]);
    assert_eq!((code, kinds(&lines)[0].clone()), (Some(6), ("id".to_string(), 9)));
}

#[test]
fn sparse_ids_are_compared_in_no_time_over_the_whole_range() {
    let cluster = tables::cluster();
    let (a, b) = (tables::destination(&cluster), tables::destination(&cluster));
    let sparse = "insert into events select i, now(), '{}' from unnest(array[-9223372036854775808, -5, 1, 2, 4000000000000000, \
                  9223372036854775807]) i; update events set ts = '2024-01-01 00:00:00+00';";
    for url in [&a, &b] {
        cluster.sql(url, sparse);
    }
    assert_eq!(found(&[&a, &b]).0, Some(0));
    cluster.sql(&b, "update events set ts = 'infinity' where id = 9223372036854775807");
    let (code, lines, _) = found(&[&a, &b]);
    assert_eq!((code, kinds(&lines)), (Some(6), vec![("changed".to_string(), i64::MAX)]));
}

#[test]
fn torn_transactions_are_known_by_their_stamps() {
    let cluster = tables::cluster();
    let (a, b) = (tables::destination(&cluster), tables::destination(&cluster));
    let stamped = "insert into events select i, timestamptz '2024-01-01 00:00:00+00' + i / 3 * interval '1 s', jsonb_build_object( \
        'testingStats', jsonb_build_object('programId', 'p', 'dbOperationNum', i / 3, 'dbOperationId', (i / 3)::text, \
        'dbOperationEventNum', i % 3 + 1, 'dbOperationEventCount', 3, 'dbOperationTS', '2024-01-01T00:00:00Z')) \
        from generate_series(3, 302) i; update events set id = id - 2;";
    for url in [&a, &b] {
        cluster.sql(url, stamped);
    }
    assert_eq!(found(&[&a, &b, "--validate-tables"]).0, Some(0));
    cluster.sql(&b, "delete from events where id = 300");
    assert_eq!(found(&[&a, &b]).0, Some(0), "the tail is not compared");
    let (code, lines, _) = found(&[&a, &b, "--validate-tables"]);
    assert_eq!((code, kinds(&lines)), (Some(6), vec![("transaction".to_string(), 299)]));
    for url in [&a, &b] {
        cluster.sql(url, "update events set ts = ts + interval '1 microsecond' where id = 3");
    }
    let (code, lines, _) = found(&[&a, &b]);
    assert_eq!((code, lines.len()), (Some(6), 2), "one time for a transaction: {lines:?}");
    assert_eq!(kinds(&lines)[0], ("time".to_string(), 3));
}

fn sqlite(path: &Path, rows: &[(i64, &str, &str)]) -> String {
    let conn = tables::sqlite(path, false);
    for (id, time, event) in rows {
        conn.execute("insert into events values (?1, ?2, ?3)", (id, time, event)).expect("inserted");
    }
    format!("sqlite:{}", path.display())
}

const TIME: &str = "2024-01-01 00:00:00.000001+00";

#[test]
fn postgresql_and_sqlite_are_compared_by_value_with_every_digit() {
    let (cluster, folder) = (tables::cluster(), tempfile::tempdir().expect("a folder"));
    let events = [r#"{"b":1e2,"a":"\u00e9\"","c":[1.10]}"#, r#"{"x":-0.0,"x":1}"#, "null", r#""O'Neil""#];
    let a = tables::destination(&cluster);
    let rows: Vec<(i64, &str, &str)> = (1..).zip(events).map(|(id, event)| (id, TIME, event)).collect();
    for (id, time, event) in &rows {
        let event = event.replace('\'', "''");
        cluster.sql(&a, &format!("insert into events values ({id}, '{time}', '{event}')"));
    }
    let same = sqlite(&folder.path().join("same.db"), &rows);
    assert_eq!(found(&[&a, &same]).0, Some(0));
    let other_zone: Vec<_> = rows.iter().map(|(id, _, event)| (*id, "2024-01-01 02:00:00.000001+02", *event)).collect();
    let shifted = sqlite(&folder.path().join("zone.db"), &other_zone);
    assert_eq!(found(&[&a, &shifted]).0, Some(0), "one instant in another zone");
    assert_eq!(found(&[&same, &shifted]).0, Some(0), "and between files");
    let mut changed = rows;
    changed[0].2 = r#"{"b":100,"a":"é\"","c":[1.1]}"#;
    changed[1].1 = "2024-01-01 00:00:00.000002+00";
    changed[3].2 = "not json";
    changed.remove(2);
    let changed = sqlite(&folder.path().join("changed.db"), &changed);
    for (one, other) in [(&a, &changed), (&same, &changed)] {
        let (code, lines, _) = found(&[one, other]);
        let expected =
            [("changed", 1), ("changed", 2), ("changed", 4), ("missing", 3)].map(|(kind, id)| (kind.to_string(), id));
        assert_eq!((code, kinds(&lines)), (Some(6), expected.to_vec()));
    }
}

#[test]
fn large_events_are_compared_within_bounds() {
    let cluster = tables::cluster();
    let (a, b) = (tables::destination(&cluster), tables::destination(&cluster));
    let large = "insert into events select i, '2024-01-01 00:00:00+00', jsonb_build_object('n', i, 't', repeat('é', 4000000)) \
                 from generate_series(1, 12) i;";
    for url in [&a, &b] {
        cluster.sql(url, large);
    }
    cluster.sql(&b, "update events set event = jsonb_set(event, '{n}', '0') where id in (3, 11)");
    let (code, lines, _) = found(&[&a, &b]);
    assert_eq!((code, kinds(&lines)), (Some(6), vec![("changed".to_string(), 3), ("changed".to_string(), 11)]));
    assert!(lines[0].to_string().len() < 1000);
}

#[test]
fn what_cannot_be_compared_is_said() {
    let (cluster, folder) = (tables::cluster(), tempfile::tempdir().expect("a folder"));
    let (a, _) = two(&cluster);
    let code = |arguments: &[&str]| diff(arguments).status.code();
    assert_eq!(code(&[&a, &a]), Some(3), "a table and itself");
    assert_eq!(code(&[&a, &a.replace("127.0.0.1", "localhost")]), Some(3));
    assert_eq!(code(&[&a]), Some(2));
    assert_eq!(code(&[&a, "sqlite:"]), Some(2));
    assert_eq!(code(&[&a, "postgres://x@127.0.0.1:1/y"]), Some(4));
    assert_eq!(code(&[&a, &cluster.url("nowhere")]), Some(3));
    assert_eq!(code(&[&a, &cluster.database()]), Some(3), "no table");
    let path = folder.path().join("bad.db");
    let bad = sqlite(&path, &[(1, "yesterday", "{}")]);
    let output = diff(&[&a, &bad]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    std::fs::write(&path, b"no database at all, though it has enough bytes to be one").expect("written");
    assert_eq!(code(&[&a, &bad]), Some(3));
}

#[test]
fn the_originals_file_says_what_is_compared() {
    let (cluster, folder) = (tables::cluster(), tempfile::tempdir().expect("a folder"));
    let (a, b) = two(&cluster);
    cluster.sql(&b, "delete from events where id <= 10");
    let params = |url: &str| {
        let (host, name) = url.trim_start_matches("postgres://postgres@").split_once('/').expect("a URL");
        let (host, port) = host.split_once(':').expect("a port");
        format!("{{ host: '{host}', port: {port}, databaseName: '{name}', user: 'postgres' }}")
    };
    let path = folder.path().join("eventsDiffConfig.js");
    let file = path.display().to_string();
    let write = |more: &str, b: &str| {
        let text = format!(
            "var config = {{ {more}\n events1Params: {},\n events2Params: {},\n}};\nmodule.exports = config;",
            params(&a),
            params(b)
        );
        std::fs::write(&path, text).expect("written");
    };
    write("maxDiffs: 4, maxEventsPerRead: 50000,", &b);
    let (code, lines, _) = found(&["-c", &file]);
    assert_eq!((code, lines.len()), (Some(6), 4));
    write("maxDiffs: 'many',", &b);
    assert_eq!(diff(&["-c", &file]).status.code(), Some(3));
    write("", &a);
    let output = diff(&["-c", &file]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("WS-EVENTS-131"));
    assert_eq!(diff(&["-c", "missing.js"]).status.code(), Some(3));
}

#[test]
fn a_second_signal_ends_a_comparison_at_once_with_130() {
    let cluster = tables::cluster();
    let (a, b) = two(&cluster);
    let lock = "begin; lock table events in access exclusive mode; select pg_sleep(600)";
    let mut holder =
        Command::new("psql").args(["-XAtqc", lock, &a]).stdout(Stdio::null()).spawn().expect("psql starts");
    let waiting = |granted: &str| {
        let sql = format!("select count(*) from pg_locks where relation = 'events'::regclass and {granted}");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
        while cluster.sql(&a, &sql) == "0\n" {
            assert!(std::time::Instant::now() < deadline, "{sql}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    waiting("granted and mode = 'AccessExclusiveLock'");
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    let mut child = command.args(["events", "diff", &a, &b]).stdout(Stdio::null()).spawn().expect("the binary starts");
    waiting("not granted");
    // The first one may come before the second is listened for: signals are sent until it ends.
    let ended = loop {
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
        std::thread::sleep(std::time::Duration::from_millis(50));
        if let Some(ended) = child.try_wait().expect("it can be waited for") {
            break ended;
        }
    };
    assert_eq!(ended.code(), Some(130));
    holder.kill().expect("killed");
    holder.wait().expect("it ended");
    cluster.sql(
        "postgres",
        "select pg_terminate_backend(pid) from pg_stat_activity where query like 'begin; lock table events%'",
    );
}
