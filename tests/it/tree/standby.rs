//! A live copy of a node's database in the same process.

use super::site::{Ground, Site, wait};
use std::process::Command;
use watershed::testing::postgres::Cluster;

const SCHEMA: &str = "pragma journal_mode = wal; create table orders (id integer primary key, note text); create table private (id integer primary key);";
const ALL: &str = "select count(*), sum(id), min(note), max(note) from orders";

fn shell(file: &std::path::Path, sql: &str) -> String {
    let output = Command::new("sqlite3").args(["-batch", "-cmd", ".timeout 20000"]).arg(file).arg(sql).output();
    String::from_utf8_lossy(&output.expect("the sqlite3 shell is installed").stdout).into_owned()
}

#[test]
fn a_copy_follows_through_kills_and_shows_itself() {
    let ground = Ground::new();
    let mut site = ground.site("hq", SCHEMA);
    let copy = site.dir.join("copy.db");
    shell(&copy, SCHEMA);
    site.sql("insert into orders select value, 'before' from generate_series(1, 7000); insert into private values (1)");
    let copied = "[copy.standby]\nurl = \"sqlite:copy.db\"\ntables = [\"orders\"]\n";
    site.configure(None, &format!("[send.children]\ntables = [\"*\"]\n{copied}"));
    site.up();
    site.sql("insert into private values (2)");
    for round in 0..6 {
        let first = 10_000 + round * 100;
        site.sql(&format!(
            "insert into orders select value, 'round {round}' from generate_series({first}, {}); update orders set note = 'changed' where id % 6 = {round}; \
             delete from orders where id % 50 = {round}",
            first + 99
        ));
        if round % 2 == 0 {
            site.kill();
            site.up();
        }
    }
    wait("the copy is equal", || shell(&copy, ALL) == site.sql(ALL));
    assert_eq!(shell(&copy, "select count(*) from private").trim(), "0", "what is not listed is not copied");
    wait("the copy is shown", || site.status()["copies"][0]["state"] == "running");
    assert!(site.does(&["status"]).contains("copy      standby: sqlite:"), "{}", site.does(&["status"]));
    let said = super::site::watershed(
        &["diff", &site.url(), &format!("sqlite:{}", copy.display()), "--tables", "orders"],
        None,
    );
    assert_eq!(said.status.code(), Some(0));
}

/// Replication origins are the whole server's: the node's own session and the copy's have different ones. And a session that has
/// made a function for each of many combinations of tables is replaced before they are too many.
#[test]
fn a_copy_on_the_same_server_follows_whatever_tables_its_transactions_combine() {
    let cluster = Cluster::with(&[("wal_level", "logical"), ("max_slot_wal_keep_size", "1GB")]);
    let tables: String = (0..20).map(|n| format!("create table t{n} (id bigint primary key, v int);")).collect();
    let ground = Ground::new();
    let mut site = ground.server_site("hq", &cluster, &tables);
    let copy = cluster.database();
    site.configure(None, &format!("[copy.standby]\nurl = \"{copy}\"\ntables = [\"*\"]\n"));
    site.up();
    let there = |sql: &str| cluster.try_sql(&copy, sql).is_ok_and(|text| text.trim() == site.sql(sql).trim());
    site.sql("insert into t19 values (0, 0)");
    wait("the copy follows", || there("select count(*) from t19"));
    let mut id = 0;
    for (a, b) in (0..20).flat_map(|a| (0..a).map(move |b| (a, b))) {
        id += 1;
        site.sql(&format!(
            "begin; insert into t{a} values ({id}, 1); update t{b} set v = v + 1 where id = {}; commit",
            id - 1
        ));
        let made = cluster.sql(&copy, "select count(*) from pg_proc where proname ~ '^ws_(loop|bulk)'");
        assert!(made.trim().parse::<u32>().is_ok_and(|made| made <= 160), "{made} functions");
    }
    for n in 0..20 {
        let all = format!("select count(*), sum(id), sum(v) from t{n}");
        wait("the copy is equal", || there(&all));
    }
}

/// A server whose commits are long in memory only, where nothing but the copy's own session can notice that it lost them.
#[test]
fn what_a_copys_server_has_lost_comes_again_though_nothing_else_happens() {
    let mut cluster = Cluster::with(&[("wal_writer_delay", "10s"), ("shared_buffers", "16MB")]);
    let url = cluster.database();
    cluster.sql(&url, "create table orders (id bigint primary key, note text)");
    let ground = Ground::new();
    let mut site = ground.site("hq", SCHEMA);
    site.configure(None, &format!("[copy.standby]\nurl = \"{url}\"\ntables = [\"orders\"]\n"));
    site.up();
    wait("the copy follows", || site.status()["copies"][0]["state"] == "running");
    for round in 1..=4 {
        site.sql(&format!("insert into orders values ({round}, 'once')"));
        let there = |cluster: &Cluster| {
            cluster.try_sql(&url, "select max(id) from orders").is_ok_and(|max| max.trim() == round.to_string())
        };
        wait("the row is there", || there(&cluster));
        cluster.kill();
        cluster.restart();
        wait("the row is there again", || there(&cluster));
    }
}

#[test]
fn a_table_that_was_replaced_is_copied_again_and_a_copy_that_is_not_there_holds_up_nobody() {
    let ground = Ground::new();
    let mut site = ground.site("hq", SCHEMA);
    let copy = site.dir.join("copy.db");
    site.sql("insert into orders values (1, 'one')");
    site.configure(None, "[copy.standby]\nurl = \"sqlite:copy.db\"\ntables = [\"orders\"]\n");
    site.up();
    site.wait_ready();
    site.wait_problem("copy standby");
    shell(&copy, SCHEMA);
    wait("the copy is equal", || shell(&copy, ALL) == site.sql(ALL));
    site.sql("drop table orders; create table orders (id integer primary key, note text); insert into orders values (2, 'two')");
    wait("the copy is equal again", || shell(&copy, ALL) == site.sql(ALL));
}

#[test]
fn a_copys_parked_table_is_shown_and_retried_skipped_or_copied_afresh() {
    let ground = Ground::new();
    let mut site = ground.site("hq", SCHEMA);
    let copy = site.dir.join("copy.db");
    shell(
        &copy,
        "pragma journal_mode = wal; create table orders (id integer primary key, note text check (note <> 'bad')); create table private (id integer primary key);",
    );
    site.sql("insert into orders values (1, 'one')");
    site.configure(None, "[copy.standby]\nurl = \"sqlite:copy.db\"\ntables = [\"*\"]\n");
    site.up();
    wait("the copy is equal", || shell(&copy, ALL) == site.sql(ALL));
    site.wait_source("standby/orders", "live");
    site.wait_source("standby", "running");
    let parked = |site: &Site| {
        site.wait_source("standby/orders", "parked");
        site.wait_problem("watershed source retry standby/orders");
        assert!(
            site.source("standby/orders")["error"].to_string().contains("CHECK"),
            "{}",
            site.source("standby/orders")
        );
        assert_eq!(site.source("orders")["state"], "live", "the node's own table is not parked");
    };
    let others = |site: &Site, id: u32| {
        site.sql(&format!("insert into private values ({id})"));
        wait("the other table goes on", || shell(&copy, "select max(id) from private").trim() == id.to_string());
    };
    // Skipped, also after a kill.
    site.sql("insert into orders values (2, 'bad')");
    parked(&site);
    site.sql("insert into orders values (3, 'three')");
    others(&site, 1);
    site.kill();
    site.up();
    parked(&site);
    assert_eq!(site.watershed(&["source", "skip", "standby/orders"]).status.code(), Some(2), "a skip wants --yes");
    site.does(&["source", "skip", "standby/orders", "--yes"]);
    site.wait_source("standby/orders", "live");
    wait("the rest is applied", || shell(&copy, "select group_concat(id) from orders").trim() == "1,3");
    // Retried: first in vain, then with the cause mended.
    site.sql("insert into orders values (4, 'bad')");
    parked(&site);
    site.does(&["source", "retry", "standby/orders"]);
    parked(&site);
    shell(
        &copy,
        "pragma writable_schema = on; update sqlite_schema set sql = 'CREATE TABLE orders (id integer primary key, note text)' where name = 'orders'; create table bump (i); drop table bump;",
    );
    site.does(&["source", "retry", "standby/orders"]);
    site.wait_source("standby/orders", "live");
    wait("what was refused is there", || shell(&copy, "select group_concat(id) from orders").trim() == "1,3,4");
    // Copied afresh: what was skipped is there, too.
    site.does(&["source", "resync", "standby/orders", "--yes"]);
    wait("the copy is equal again", || shell(&copy, ALL) == site.sql(ALL));
    site.wait_source("standby/orders", "live");
    site.does(&["source", "pause", "standby/orders"]);
    site.sql("insert into orders values (9, 'nine')");
    others(&site, 2);
    assert_eq!(shell(&copy, "select count(*) from orders where id = 9").trim(), "0", "a paused table waits");
    site.does(&["source", "resume", "standby/orders"]);
    wait("the copy is equal at the end", || shell(&copy, ALL) == site.sql(ALL));
    for unknown in ["standby/nosuch", "nobody/orders", "standby/"] {
        let refused = site.watershed(&["source", "retry", unknown]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("WS-HTTP-006"), "{unknown}: {said}");
    }
}
