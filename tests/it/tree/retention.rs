//! The log has a budget; who falls out of it copies afresh.

use super::site::{Ground, Site, wait, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal; create table blobs (id integer primary key, v text);";
/// Short, and different for whatever differs.
const ALL: &str =
    "select count(*), sum(id), sum(length(v)), sum(id * unicode(substr(v, 1, 1)) * unicode(substr(v, -1))) from blobs";

fn write(site: &Site, from: u32, rows: u32) {
    for start in (from..from + rows).step_by(50) {
        site.sql(&format!(
            "with recursive n(i) as (values ({start}) union all select i + 1 from n where i < {start} + 49)
             insert into blobs select i, hex(randomblob(1000)) from n"
        ));
    }
}

fn pair(ground: &Ground, log: &str, log_at_north: &str) -> (Site, Site) {
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, &format!("[send.children]\ntables = [\"blobs\"]\n[table.blobs]\nowner = \"hq\"\n{log}"));
    north.configure(Some(hq.port), &format!("[table.blobs]\nowner = \"hq\"\n{log_at_north}"));
    hq.up();
    north.up();
    (hq, north)
}

fn log_ls(site: &Site) -> serde_json::Value {
    let text = site.does(&["log", "ls", "--json"]);
    let logs: serde_json::Value = serde_json::from_str(text.lines().next().unwrap_or_default()).expect("JSON");
    logs["logs"][0].clone()
}

#[test]
fn a_child_that_falls_out_is_told_so_and_copies_afresh_by_itself() {
    let ground = Ground::new();
    let (hq, mut north) = pair(&ground, "[log.main]\nretain = { bytes = \"1MiB\" }\n", "");
    write(&hq, 1, 50);
    wait_equal(ALL, &[&hq, &north]);
    north.stop();
    write(&hq, 1_000, 2_000);
    hq.sql("delete from blobs where id < 20; update blobs set v = 'changed' where id = 30");
    wait("the log keeps its budget", || {
        let log = log_ls(&hq);
        log["oldest"].as_u64() > Some(2) && log["bytes"].as_u64() < Some(2 << 20)
    });
    let log = log_ls(&hq);
    let pinned = log["pins"].as_array().is_some_and(|pins| pins.iter().any(|pin| pin["who"] == "child north"));
    assert!(pinned && log["tail"].as_u64() > log["oldest"].as_u64(), "{log}");
    north.up();
    wait_equal(ALL, &[&hq, &north]);
    hq.wait_log("north fell out of the log");
    north.wait_log("no longer reaches back");
    assert_eq!((hq.counter("fell_out"), north.counter("fell_out")), (1, 1));
    north.wait_source("blobs", "live");
    hq.sql("insert into blobs values (7, 'after')");
    wait_equal(ALL, &[&hq, &north]);
}

#[test]
fn what_a_child_needs_is_kept_and_what_nobody_needs_goes() {
    let ground = Ground::new();
    let (hq, mut north) = pair(&ground, "[log.main]\nretain = { time = \"0.5s\", bytes = \"1MiB\" }\n", "");
    write(&hq, 1, 50);
    wait_equal(ALL, &[&hq, &north]);
    north.stop();
    write(&hq, 1_000, 150);
    let needed = log_ls(&hq)["pins"].as_array().and_then(|pins| pins[0]["position"].as_u64()).expect("a pin");
    wait("retention has looked", || hq.status()["log"]["oldest"].as_u64() > Some(0));
    assert!(log_ls(&hq)["oldest"].as_u64() <= Some(needed + 1), "{}", log_ls(&hq));
    north.up();
    wait_equal(ALL, &[&hq, &north]);
    assert_eq!(hq.counter("fell_out"), 0);
    write(&hq, 5_000, 150);
    wait("what nobody needs goes", || log_ls(&hq)["oldest"].as_u64() > Some(needed + 1));
}

/// North's database is locked while hq writes more than north's log keeps.
fn fall_out(hq: &Site, north: &Site) {
    let lock = rusqlite::Connection::open(north.database()).expect("the database");
    lock.busy_timeout(super::site::DEADLINE).expect("a timeout");
    lock.execute_batch("begin immediate").expect("locked");
    let applied = north.status()["database"]["applied"].as_u64().expect("a position");
    write(hq, 10_000, 2_000);
    hq.sql("delete from blobs where id < 20; update blobs set v = 'changed' where id = 30");
    wait("north's log is trimmed past its database", || north.status()["log"]["oldest"].as_u64() > Some(applied + 1));
    lock.execute_batch("rollback").expect("unlocked");
}

#[test]
fn a_database_that_falls_out_of_its_own_log_is_told_so_and_copies_afresh_by_itself() {
    let ground = Ground::new();
    let (hq, north) = pair(&ground, "", "[log.main]\nretain = { bytes = \"1MiB\" }\n");
    write(&hq, 1, 50);
    wait_equal(ALL, &[&hq, &north]);
    fall_out(&hq, &north);
    north.wait_log("WS-APPLY-005");
    wait_equal(ALL, &[&hq, &north]);
    assert!(!north.log().contains("WS-APPLY-001"), "{}", north.log());
    north.wait_source("blobs", "live");
    hq.sql("insert into blobs values (7, 'after')");
    wait_equal(ALL, &[&hq, &north]);
    // What is missing in a table that was paused meanwhile is told when it goes on, and the advice helps.
    north.does(&["source", "pause", "blobs"]);
    write(&hq, 20_000, 2_000);
    wait("the table's place is trimmed", || {
        let log = north.status()["log"].clone();
        log["oldest"].as_u64() > log["pins"][0]["position"].as_u64().map(|after| after + 1)
    });
    north.does(&["source", "resume", "blobs"]);
    north.wait_source("blobs", "parked");
    north.wait_log("WS-APPLY-004");
    north.does(&["source", "resync", "blobs", "--yes"]);
    wait_equal(ALL, &[&hq, &north]);
    north.wait_source("blobs", "live");
}
