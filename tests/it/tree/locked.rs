//! A database that somebody else holds locked.

use rusqlite::Connection;

use super::site::{DEADLINE, Ground, Site, wait, wait_equal};

const ORDERS: &str = "select * from orders order by id";

fn schema(journal: &str) -> String {
    format!("pragma journal_mode = {journal}; create table orders (id integer primary key, note text);")
}

fn lock(site: &Site) -> Connection {
    let lock = Connection::open(site.database()).expect("the database");
    lock.busy_timeout(DEADLINE).expect("a timeout");
    lock.execute_batch("begin exclusive").expect("locked");
    lock
}

/// Starts with a locked database; waits until the node says so.
fn start_locked(site: &mut Site) -> Connection {
    let lock = lock(site);
    site.start();
    site.wait_log("WS-NODE-022");
    lock
}

fn waits_for_a_locked_database_at_start(journal: &str) {
    let ground = Ground::new();
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, &schema(journal)));
    hq.configure(None, "");
    north.configure(Some(hq.port), "[send.parent]\ntables = [\"orders\"]\n");
    hq.up();
    north.sql("insert into orders values (1, 'a')");
    let lock = start_locked(&mut north);
    assert_eq!(north.get("/healthz").map(|(code, _)| code), Some(200));
    let (code, body) = north.get("/readyz").expect("an answer");
    assert_eq!(code, 503);
    assert!(body.contains("waits for its database"), "{body}");
    let (code, body) = north.get("/v1/status").expect("an answer");
    assert!(code == 503 && body.contains("WS-HTTP-014"), "{body}");
    assert_eq!(north.stop(), Some(0), "a signal ends it while it waits: {}", north.log());
    north.start();
    wait("it waits again", || north.log().matches("WS-NODE-022").count() >= 2);
    lock.execute_batch("rollback").expect("unlocked");
    north.wait_ready();
    wait_equal(ORDERS, &[&hq, &north]);
}

#[test]
fn a_node_waits_for_a_locked_database_at_start_and_stops_on_a_signal() {
    waits_for_a_locked_database_at_start("wal");
}

#[test]
fn a_node_waits_for_a_locked_database_at_start_with_a_rollback_journal() {
    waits_for_a_locked_database_at_start("delete");
}
