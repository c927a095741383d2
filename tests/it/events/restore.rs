//! `watershed events restore`: a source rebuilt from a copy.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use watershed::testing::postgres::Cluster;

use super::tables;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    command.arg("events").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn restore(from: &str, to: &str) -> Output {
    command(&["restore", "--json", "--yes", "--from", from, "--to", to]).output().expect("the binary starts")
}

#[track_caller]
fn restored(from: &str, to: &str) -> Json {
    let output = restore(from, to);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("an object")
}

#[track_caller]
fn refused(from: &str, to: &str, exit: i32, code: &str) {
    let output = restore(from, to);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    assert!(said.contains(code), "{said}");
}

#[track_caller]
fn done(arguments: &[&str]) {
    let output = command(arguments).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A new source, as `events init` makes it.
fn source(cluster: &Cluster, ids: &str) -> String {
    let url = cluster.database();
    done(&["init", "--url", &url, "--role", "source", "--ids", ids]);
    url
}

/// A copy with events, large ones and hostile ones among them.
fn copy(cluster: &Cluster, events: i64) -> String {
    let url = tables::destination(cluster);
    cluster.sql(&url, &tables::events(1..=events));
    let large = "update events set event = jsonb_build_object('t', repeat('O''Neil \\ \"é\" $1[1] $2, ', 500)), \
                 ts = ts + interval '1 microsecond' where id % 700 = 3";
    cluster.sql(&url, large);
    url
}

fn load(url: &str, count: &str) -> Output {
    command(&["load", "--url", url, "--count", count, "--batch", "3"]).output().expect("the binary starts")
}

fn number(cluster: &Cluster, url: &str, sql: &str) -> i64 {
    cluster.sql(url, sql).trim().parse().expect("a number")
}

const ALL: &str = "select md5(string_agg(events::text, ',' order by id)) from events";

#[test]
fn a_source_is_rebuilt_and_goes_on_after_the_last_id() {
    let cluster = tables::cluster();
    let from = copy(&cluster, 3_000);
    for ids in ["table", "sequence"] {
        let to = source(&cluster, ids);
        let answer = restored(&from, &to);
        assert_eq!((&answer["copied"], &answer["next_id"]), (&3000.into(), &3001.into()), "{ids}");
        assert_eq!(cluster.sql(&to, ALL), cluster.sql(&from, ALL));
        assert_eq!(load(&to, "3").status.code(), Some(0));
        assert_eq!(number(&cluster, &to, "select max(id) from events"), 3003);
        if ids == "sequence" {
            let entered = "select count(*) from events e join event_transactions t on t.id = e.id";
            assert_eq!(number(&cluster, &to, entered), 3003, "readers find what was restored");
        }
        refused(&from, &to, 5, "WS-EVENTS-154");
    }
}

#[test]
fn what_is_there_already_is_kept_if_it_is_the_beginning_and_run_again_it_changes_nothing() {
    let cluster = tables::cluster();
    let (from, to) = (copy(&cluster, 2_000), source(&cluster, "table"));
    let half = tables::destination(&cluster);
    cluster.sql(&half, &tables::events(1..=500));
    cluster.sql(&from, &format!("truncate events; {}", tables::events(1..=2000)));
    assert_eq!(restored(&half, &to)["next_id"], 501);
    assert_eq!(restored(&from, &to)["copied"], 1500);
    let again = restored(&from, &to);
    assert_eq!((&again["copied"], &again["next_id"]), (&0.into(), &2001.into()));
    let other = source(&cluster, "table");
    cluster.sql(&other, "insert into events values (1, now(), '{}'); update id set id = 2");
    refused(&from, &other, 5, "WS-EVENTS-155");
    assert_eq!(number(&cluster, &other, "select count(*) from events"), 1);
}

#[test]
fn files_and_servers_restore_each_other() {
    let (cluster, folder) = (tables::cluster(), tempfile::tempdir().expect("a folder"));
    let (from, file) = (copy(&cluster, 1_500), format!("sqlite:{}", folder.path().join("s.db").display()));
    done(&["init", "--url", &file, "--role", "source", "--create-database"]);
    assert_eq!(restored(&from, &file)["next_id"], 1501);
    assert_eq!(load(&file, "9").status.code(), Some(0));
    let back = source(&cluster, "table");
    assert_eq!(restored(&file, &back)["next_id"], 1510);
    done(&["diff", &file, &back, "--all"]);
    assert_eq!(restored(&file, &back)["copied"], 0);
}

/// Held by a test, so that a restore waits in the middle.
const HOLD: &str = "create function hold() returns trigger language plpgsql as $$ begin \
        if new.id = 1800 then perform pg_advisory_xact_lock(42); end if; return new; end $$; \
     create trigger hold before insert on events for each row execute function hold();";

#[test]
fn a_restore_that_is_killed_left_nothing_and_nobody_appends_while_it_runs() {
    let cluster = tables::cluster();
    let (from, to) = (copy(&cluster, 2_000), source(&cluster, "table"));
    cluster.sql(&to, HOLD);
    // Whoever asks waits until this session ends.
    let holder = ["psql", "-XAtqc", "select pg_advisory_lock(42), pg_sleep(600)", &to];
    let mut holder = Command::new(holder[0]).args(&holder[1..]).stdout(Stdio::null()).spawn().expect("psql starts");
    let wait = |sql: &str| {
        let deadline = Instant::now() + Duration::from_secs(180);
        while number(&cluster, &to, sql) == 0 {
            assert!(Instant::now() < deadline, "waited for {sql}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait("select count(*) from pg_locks where locktype = 'advisory' and objid = 42 and granted");
    let mut killed = command(&["restore", "--yes", "--from", &from, "--to", &to]).spawn().expect("the binary starts");
    wait("select count(*) from pg_locks where locktype = 'advisory' and objid = 42 and not granted");
    assert_eq!(number(&cluster, &to, "select count(*) from events"), 0, "nobody sees a part");
    let append = "set lock_timeout = 200; select insert_events('($1[1], $2, ''{}'')')";
    assert!(cluster.try_sql(&to, append).is_err_and(|error| error.contains("lock timeout")));
    killed.kill().expect("killed");
    killed.wait().expect("it ended");
    holder.kill().expect("killed");
    holder.wait().expect("it ended");
    let ended =
        "select pg_terminate_backend(pid)::int from pg_stat_activity where query like 'select pg_advisory_lock%'";
    cluster.sql(&to, ended);
    wait("select (count(*) = 0)::int from pg_locks where locktype = 'advisory' and objid = 42");
    assert_eq!(number(&cluster, &to, "select count(*) from events"), 0, "nothing is left");
    cluster.sql(&to, "drop trigger hold on events");
    assert_eq!(restored(&from, &to)["next_id"], 2001);
    assert_eq!(cluster.sql(&to, ALL), cluster.sql(&from, ALL));
}

#[test]
fn a_filled_source_that_was_not_verified_gives_no_id_twice() {
    let cluster = tables::cluster();
    let (from, to) = (copy(&cluster, 300), source(&cluster, "table"));
    // As a kill between the copy's commit and the next id leaves it.
    cluster.sql(&to, &format!("{}; update id set id = 1", tables::events(1..=300)));
    cluster.sql(&from, &format!("truncate events; {}", tables::events(1..=300)));
    let output = load(&to, "3");
    assert_ne!(output.status.code(), Some(0), "appending fails");
    assert_eq!(number(&cluster, &to, "select count(*) from events"), 300);
    assert_eq!(restored(&from, &to)["next_id"], 301);
    assert_eq!(load(&to, "3").status.code(), Some(0));
}

#[test]
fn a_row_trigger_that_notifies_with_the_event_does_not_stand_in_the_way() {
    let cluster = tables::cluster();
    let (from, to) = (copy(&cluster, 100), source(&cluster, "table"));
    let by_row = "create or replace function notify_event_insert() returns trigger language plpgsql as $$ begin \
            perform pg_notify('eventsinsert', json_build_object('event', new.event)::text); return new; end $$; \
        drop trigger notify_insert on events; \
        create trigger notify_insert after insert on events for each row execute function notify_event_insert();";
    cluster.sql(&to, by_row);
    assert_eq!(restored(&from, &to)["next_id"], 101);
    let enabled = "select count(*) from pg_trigger where tgname = 'notify_insert' and tgenabled = 'O'";
    assert_eq!(number(&cluster, &to, enabled), 1);
}

#[test]
fn what_cannot_be_restored_is_refused_and_left_as_it_was() {
    let cluster = tables::cluster();
    let (from, to) = (copy(&cluster, 50), source(&cluster, "table"));
    refused(&to, &to, 3, "WS-EVENTS-150");
    refused(&from, &tables::destination(&cluster), 3, "WS-EVENTS-151");
    refused(&tables::destination(&cluster), &to, 5, "WS-EVENTS-152");
    refused(&from, "postgres://x@127.0.0.1:1/y", 4, "WS-PG-002");
    cluster.sql(&to, "update id set id = 9");
    refused(&from, &to, 5, "WS-PG-031");
    cluster.sql(&to, "update id set id = 1");
    cluster.sql(&from, "delete from events where id = 20");
    refused(&from, &to, 5, "WS-EVENTS-153");
    let unasked = command(&["restore", "--from", &from, "--to", &to]).output().expect("the binary starts");
    assert_eq!(unasked.status.code(), Some(2), "without a terminal --yes is needed");
    assert_eq!(number(&cluster, &to, "select count(*) + max(id.id) from id left join events on true"), 2);
    assert_eq!(restored(&from, &source(&cluster, "sequence"))["next_id"], 51, "a sequence has gaps");
}

#[test]
fn events_that_the_source_does_not_take_are_refused_and_nothing_is_left() {
    let (cluster, folder) = (tables::cluster(), tempfile::tempdir().expect("a folder"));
    let to = source(&cluster, "table");
    for (file, event) in [("nul.db", r#"{"a":"\u0000"}"#), ("bad.db", "{"), ("huge.db", "1e999999999")] {
        let path = folder.path().join(file);
        let conn = tables::sqlite(&path, false);
        let insert = "insert into events values (?1, '2024-01-01 00:00:00+00', ?2)";
        conn.execute(insert, (1, "{}")).expect("inserted");
        conn.execute(insert, (2, event)).expect("inserted");
        refused(&format!("sqlite:{}", path.display()), &to, 1, "WS-PG-008");
        assert_eq!(number(&cluster, &to, "select count(*) + max(id.id) from id left join events on true"), 2, "{file}");
    }
}

#[test]
fn a_copy_that_is_written_to_meanwhile_is_compared_up_to_its_end_and_not_restored_from() {
    let cluster = tables::cluster();
    let (live, to) = (source(&cluster, "table"), source(&cluster, "table"));
    assert_eq!(load(&live, "50").status.code(), Some(0));
    assert_eq!(restored(&live, &to)["next_id"], 51);
    let mut loader =
        command(&["load", "--url", &live, "--forever", "--rate", "500"]).spawn().expect("the binary starts");
    let deadline = Instant::now() + Duration::from_secs(180);
    while number(&cluster, &live, "select count(*) from events") < 100 {
        assert!(Instant::now() < deadline, "the loader does not load");
        std::thread::sleep(Duration::from_millis(10));
    }
    done(&["diff", &live, &to, "--validate-tables"]);
    let ended = Command::new("kill").args(["-TERM", &loader.id().to_string()]).status();
    assert!(ended.expect("kill is there").success());
    assert_eq!(loader.wait().expect("it ends").code(), Some(0));
    restored(&live, &to);
    done(&["diff", &live, &to, "--all", "--validate-tables"]);
}
