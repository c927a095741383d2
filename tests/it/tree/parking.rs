//! One table's trouble is that table's.

use super::site::{Ground, Site, wait, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal;
create table orders (id integer primary key, note text, extra text);
create table products (id integer primary key, name text);";
const SEND: &str = "[send.parent]\ntables = [\"orders\", \"products\"]\n";

/// north sends `orders` and `products` to hq, whose tables are as given.
fn pair(ground: &Ground, at_hq: &str) -> (Site, Site) {
    let mut hq = ground.site("hq", &format!("pragma journal_mode = wal; {at_hq}"));
    let mut north = ground.site("north", SCHEMA);
    hq.configure(None, "");
    north.configure(Some(hq.port), SEND);
    hq.up();
    north.up();
    (hq, north)
}

const ORDERS: &str = "select id, note, extra from orders order by id";
const PRODUCTS: &str = "select * from products order by id";

#[test]
fn a_table_with_other_columns_parks_alone_and_goes_on_when_mended() {
    let ground = Ground::new();
    let (mut hq, north) = pair(
        &ground,
        "create table orders (id integer primary key, note text); create table products (id integer primary key, name text);",
    );
    north.sql("insert into orders values (1, 'a', 'x'); insert into products values (1, 'p')");
    wait_equal(PRODUCTS, &[&hq, &north]);
    hq.wait_source("orders", "parked");
    let parked = hq.source("orders");
    let error = parked["error"].as_str().expect("an error");
    assert!(error.contains("extra"), "{error}");
    assert!(parked["failed_at"].is_u64(), "{parked}");
    hq.wait_problem("table orders is parked");
    // Also over a crash.
    hq.kill();
    north.sql("insert into orders values (2, 'b', 'y'); insert into products values (2, 'q')");
    hq.up();
    wait_equal(PRODUCTS, &[&hq, &north]);
    hq.wait_source("orders", "parked");
    hq.sql("alter table orders add column extra text");
    hq.does(&["source", "retry", "orders"]);
    wait_equal(ORDERS, &[&hq, &north]);
    hq.wait_source("orders", "live");
}

#[test]
fn a_row_that_a_constraint_refuses_parks_its_table_and_can_be_retried_or_skipped() {
    let ground = Ground::new();
    let (mut hq, north) = pair(
        &ground,
        "create table orders (id integer primary key, note text not null check (note <> 'bad'), extra text);
         create table products (id integer primary key, name text);",
    );
    north.sql("insert into orders values (1, 'a', ''); insert into products values (1, 'p')");
    wait_equal(ORDERS, &[&hq, &north]);
    wait_equal(PRODUCTS, &[&hq, &north]);
    hq.wait_source("orders", "live");
    north.sql("begin; insert into orders values (2, 'bad', ''); insert into products values (2, 'q'); commit");
    wait_equal(PRODUCTS, &[&hq, &north]);
    hq.wait_source("orders", "parked");
    let error = hq.source("orders")["error"].as_str().expect("an error").to_owned();
    assert!(error.contains("CHECK") && error.contains("insert of the row (id=\"2\")"), "{error}");
    assert!(hq.counter("torn") >= 1, "{}", hq.status()["counters"]);
    assert!(hq.get("/metrics").expect("metrics").1.contains("watershed_torn_transactions_total 1"));
    north.sql("insert into orders values (3, 'c', '')");
    // A retry that does not help parks it again, with what comes before the failing entry in place.
    hq.does(&["source", "retry", "orders"]);
    hq.wait_source("orders", "parked");
    hq.kill();
    hq.up();
    hq.wait_source("orders", "parked");
    assert_eq!(hq.sql("select count(*) from orders"), "1\n");
    let refused = hq.watershed(&["source", "skip", "orders"]);
    assert_eq!(refused.status.code(), Some(2), "a skip wants --yes");
    hq.does(&["source", "skip", "orders", "--yes"]);
    wait("the rest is applied", || hq.sql(ORDERS) == "1|a|\n3|c|\n");
    hq.wait_source("orders", "live");
    let diff = hq.watershed(&["diff", &hq.url(), &north.url(), "--tables", "orders"]);
    assert_eq!(diff.status.code(), Some(6));
    north.sql("delete from orders where id = 2");
    wait_equal(ORDERS, &[&hq, &north]);
}

#[test]
fn a_unique_conflict_parks_and_a_resync_copies_afresh() {
    let ground = Ground::new();
    let (hq, north) = pair(
        &ground,
        "create table orders (id integer primary key, note text unique, extra text);
         create table products (id integer primary key, name text);",
    );
    north.sql("insert into orders values (1, 'a', '')");
    wait_equal(ORDERS, &[&hq, &north]);
    hq.wait_source("orders", "live");
    hq.sql("insert into orders values (50, 'b', 'of hq')");
    north.sql("insert into orders values (2, 'b', ''); insert into products values (1, 'p')");
    hq.wait_source("orders", "parked");
    wait_equal(PRODUCTS, &[&hq, &north]);
    hq.sql("delete from orders where id = 50");
    north.sql("insert into orders values (3, 'c', '')");
    hq.does(&["source", "resync", "orders", "--yes"]);
    wait_equal(ORDERS, &[&hq, &north]);
    hq.wait_source("orders", "live");
}

#[test]
fn a_received_table_can_be_paused_resumed_and_copied_afresh_also_over_crashes() {
    let ground = Ground::new();
    let (mut hq, mut north) = pair(&ground, SCHEMA);
    north.sql("insert into orders values (1, 'a', '')");
    wait_equal(ORDERS, &[&hq, &north]);
    hq.wait_source("orders", "live");
    hq.does(&["source", "pause", "orders"]);
    north.sql("insert into orders values (2, 'b', ''); insert into products values (1, 'p')");
    wait_equal(PRODUCTS, &[&hq, &north]);
    assert_eq!(hq.source("orders")["state"], "paused");
    hq.kill();
    hq.up();
    north.sql("insert into products values (2, 'q')");
    wait_equal(PRODUCTS, &[&hq, &north]);
    assert_eq!(hq.source("orders")["state"], "paused");
    assert_eq!(hq.sql("select count(*) from orders"), "1\n");
    hq.does(&["source", "resume", "orders"]);
    wait_equal(ORDERS, &[&hq, &north]);
    hq.wait_source("orders", "live");
    hq.sql("update orders set note = 'wrong'");
    // Its sender is away when the order is given.
    north.stop();
    hq.wait_link("north", "away");
    hq.does(&["source", "resync", "orders", "--yes"]);
    north.up();
    wait_equal(ORDERS, &[&hq, &north]);
    hq.wait_source("orders", "live");
    let unknown = hq.watershed(&["source", "pause", "nosuch"]);
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("nosuch"));
}

#[test]
fn paused_capture_stays_paused_over_a_crash_and_loses_nothing() {
    let ground = Ground::new();
    let (hq, mut north) = pair(&ground, SCHEMA);
    north.sql("insert into orders values (1, 'a', '')");
    wait_equal(ORDERS, &[&hq, &north]);
    north.does(&["source", "pause", "database"]);
    north.sql("insert into orders values (2, 'b', '')");
    north.kill();
    north.up();
    assert_eq!(north.source("database")["state"], "paused");
    assert_eq!(hq.sql("select count(*) from orders"), "1\n");
    north.does(&["source", "resume", "database"]);
    wait_equal(ORDERS, &[&hq, &north]);
    assert_eq!(north.source("database")["state"], "running");
}

#[test]
fn a_paused_peer_stays_away_over_restarts_until_it_is_resumed() {
    let ground = Ground::new();
    let (mut hq, mut north) = pair(&ground, SCHEMA);
    north.sql("insert into orders values (1, 'a', '')");
    wait_equal(ORDERS, &[&hq, &north]);
    for at_child in [false, true] {
        let mut read = north.log().len();
        let (site, peer) = if at_child { (&mut north, "hq") } else { (&mut hq, "north") };
        site.does(&["peer", "pause", peer]);
        site.wait_link(peer, "paused");
        site.kill();
        if at_child {
            read = site.log().len();
        }
        site.up();
        site.wait_link(peer, "paused");
        let linked = hq.counter("links");
        let rows = hq.sql("select count(*) from orders");
        north.sql("insert into orders select max(id) + 1, 'more', '' from orders");
        wait("the child has tried meanwhile", || north.log()[read..].contains("WS-NODE-005"));
        assert_eq!(hq.counter("links"), linked, "no link stands meanwhile");
        assert_eq!(hq.sql("select count(*) from orders"), rows);
        let site = if at_child { &north } else { &hq };
        site.does(&["peer", "resume", peer]);
        wait_equal(ORDERS, &[&hq, &north]);
    }
}

#[test]
fn a_missing_table_is_created_for_its_copy() {
    let ground = Ground::new();
    let (hq, north) = pair(&ground, "create table products (id integer primary key, name text);");
    north.sql("insert into orders values (1, 'a', null); insert into products values (1, 'p')");
    wait_equal(PRODUCTS, &[&hq, &north]);
    wait("orders is there", || hq.try_sql(ORDERS).status.success());
    wait_equal(ORDERS, &[&hq, &north]);
    north.sql("update orders set id = 7, extra = x'00ff'; insert into orders values (2, 3.5, '')");
    wait_equal("select id, note, hex(extra), typeof(note) from orders order by id", &[&hq, &north]);
    assert!(hq.log().contains("table orders was not there and has been created"), "{}", hq.log());
    assert!(hq.sql("select sql from sqlite_schema where name = 'orders'").contains("PRIMARY KEY"));
}

#[test]
fn a_table_whose_sender_does_not_give_it_holds_up_no_other() {
    let ground = Ground::new();
    let (mut hq, mut north) = pair(&ground, SCHEMA);
    north.sql("insert into orders values (1, 'a', ''); insert into products values (1, 'p')");
    wait_equal(ORDERS, &[&hq, &north]);
    wait_equal(PRODUCTS, &[&hq, &north]);
    hq.wait_source("orders", "live");
    north.does(&["source", "pause", "orders"]);
    hq.stop();
    hq.up();
    hq.does(&["source", "resync", "orders", "--yes"]);
    hq.sql("delete from products");
    hq.does(&["source", "resync", "products", "--yes"]);
    wait_equal(PRODUCTS, &[&hq, &north]);
    wait("the reason is shown", || hq.source("orders")["error"].to_string().contains("paused"));
    north.does(&["source", "resume", "orders"]);
    hq.wait_source("orders", "live");
    north.stop();
}
