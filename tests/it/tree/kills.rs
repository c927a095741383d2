//! `kill -9` of any node at random under load: every transaction arrives exactly once, in order per origin, in one piece.
//!
//! A ledger's sum is zero after every transaction, so it must be zero at every node whenever anybody looks. The number of
//! kills is 6, or `WATERSHED_KILLS`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::site::{Ground, Site, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal;
create table ledger (id text primary key, site text not null, tx integer not null, amount integer not null);";
const OWNER: &str = "[table.ledger]\nowner_by = \"row.site\"\n";

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("the database");
    connection.busy_timeout(Duration::from_secs(30)).expect("a timeout");
    connection
}

/// Writes transactions of two to six rows that add up to zero, until told to stop; gives how many.
fn writer(path: PathBuf, site: &'static str, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut connection = connect(&path);
        let mut tx = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).expect("begin");
            let pairs = tx % 3 + 1;
            for pair in 0..pairs {
                for (side, amount) in [("d", 1_i64 + pair as i64), ("c", -1 - pair as i64)] {
                    let id = format!("{site}-{tx}-{pair}{side}");
                    transaction.execute("insert into ledger values (?, ?, ?, ?)", params![id, site, tx as i64, amount]).expect("insert");
                }
            }
            transaction.commit().expect("commit");
            tx += 1;
            written.store(tx, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(3));
        }
    })
}

/// Looks at every database all the time.
fn observer(paths: Vec<PathBuf>, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut looks = 0;
        while !stop.load(Ordering::Relaxed) {
            for path in &paths {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
                let connection = Connection::open_with_flags(path, flags).expect("the database");
                connection.busy_timeout(Duration::from_secs(30)).expect("a timeout");
                let sum: i64 = connection.query_row("select coalesce(sum(amount), 0) from ledger", [], |row| row.get(0)).expect("a sum");
                assert_eq!(sum, 0, "half a transaction is visible in {}", path.display());
                looks += 1;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        looks
    })
}

/// Per origin, transactions stand in a node's log in order, and every one of them once.
fn in_order(site: &Site) {
    let output = site.watershed(&["log", "read", "main", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut last: HashMap<String, (u64, i64)> = HashMap::new();
    let mut rows: HashMap<String, u64> = HashMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect("NDJSON");
        let origin = entry["origin"].as_str().expect("an origin");
        let (log, position) = (origin[..32].to_owned(), origin.rsplit('-').next().expect("a position").parse::<u64>().expect("a number"));
        let known = last.entry(log).or_insert((0, -1));
        assert!(position > known.0, "origin positions go back at {}: {line}", site.name);
        known.0 = position;
        for change in entry["changes"].as_array().expect("changes") {
            let Some(tx) = change["row"]["tx"].as_i64() else { continue };
            assert!(tx >= known.1, "transactions go back at {}: {line}", site.name);
            known.1 = tx;
            *rows.entry(change["row"]["id"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
    }
    assert!(rows.values().all(|count| *count == 1), "a row stands twice in the log of {}", site.name);
}

fn sites(ground: &Ground) -> [Site; 4] {
    let [mut hq, mut north, mut n1, mut south] = ["hq", "north", "n1", "south"].map(|name| ground.site(name, SCHEMA));
    let both = format!("[send.parent]\ntables = [\"ledger\"]\n[send.children]\ntables = [\"ledger\"]\n{OWNER}");
    hq.configure(None, &both);
    north.configure(Some(hq.port), &both);
    n1.configure(Some(north.port), &both);
    south.configure(Some(hq.port), &both);
    [hq, north, n1, south]
}

#[test]
fn killed_nodes_lose_nothing_and_repeat_nothing() {
    let kills: u64 = std::env::var("WATERSHED_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(6);
    let ground = Ground::new();
    let mut sites = sites(&ground);
    for site in &mut sites {
        site.up();
    }
    for site in &sites {
        site.wait_ready();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Vec<Arc<AtomicU64>> = (0..3).map(|_| Arc::default()).collect();
    let writers: Vec<_> = [(0, "hq"), (2, "n1"), (3, "south")]
        .into_iter()
        .zip(&counts)
        .map(|((index, name), count): ((usize, &'static str), _)| writer(sites[index].database(), name, stop.clone(), count.clone()))
        .collect();
    let observing = observer(sites.iter().map(Site::database).collect(), stop.clone());
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(100 + rand::random::<u64>() % 400));
        let victim = (rand::random::<u64>() % 4) as usize;
        sites[victim].kill();
        if kill % 3 == 0 {
            std::thread::sleep(Duration::from_millis(rand::random::<u64>() % 300));
        }
        sites[victim].start();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("the writer ends well");
    }
    assert!(observing.join().expect("the ledger was whole at every look") > 10);
    for site in &mut sites {
        site.wait_healthy();
    }
    let [hq, north, n1, south] = &sites;
    let written: u64 = counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    wait_equal("select count(*), count(distinct site || '-' || tx), sum(amount) from ledger", &[hq, north, n1, south]);
    wait_equal("select * from ledger order by id", &[hq, north, n1, south]);
    assert_eq!(hq.sql("select count(distinct site || '-' || tx) from ledger").trim(), written.to_string());
    for site in &sites {
        in_order(site);
    }
}
