//! What an operator must decide is noticed, explained, and nothing is merged by mistake.

use std::fs;
use std::path::Path;

use super::site::{Ground, Site, wait, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal; create table orders (id integer primary key, note text);";

/// A child that sends `orders` to its parent.
pub fn pair(ground: &Ground) -> (Site, Site) {
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, "");
    north.configure(Some(hq.port), "[send.parent]\ntables = [\"orders\"]\n");
    hq.up();
    north.up();
    (hq, north)
}

pub fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).expect("a copy");
    }
}

pub fn swap(from: &Path, to: &Path) {
    if to.is_dir() {
        fs::remove_dir_all(to).expect("removed");
    }
    copy(from, to);
}

pub const ORDERS: &str = "select * from orders order by id";

pub fn problem(site: &Site, text: &str) {
    wait(&format!("{} says {text:?}", site.name), || site.status()["problems"].to_string().contains(text));
}

#[test]
fn a_node_recreated_under_its_old_name_is_refused_until_the_operator_drops_the_old_one() {
    let ground = Ground::new();
    let (hq, mut north) = pair(&ground);
    north.sql("insert into orders values (1, 'a'), (2, 'b')");
    wait_equal(ORDERS, &[&hq, &north]);
    north.stop();
    fs::remove_dir_all(north.data()).expect("removed");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(north.dir.join(format!("shop.db{suffix}")));
    }
    north.sql(&format!("{SCHEMA} insert into orders values (1, 'other');"));
    north.up();
    problem(&hq, "WS-NODE-002");
    assert!(hq.sql(ORDERS).contains("1|a"), "nothing is merged");
    let dropped = hq.watershed(&["source", "drop", "north", "--yes"]);
    assert!(dropped.status.success(), "{}", String::from_utf8_lossy(&dropped.stderr));
    wait("the new one is copied", || hq.sql("select note from orders where id = 1") == "other\n");
}

#[test]
fn a_data_folder_restored_from_yesterday_is_refused() {
    let ground = Ground::new();
    let (hq, mut north) = pair(&ground);
    north.sql("insert into orders values (1, 'a')");
    wait_equal(ORDERS, &[&hq, &north]);
    north.stop();
    let backup = ground.path().join("backup");
    copy(&north.data(), &backup);
    north.up();
    north.sql("insert into orders values (2, 'b')");
    wait_equal(ORDERS, &[&hq, &north]);
    north.stop();
    swap(&backup, &north.data());
    north.start();
    assert_eq!(north.ended(), Some(5), "{}", north.log());
    assert!(north.log().contains("do:"), "{}", north.log());
}

#[test]
fn a_database_file_restored_from_yesterday_is_refused() {
    let ground = Ground::new();
    let (hq, mut north) = pair(&ground);
    north.sql("insert into orders values (1, 'a')");
    wait_equal(ORDERS, &[&hq, &north]);
    north.stop();
    north.sql("pragma wal_checkpoint(truncate)");
    let backup = ground.path().join("backup.db");
    copy(&north.database(), &backup);
    north.up();
    for id in 2..6 {
        north.sql(&format!("insert into orders values ({id}, 'b')"));
    }
    wait_equal(ORDERS, &[&hq, &north]);
    north.stop();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(north.dir.join(format!("shop.db{suffix}")));
    }
    swap(&backup, &north.database());
    north.start();
    assert_eq!(north.ended(), Some(5), "{}", north.log());
    assert!(north.log().contains("WS-NODE-012"), "{}", north.log());
    let dropped = north.watershed(&["source", "drop", "database", "--yes"]);
    assert!(dropped.status.success(), "{}", String::from_utf8_lossy(&dropped.stderr));
    north.up();
    north.sql("insert into orders values (9, 'after')");
    wait("goes on", || hq.sql("select note from orders where id = 9") == "after\n");
}

#[test]
fn a_second_process_on_a_data_folder_ends_with_7() {
    let ground = Ground::new();
    let (_hq, north) = pair(&ground);
    let second = north.watershed(&["run"]);
    assert_eq!(second.status.code(), Some(7), "{}", String::from_utf8_lossy(&second.stderr));
}

#[test]
fn two_nodes_of_one_name_do_not_both_link() {
    let ground = Ground::new();
    let (hq, _north) = pair(&ground);
    let mut other = ground.site("other", SCHEMA);
    other.name = "north".into();
    other.configure(Some(hq.port), "[send.parent]\ntables = [\"orders\"]\n");
    other.up();
    problem(&hq, "WS-NODE-00");
    wait("the second one is told", || other.log().contains("WS-NODE-00"));
}

#[test]
fn a_cycle_is_refused_also_when_all_dial_at_once() {
    let ground = Ground::new();
    let mut sites = ["a", "b", "c"].map(|name| ground.site(name, SCHEMA));
    let ports = [sites[1].port, sites[2].port, sites[0].port];
    for (site, parent) in sites.iter_mut().zip(ports) {
        site.configure(Some(parent), "");
        site.start();
    }
    wait("somebody says that it is a cycle", || sites.iter().any(|site| site.log().contains("WS-PEER-008")));
    let depth = |site: &Site| {
        site.status()["links"]
            .as_array()
            .map_or(0, |links| links.iter().filter(|link| link["state"] == "connected").count())
    };
    wait("the rest of the links stand", || sites.iter().map(depth).sum::<usize>() >= 2);
    assert!(sites.iter().map(depth).sum::<usize>() <= 4, "the cycle is open somewhere");
}
