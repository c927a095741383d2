//! Tables without a key, whose rows can neither be overwritten nor told apart: one that is copied twice is there twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::postgres::CLUSTER;
use super::site::{Ground, Site, wait_equal};

const SENT: &str = "tables = [\"notes\"]\n";
/// Rows that each has before it is linked.
const BEFORE: u64 = 5_000;
const OWNED: &str = "[table.notes]\nowner_by = \"row.site\"\n";

/// Writes rows of its own, one commit after the other, until it is told to stop.
fn write(site: &Site, stop: &AtomicBool) {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let rows = (0..20).map(|i| format!("insert into notes values ('{}', {});", site.name, n + i));
        site.sql(&rows.collect::<String>());
        n += 20;
    }
}

#[test]
fn what_several_nodes_write_while_they_copy_from_each_other_is_everywhere_once() {
    let ground = Ground::new();
    let schema = "create table notes (site text, n int); alter table notes replica identity full";
    let mut sites = ["root", "middle", "leaf"].map(|name| ground.server_site(name, &CLUSTER, schema));
    let ports = [None, Some(sites[0].port), Some(sites[1].port)];
    for (site, parent) in sites.iter_mut().zip(ports) {
        let up = if parent.is_some() { format!("[send.parent]\n{SENT}") } else { String::new() };
        site.configure(parent, &format!("{up}[send.children]\n{SENT}{OWNED}"));
    }
    // More than comes in one piece.
    for site in &sites {
        site.sql(&format!("insert into notes select '{}', -n from generate_series(1, {BEFORE}) n", site.name));
    }
    let stop = AtomicBool::new(false);
    for site in &mut sites {
        site.up();
    }
    std::thread::scope(|scope| {
        for site in &sites {
            scope.spawn(|| write(site, &stop));
        }
        std::thread::sleep(Duration::from_secs(4));
        // Whoever is asked to begins again while everybody writes.
        for site in [&sites[1], &sites[0]] {
            site.does(&["source", "resync", "notes", "--yes"]);
        }
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
    });
    let [root, middle, leaf] = &sites;
    let held = "select site, count(*), count(distinct n), min(n), max(n) from notes group by site order by site";
    let found = wait_equal(held, &[root, middle, leaf]);
    let sums: Vec<&str> = found.lines().collect();
    assert_eq!(sums.len(), 3, "{found}");
    for sum in sums {
        let fields: Vec<&str> = sum.split('|').collect();
        assert_eq!(fields[1], fields[2], "twice: {found}");
        assert_eq!(
            fields[1].parse::<u64>().expect("a count"),
            fields[4].parse::<u64>().expect("a number") + 1 + BEFORE,
            "{found}"
        );
    }
}
