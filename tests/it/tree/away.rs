//! Copies while a node below is away: its rows belong to it all the same.

use std::time::Instant;

use rusqlite::Connection;

use super::site::{DEADLINE, Ground, Site, wait, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal; create table orders (id integer primary key, site text, note text);";
const OWNERS: &str = "[table.orders]\nowner_by = \"row.site\"\n";
const UP: &str = "[send.parent]\ntables = [\"orders\"]\n";
const DOWN: &str = "[send.children]\ntables = [\"orders\"]\n";
const ORDERS: &str = "select * from orders order by id";
const ALL: &str = "1|hq|a\n2|n1|b\n3|n1|in flight\n";

/// hq ⇄ north ← n1, with an order of hq's and one of n1's everywhere above n1.
fn tree(ground: &Ground) -> [Site; 3] {
    let [mut hq, mut north, mut n1] = ["hq", "north", "n1"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, &format!("{DOWN}{OWNERS}"));
    north.configure(Some(hq.port), &format!("{UP}{OWNERS}"));
    n1.configure(Some(north.port), &format!("{UP}{OWNERS}"));
    hq.sql("insert into orders values (1, 'hq', 'a')");
    n1.sql("insert into orders values (2, 'n1', 'b')");
    for site in [&mut hq, &mut north, &mut n1] {
        site.up();
    }
    for site in [&hq, &north] {
        wait("both orders are there", || ALL.strip_prefix(&site.sql(ORDERS)) == Some("3|n1|in flight\n"));
        site.wait_source("orders", "live");
    }
    [hq, north, n1]
}

/// Nothing can be applied there as long as this is held; chunks can be read.
fn locked(site: &Site) -> Connection {
    let lock = Connection::open(site.database()).expect("the database");
    lock.busy_timeout(DEADLINE).expect("a timeout");
    lock.execute_batch("begin immediate").expect("locked");
    lock
}

#[test]
fn rows_in_flight_from_a_child_that_is_away_survive_a_copy_from_the_parent() {
    let ground = Ground::new();
    let [hq, mut north, mut n1] = tree(&ground);
    north.does(&["peer", "pause", "hq"]);
    north.wait_link("hq", "paused");
    n1.sql("insert into orders values (3, 'n1', 'in flight')");
    wait_equal("select * from orders where site = 'n1' order by id", &[&north, &n1]);
    n1.stop();
    // What was known of n1 outlives the process, too.
    north.stop();
    north.up();
    north.wait_link("n1", "away");
    let lock = locked(&hq);
    north.does(&["source", "resync", "orders", "--yes"]);
    north.wait_source("orders", "copying");
    north.does(&["peer", "resume", "hq"]);
    north.wait_source("orders", "live");
    assert_eq!(north.sql(ORDERS), ALL, "hq has not had the third row yet");
    lock.execute_batch("rollback").expect("unlocked");
    assert_eq!(wait_equal(ORDERS, &[&hq, &north]), ALL);
}

#[test]
fn a_copy_from_a_child_brings_the_rows_of_what_is_below_it_and_away() {
    let ground = Ground::new();
    let [hq, north, mut n1] = tree(&ground);
    n1.stop();
    north.wait_link("n1", "away");
    hq.sql("delete from orders where site = 'n1'");
    heals(&hq, &[&hq, &north]);
}

#[test]
fn rows_of_a_node_that_lives_elsewhere_by_now_are_copied_from_there() {
    let ground = Ground::new();
    let [hq, north, mut n1] = tree(&ground);
    n1.stop();
    n1.sql("insert into orders values (4, 'n1', 'from elsewhere')");
    n1.configure(Some(hq.port), &format!("{UP}{OWNERS}"));
    n1.up();
    // It was not known to be elsewhere when the table was copied from hq; then it is copied again.
    wait("the new order is there", || north.sql(ORDERS).contains("elsewhere"));
    north.sql("delete from orders where site = 'n1'; insert into orders values (5, 'n1', 'nobody wrote this')");
    heals(&north, &[&hq, &north]);
    assert!(north.sql(ORDERS).contains("4|n1|from elsewhere"));
}

#[test]
fn two_nodes_that_copy_a_table_from_each_other_keep_what_a_third_writes_meanwhile() {
    let ground = Ground::new();
    let [hq, north, n1] = tree(&ground);
    hq.sql(
        "with recursive n(i) as (values (1000) union all select i + 1 from n where i < 12000)
         insert into orders select i, 'hq', 'one of many' from n",
    );
    let count = "select count(*), sum(id) from orders";
    wait_equal(count, &[&hq, &north]);
    for id in 10..13 {
        north.does(&["source", "resync", "orders", "--yes"]);
        wait("it is copied from hq", || north.source("orders")["rows"].as_u64() > Some(100));
        n1.sql(&format!("insert into orders values ({id}, 'n1', 'meanwhile')"));
        // It waits in north's lane, and hq has it already.
        wait("hq has it", || hq.sql(&format!("select count(*) from orders where id = {id}")) == "1\n");
        hq.does(&["source", "resync", "orders", "--yes"]);
        for site in [&north, &hq] {
            site.wait_source("orders", "live");
        }
        wait_equal(count, &[&hq, &north]);
    }
    assert_eq!(hq.sql("select count(*) from orders where site = 'n1'"), "4\n");
}

/// `orders` is copied afresh until it is what it should be: what is known of other nodes comes with heartbeats.
fn heals(site: &Site, sites: &[&Site]) {
    let started = Instant::now();
    loop {
        site.does(&["source", "resync", "orders", "--yes"]);
        site.wait_source("orders", "live");
        let rows: Vec<String> = sites.iter().map(|site| site.sql(ORDERS)).collect();
        if rows.iter().all(|found| *found == rows[0]) {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{rows:?}");
    }
}
