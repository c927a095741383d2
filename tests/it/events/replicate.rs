//! Events copied by the process: each destination on its own, over every kind of trouble.

use watershed::testing::postgres::Cluster;

use super::process::{Running, Site, get, until};
use super::tables::{append, cluster, destination, source};

const DIGEST: &str = "select count(*), sum(hashtextextended(id || ts::text || event::text, 0)::numeric) from events";

/// Waits until the destination is the source.
#[track_caller]
fn equal(from: (&Cluster, &str), to: (&Cluster, &str), running: &Running) {
    let wanted = from.0.sql(from.1, DIGEST);
    until("the destination is the source", || {
        let found = to.0.try_sql(to.1, DIGEST).unwrap_or_else(|error| error);
        if found == wanted { Ok(()) } else { Err(format!("{found} is not {wanted}\n{}", running.said())) }
    });
}

#[test]
fn a_destination_that_is_down_holds_up_no_other_and_catches_up() {
    let (cluster, mut far) = (cluster(), Cluster::start());
    let (from, near, away) = (source(&cluster), destination(&cluster), destination(&far));
    append(&cluster, &from, 1..=3000);
    far.kill();
    let site = Site::new(&from, &[&away, &near]);
    let mut running = site.start(&["--listen", "127.0.0.1:0"]);
    let address = running.address();
    equal((&cluster, &from), (&cluster, &near), &running);
    let (code, body) = get(&address, "/readyz");
    assert_eq!(code, 503, "{body}");
    far.restart();
    equal((&cluster, &from), (&far, &away), &running);
    // Down again, while both have begun.
    far.kill();
    append(&cluster, &from, 3001..=4000);
    equal((&cluster, &from), (&cluster, &near), &running);
    running.says("tried again in");
    far.restart();
    equal((&cluster, &from), (&far, &away), &running);
    until("it is ready", || match get(&address, "/readyz") {
        (200, _) => Ok(()),
        (_, body) => Err(body),
    });
    let (_, metrics) = get(&address, "/metrics");
    for line in [
        format!("watershed_events_position{{destination=\"{near}\"}} 4000"),
        format!("watershed_events_up{{destination=\"{away}\"}} 1"),
        format!("watershed_events_behind{{destination=\"{away}\"}} 0"),
        format!("watershed_events_lag_seconds{{destination=\"{away}\"}} 0"),
        format!("watershed_events_written_total{{destination=\"{near}\"}} 4000"),
    ] {
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    assert!(!metrics.contains(&format!("watershed_events_retries_total{{destination=\"{away}\"}} 0")), "{metrics}");
    assert_eq!(get(&address, "/healthz"), (200, "ok\n".to_string()));
    running.signal("-TERM");
    assert_eq!(running.ends(), 0, "{}", running.said());
}

#[test]
fn a_source_that_goes_away_is_waited_for_also_at_the_start() {
    let (cluster, mut far) = (cluster(), Cluster::start());
    let (from, to) = (source(&far), destination(&cluster));
    append(&far, &from, 1..=100);
    far.kill();
    let site = Site::new(&from, &[&to]);
    let mut running = site.start(&[]);
    running.says("tried again in");
    far.restart();
    equal((&far, &from), (&cluster, &to), &running);
    far.kill();
    running.says("broke");
    far.restart();
    append(&far, &from, 101..=200);
    equal((&far, &from), (&cluster, &to), &running);
    running.signal("-INT");
    assert_eq!(running.ends(), 0, "{}", running.said());
}

#[test]
fn a_lost_notification_is_covered() {
    let cluster = cluster();
    let (from, to) = (source(&cluster), destination(&cluster));
    cluster.sql(&from, "alter table events disable trigger notify_insert");
    append(&cluster, &from, 1..=10);
    let site = Site::new(&from, &[&to]);
    let mut running = site.start(&[]);
    running.says("is current, at 10");
    append(&cluster, &from, 11..=20);
    equal((&cluster, &from), (&cluster, &to), &running);
}

#[test]
fn a_signal_drains_and_nothing_is_lost_by_being_killed() {
    let cluster = cluster();
    let (from, to) = (source(&cluster), destination(&cluster));
    // Transactions of 7 events.
    let load = "insert into events select i, timestamptz '2024-01-01' + (i - 1) / 7 * interval '1 s', to_jsonb(i) \
                from generate_series(1, 70000) i; update id set id = 70001";
    cluster.sql(&from, load);
    let site = Site::new(&from, &[&to]);
    for signal in ["-INT", "-KILL", "-TERM"] {
        let mut running = site.start(&[]);
        running.says("connected to");
        running.signal(signal);
        if signal != "-KILL" {
            assert_eq!(running.ends(), 0, "{}", running.said());
        }
        drop(running);
        assert_eq!(cluster.sql(&to, "select count(*) % 7, count(*) - coalesce(max(id), 0) from events"), "0|0\n");
    }
    let mut running = site.start(&[]);
    equal((&cluster, &from), (&cluster, &to), &running);
    let resident = running.resident();
    assert!(resident < 40 << 20, "{} MiB are resident", resident >> 20);
    running.signal("-INT");
    assert_eq!(running.ends(), 0);
}

#[test]
fn a_destination_that_fails_for_good_leaves_the_others_and_ends_the_last() {
    let cluster = cluster();
    let (from, one, other) = (source(&cluster), destination(&cluster), destination(&cluster));
    append(&cluster, &from, 1..=10);
    let site = Site::new(&from, &[&one, &other]);
    let mut running = site.start(&[]);
    running.says(&format!("{one} is current"));
    running.says(&format!("{other} is current"));
    cluster.sql(&one, "drop table events");
    append(&cluster, &from, 11..=20);
    running.says(&format!("{one} is no longer copied to"));
    equal((&cluster, &from), (&cluster, &other), &running);
    cluster.sql(&other, "drop table events");
    append(&cluster, &from, 21..=30);
    assert_eq!(running.ends(), 3, "{}", running.said());
    assert!(running.said().contains("error[WS-PG-006]"), "{}", running.said());
}

#[test]
fn the_first_failure_ends_it_where_that_is_asked_for() {
    let (cluster, mut far) = (cluster(), Cluster::start());
    let (from, near, away) = (source(&cluster), destination(&cluster), destination(&far));
    append(&cluster, &from, 1..=10);
    let site = Site::new(&from, &[&near, &away]);
    let mut running = site.start(&["--exit-on-error"]);
    running.says(&format!("{away} is current"));
    far.kill();
    append(&cluster, &from, 11..=20);
    assert_eq!(running.ends(), 4, "{}", running.said());
}

#[test]
fn a_source_that_was_restored_behind_its_copy_stops_the_stream() {
    let (cluster, mut far) = (cluster(), Cluster::start());
    let (from, to) = (source(&far), destination(&cluster));
    append(&far, &from, 1..=100);
    let site = Site::new(&from, &[&to]);
    let mut running = site.start(&[]);
    running.says("is current, at 100");
    far.sql(&from, "alter table events disable trigger check_sql_command; delete from events where id > 90");
    far.sql(&from, "alter table events enable trigger check_sql_command; update id set id = 91; checkpoint");
    far.kill();
    far.restart();
    assert_eq!(running.ends(), 5, "{}", running.said());
    assert!(running.said().contains("error[WS-EVENTS-039]"), "{}", running.said());
    assert_eq!(cluster.sql(&to, "select count(*) from events"), "100\n");
}

#[test]
fn what_it_does_can_be_read_by_programs() {
    let cluster = cluster();
    let (from, to) = (source(&cluster), destination(&cluster));
    append(&cluster, &from, 1..=50);
    let site = Site::new(&from, &[&to]);
    let mut running = site.start(&["--json", "--log-format", "json", "-v"]);
    running.says("is current, at 50");
    running.signal("-INT");
    assert_eq!(running.ends(), 0);
    let log: Vec<serde_json::Value> =
        running.said().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert!(
        log.iter().all(|line| line["v"] == 0 && line["name"] == "watershed" && line["level"].is_number()),
        "{log:?}"
    );
    let batch = log.iter().find(|line| line["msg"].as_str().is_some_and(|text| text.contains("50 events up to 50")));
    assert_eq!(batch.expect("a line per batch")["level"], 20);
    let out = std::fs::read_to_string(site.folder.path().join("stdout")).expect("written");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().expect("lines")).expect("JSON");
    assert_eq!((&last["schema"], &last["destinations"][0]["position"]), (&1.into(), &50.into()), "{out}");
}

#[test]
fn servers_and_files_mix() {
    let cluster = cluster();
    let (from, near) = (source(&cluster), destination(&cluster));
    append(&cluster, &from, 1..=500);
    let pi = "alter table events disable trigger check_sql_command; \
              update events set event = '{\"pi\": 3.14159265358979323846264338327950288419716939937510}' where id = 7; \
              alter table events enable trigger check_sql_command";
    cluster.sql(&from, pi);
    let site = Site::new(&from, &["sqlite:copy.db", &near]);
    let missing = site.output(&["--dry-run"]);
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains("error[WS-SQLITE-012]") && missing.status.code() == Some(3), "{said}");
    let file = site.folder.path().join("copy.db");
    let made = |role: &str, path: &std::path::Path| {
        let url = format!("sqlite:{}", path.display());
        let arguments = ["events", "init", "--create-database", "--role", role, "--url", &url];
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_watershed")).args(arguments).output();
        assert!(made.expect("the binary starts").status.success());
    };
    made("destination", &file);
    let mut running = site.start(&[]);
    running.says("copy.db is current, at 500");
    equal((&cluster, &from), (&cluster, &near), &running);
    running.signal("-INT");
    assert_eq!(running.ends(), 0, "{}", running.said());
    // What was copied is a copy, for the checks of the next start too.
    let conn = rusqlite::Connection::open(&file).expect("opened");
    let event: String = conn.query_row("select event from events where id = 7", [], |row| row.get(0)).expect("a row");
    assert!(event.contains("3.14159265358979323846264338327950288419716939937510"), "{event}");
    assert_eq!(site.output(&["--dry-run"]).status.code(), Some(0));
    conn.execute("insert into events values (501, '2024-01-01 00:00:00+00', '1')", []).expect("inserted");
    let said = String::from_utf8_lossy(&site.output(&[]).stderr).into_owned();
    assert!(said.contains("error[WS-EVENTS-036]"), "{said}");
    // A file is a source as well.
    let first = site.folder.path().join("first.db");
    made("source", &first);
    let conn = rusqlite::Connection::open(&first).expect("opened");
    conn.execute("insert into events (ts, event) values ('2024-01-01 00:00:00.5+00', '{\"b\":1,\"a\":[1.10]}')", [])
        .expect("inserted");
    let to = destination(&cluster);
    let back = Site::new(&format!("sqlite:{}", first.display()), &[&to]);
    let mut running = back.start(&[]);
    running.says("is current, at 1");
    assert_eq!(cluster.sql(&to, "select event from events"), "{\"a\": [1.10], \"b\": 1}\n");
    running.signal("-INT");
    assert_eq!(running.ends(), 0);
    assert_eq!(back.output(&["--dry-run"]).status.code(), Some(0), "written differently, the same event");
    let twice = Site::new(&format!("sqlite:{}", first.display()), &["sqlite:link.db"]);
    std::os::unix::fs::symlink(&first, twice.folder.path().join("link.db")).expect("linked");
    let said = String::from_utf8_lossy(&twice.output(&["--dry-run"]).stderr).into_owned();
    assert!(said.contains("error[WS-EVENTS-005]"), "{said}");
}
