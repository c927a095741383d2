//! Backups put back and folders copied: noticed, and what the messages say to do makes the tree converge again.

use std::fs;

use super::decisions::{ORDERS, copy, pair, problem, swap};
use super::site::{Ground, Site, wait, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal; create table orders (id integer primary key, note text);";
const OWNED: &str = "[table.orders]\nowner = \"north\"\n";

/// A child that owns `orders` and sends them to its parent.
fn owned_pair(ground: &Ground) -> (Site, Site) {
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, OWNED);
    north.configure(Some(hq.port), &format!("[send.parent]\ntables = [\"orders\"]\n{OWNED}"));
    hq.up();
    north.up();
    (hq, north)
}

fn drop_source(site: &Site, name: &str) {
    let dropped = site.watershed(&["source", "drop", name, "--yes"]);
    assert!(dropped.status.success(), "{}", String::from_utf8_lossy(&dropped.stderr));
}

fn quiet(sites: &[&Site]) {
    for site in sites {
        wait(&format!("{} has no problem", site.name), || {
            site.status()["problems"].as_array().is_some_and(Vec::is_empty)
        });
    }
}

/// A node whose data folder was moved away begins a new log, once its database has been dropped.
fn begin_again(site: &mut Site) {
    fs::rename(site.data(), site.dir.join("moved")).expect("moved");
    site.start();
    assert_eq!(site.ended(), Some(5), "{}", site.log());
    assert!(site.log().contains("WS-NODE-012"), "{}", site.log());
    drop_source(site, "database");
    site.up();
}

#[test]
fn a_copied_node_beside_the_original_is_refused_and_may_become_a_node_of_its_own() {
    let ground = Ground::new();
    let (hq, mut north) = pair(&ground);
    north.sql("insert into orders values (1, 'a')");
    wait_equal(ORDERS, &[&hq, &north]);
    north.stop();
    let mut twin = ground.site("twin", SCHEMA);
    swap(&north.dir, &twin.dir);
    north.up();
    wait("the original is linked", || north.status()["links"][0]["state"] == "connected");
    twin.name = "north".into();
    twin.configure(Some(hq.port), "[send.parent]\ntables = [\"orders\"]\n");
    twin.up();
    problem(&hq, "WS-NODE-020");
    problem(&twin, "WS-NODE-020");
    twin.sql("insert into orders values (2, 'of the copy')");
    north.sql("insert into orders values (2, 'of the original')");
    wait_equal(ORDERS, &[&hq, &north]);
    assert_eq!(north.status()["links"][0]["state"], "connected", "the original keeps its link");
    twin.stop();
    twin.name = "twin".into();
    twin.configure(Some(hq.port), "[send.parent]\ntables = [\"orders\"]\n");
    fs::rename(twin.data(), twin.dir.join("moved")).expect("moved");
    drop_source(&twin, "database");
    twin.up();
    twin.sql("insert into orders values (3, 'of the node that was a copy')");
    wait("it is a node of its own", || hq.sql(ORDERS).contains("3|of the node that was a copy"));
}

#[test]
fn a_node_restored_from_yesterday_and_written_to_is_refused_and_converges_as_advised() {
    let ground = Ground::new();
    let (hq, mut north) = owned_pair(&ground);
    north.sql("insert into orders values (1, 'a')");
    wait_equal(ORDERS, &[&hq, &north]);
    north.stop();
    let backup = ground.path().join("backup");
    copy(&north.dir, &backup);
    north.up();
    north.sql("insert into orders values (2, 'lost')");
    wait_equal(ORDERS, &[&hq, &north]);
    north.stop();
    swap(&backup, &north.dir);
    north.sql("insert into orders values (3, 'forked')");
    north.up();
    problem(&hq, "WS-NODE-003");
    problem(&north, "WS-NODE-003");
    assert_eq!(hq.sql(ORDERS), "1|a\n2|lost\n", "nothing is merged");
    north.stop();
    drop_source(&hq, "north");
    begin_again(&mut north);
    assert_eq!(wait_equal(ORDERS, &[&hq, &north]), "1|a\n3|forked\n");
    quiet(&[&hq, &north]);
}

#[test]
fn a_parent_restored_from_yesterday_is_refused_and_converges_as_advised() {
    let ground = Ground::new();
    let schema = format!("{SCHEMA} create table products (id integer primary key, name text);");
    let owners = format!("{OWNED}[table.products]\nowner = \"hq\"\n");
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, &schema));
    hq.configure(None, &format!("[send.children]\ntables = [\"products\"]\n{owners}"));
    north.configure(Some(hq.port), &format!("[send.parent]\ntables = [\"orders\"]\n{owners}"));
    hq.up();
    north.up();
    let products = "select * from products order by id";
    hq.sql("insert into products values (1, 'a')");
    wait_equal(products, &[&hq, &north]);
    hq.stop();
    let backup = ground.path().join("backup");
    copy(&hq.dir, &backup);
    hq.up();
    hq.sql("insert into products values (2, 'lost')");
    north.sql("insert into orders values (1, 'since')");
    wait_equal(products, &[&hq, &north]);
    wait_equal(ORDERS, &[&hq, &north]);
    hq.stop();
    swap(&backup, &hq.dir);
    hq.up();
    problem(&hq, "WS-NODE-003");
    problem(&north, "WS-NODE-003");
    hq.stop();
    drop_source(&north, "hq");
    begin_again(&mut hq);
    assert_eq!(wait_equal(products, &[&hq, &north]), "1|a\n");
    assert_eq!(wait_equal(ORDERS, &[&hq, &north]), "1|since\n");
    quiet(&[&hq, &north]);
}

#[test]
fn a_database_replaced_under_a_running_node_is_neither_captured_nor_written() {
    let ground = Ground::new();
    let (hq, mut north) = owned_pair(&ground);
    north.sql("insert into orders values (1, 'a'); pragma wal_checkpoint(truncate)");
    wait_equal(ORDERS, &[&hq, &north]);
    let backup = north.dir.join("backup.db");
    north.sql("pragma wal_checkpoint(truncate)");
    copy(&north.database(), &backup);
    north.sql("insert into orders values (2, 'lost')");
    wait_equal(ORDERS, &[&hq, &north]);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(north.dir.join(format!("shop.db{suffix}")));
    }
    fs::rename(&backup, north.database()).expect("replaced");
    problem(&north, "source drop database");
    wait("nothing is applied to a file that has gone", || north.status()["database"]["apply"] == "stopped");
    north.sql("insert into orders values (2, 'forked'), (3, 'more')");
    assert_eq!(hq.sql(ORDERS), "1|a\n2|lost\n", "nothing is merged");
    north.stop();
    drop_source(&north, "database");
    north.up();
    wait("hq has what north has", || hq.sql(ORDERS) == "1|a\n2|forked\n3|more\n");
    quiet(&[&hq, &north]);
}

#[test]
fn a_garbled_list_of_peers_keeps_the_node_from_starting() {
    let ground = Ground::new();
    let (hq, mut north) = pair(&ground);
    north.sql("insert into orders values (1, 'a')");
    wait_equal(ORDERS, &[&hq, &north]);
    north.stop();
    for garbage in ["", "{garb", "\u{0}\u{1}"] {
        fs::write(north.data().join("peers.json"), garbage).expect("written");
        north.start();
        assert_eq!(north.ended(), Some(5), "{}", north.log());
    }
    assert!(north.log().contains("WS-NODE-021"), "{}", north.log());
    fs::remove_file(north.data().join("peers.json")).expect("removed");
    north.up();
    north.sql("insert into orders values (2, 'b')");
    wait_equal(ORDERS, &[&hq, &north]);
    quiet(&[&hq, &north]);
}
