//! PostgreSQL in the tree, on servers of our own, beside SQLite.

use std::sync::LazyLock;

use super::site::{Ground, Site, wait, wait_equal};
use watershed::testing::postgres::Cluster;

pub static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    Cluster::with(&[
        ("wal_level", "logical"),
        ("max_slot_wal_keep_size", "1GB"),
        ("max_replication_slots", "400"),
        ("max_wal_senders", "100"),
        ("max_connections", "300"),
        ("max_prepared_transactions", "20"),
    ])
});

pub const SERVER: &str = "create table orders (id bigint primary key, site text, amount numeric(12,2), note text); \
     create table marks (id integer primary key, done boolean, at timestamptz, raw bytea);";
const FILE: &str = "pragma journal_mode = wal; create table orders (id bigint primary key, site text, amount numeric(12,2), note text); \
     create table marks (id integer primary key, done boolean, at timestamptz, raw bytea);";
pub const OWNED: &str = "[table.orders]\nowner_by = \"row.site\"\n";
pub const ORDERS: &str = "select id, site, note from orders order by id";

pub fn sends(to: &str, tables: &str) -> String {
    format!("[send.{to}]\ntables = [{tables}]\n")
}

/// Waits until `watershed diff` finds nothing.
pub fn wait_same(a: &Site, b: &Site) {
    let mut said = String::new();
    wait(&format!("{} and {} are equal", a.name, b.name), || {
        let output = super::site::watershed(&["diff", &a.url(), &b.url(), "--tables", "orders,marks"], None);
        said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        output.status.code() == Some(0)
    });
}

#[test]
fn a_server_is_copied_and_followed_by_a_server_and_a_file() {
    let ground = Ground::new();
    let mut root = ground.server_site("root", &CLUSTER, SERVER);
    let mut copy = ground.server_site("copy", &CLUSTER, SERVER);
    let mut file = ground.site("file", FILE);
    root.sql(
        "insert into orders select n, 'root', n / 100.0, 'note ' || n from generate_series(1, 5000) n; \
              insert into marks values (1, true, '2024-02-29 12:00:00.000001+00', '\\x00ff'), (2, null, null, null)",
    );
    root.configure(None, &sends("children", "\"orders\", \"marks\""));
    copy.configure(Some(root.port), "");
    file.configure(Some(root.port), "");
    root.up();
    copy.up();
    file.up();
    root.wait_ready();
    copy.wait_ready();
    file.wait_ready();
    root.sql("begin; update orders set note = 'changed' where id % 10 = 0; delete from orders where id % 7 = 0; \
              insert into orders values (10000, 'root', 0.10, 'ä ''quoted'' \\ '); commit; update marks set done = false where id = 2");
    wait_equal(ORDERS, &[&root, &copy, &file]);
    wait_same(&root, &copy);
    wait_same(&root, &file);
    root.sql("truncate marks; insert into marks values (3, true, 'infinity', '')");
    wait_equal("select count(*), max(id) from marks", &[&root, &copy, &file]);
}

#[test]
fn changes_go_both_ways_through_a_node_that_is_only_a_log() {
    let ground = Ground::new();
    let mut root = ground.server_site("root", &CLUSTER, SERVER);
    let mut middle = ground.log_site("middle");
    let mut leaf = ground.server_site("leaf", &CLUSTER, SERVER);
    let mut file = ground.site("file", FILE);
    let both = |own: &str| sends("parent", own) + &sends("children", "\"orders\"") + OWNED;
    root.configure(None, &(sends("children", "\"orders\"") + OWNED));
    middle.configure(Some(root.port), &both("\"orders\""));
    leaf.configure(Some(middle.port), &(sends("parent", "\"orders\"") + OWNED));
    file.configure(Some(root.port), &(sends("parent", "\"orders\"") + OWNED));
    // By a key alone nobody could tell whose row is deleted.
    root.sql("alter table orders replica identity full");
    leaf.sql("alter table orders replica identity full");
    for site in [&mut root, &mut middle, &mut leaf, &mut file] {
        site.up();
    }
    for (n, site) in [&root, &leaf, &file].into_iter().enumerate() {
        site.wait_ready();
        let first = n * 1000;
        for k in 0..20 {
            site.sql(&format!("insert into orders values ({}, '{}', {k}.5, 'one')", first + k, site.name));
        }
        site.sql(&format!(
            "update orders set note = 'two' where id = {first}; delete from orders where id = {}",
            first + 1
        ));
    }
    wait("all rows are at the root", || root.sql("select count(*) from orders").trim() == "57");
    wait_equal(ORDERS, &[&root, &leaf, &file]);
    // Nobody got their own rows back, and applied rows are not captured again.
    for site in [&root, &leaf, &file] {
        assert!(site.counter("captured") <= 22, "{} captured what it had received", site.name);
    }
}

#[test]
fn a_server_and_its_node_are_killed_and_nothing_is_lost() {
    let ground = Ground::new();
    let settings = [("wal_level", "logical"), ("max_slot_wal_keep_size", "1GB")];
    let mut above = Cluster::with(&settings);
    let mut below = Cluster::with(&settings);
    let mut root = ground.server_site("root", &above, SERVER);
    let mut leaf = ground.server_site("leaf", &below, SERVER);
    root.configure(None, &sends("children", "\"orders\""));
    leaf.configure(Some(root.port), "");
    root.up();
    leaf.up();
    leaf.wait_ready();
    for round in 0..8 {
        let first = round * 1000;
        root.sql(&format!(
            "insert into orders select n, 'root', n, 'round' from generate_series({}, {}) n; update orders set amount = amount + 1",
            first + 1,
            first + 1000
        ));
        match round % 4 {
            0 => {
                root.kill();
                root.up();
            }
            1 => {
                leaf.kill();
                leaf.up();
            }
            2 => {
                above.kill();
                above.restart();
            }
            _ => {
                below.kill();
                below.restart();
            }
        }
    }
    let all = "select count(*), sum(amount), min(note), max(id) from orders";
    wait_equal(all, &[&root, &leaf]);
    wait_same(&root, &leaf);
}
