//! First copies between two servers while clients write whatever can be written, and nodes and servers are killed.
//!
//! `WATERSHED_FIRE_ROUNDS` has it run that many rounds, `WATERSHED_FIRE_SEED` with the kills of one that has failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::site::{DEADLINE, Ground, Site, wait, watershed};
use watershed::testing::postgres::Cluster;

const SCHEMA: &str = include_str!("copies_under_fire.sql");
const TABLES: [&str; 12] =
    ["plain", "comp", "texts", "uuids", "nums", "idents", "five", "toast", "uniq", "nokey", "wholes", "passing"];
/// Rows that most tables have at the start.
const ROWS: u32 = 4_000;
const CLIENTS: usize = 3;
/// A round's kills go on at least as long.
const FIRE: Duration = Duration::from_secs(6);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Clients that write at the source, over its restarts, until told to stop.
struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Clients {
    fn start(source: &Site) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (stop, url) = (stop.clone(), source.url());
            std::thread::spawn(move || {
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    let call = format!("call churn(100, {ROWS})");
                    let output = std::process::Command::new("psql").args(["-Xqc", &call, &url]).output();
                    calls += u64::from(output.expect("psql is installed").status.success());
                }
                calls
            })
        };
        Clients { threads: (0..CLIENTS).map(client).collect(), stop }
    }

    /// Gives how many calls have come to their end.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a client ends well")).sum()
    }
}

/// Two servers, each with its node.
struct Two {
    above: Cluster,
    below: Cluster,
    source: Site,
    copy: Site,
    _ground: Ground,
}

impl Two {
    fn new() -> Two {
        let settings =
            [("wal_level", "logical"), ("max_slot_wal_keep_size", "4GB"), ("fsync", "off"), ("shared_buffers", "32MB")];
        let (above, below) = (Cluster::with(&settings), Cluster::with(&settings));
        let ground = Ground::new();
        let mut source = ground.server_site("source", &above, SCHEMA);
        let mut copy = ground.server_site("copy", &below, SCHEMA);
        source.sql(&format!("call fill({ROWS})"));
        let tables: Vec<String> = TABLES.iter().map(|table| format!("\"{table}\"")).collect();
        source.configure(None, &format!("[send.children]\ntables = [{}]\n", tables.join(", ")));
        copy.configure(Some(source.port), "");
        Two { above, below, source, copy, _ground: ground }
    }

    fn kill_one(&mut self, which: u32, pause: Duration) {
        let rest = || std::thread::sleep(pause);
        match which {
            0 => {
                self.source.kill();
                rest();
                self.source.up();
            }
            1 => {
                self.copy.kill();
                rest();
                self.copy.up();
            }
            2 => {
                self.above.kill();
                rest();
                self.above.restart();
            }
            _ => {
                self.below.kill();
                rest();
                self.below.restart();
            }
        }
    }

    /// Tables that do not follow yet.
    fn unfinished(&self) -> Vec<String> {
        let live = |table: &&str| self.copy.source(table)["state"] == "live";
        TABLES.iter().filter(|table| !live(table)).map(|table| (*table).to_string()).collect()
    }

    fn counts(&self, table: &str) -> (String, String) {
        let sql = format!("select count(*), sum(hashtextextended(t::text, 0)) from {table} t");
        (self.source.sql(&sql), self.copy.sql(&sql))
    }

    /// What differs, in words.
    fn difference(&self) -> String {
        let output = watershed(&["diff", &self.source.url(), &self.copy.url(), "--tables", &TABLES.join(",")], None);
        if output.status.code() == Some(0) {
            return String::new();
        }
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    fn wait_equal(&self, seed: u64) {
        let started = Instant::now();
        for table in TABLES {
            loop {
                let (here, there) = self.counts(table);
                if here == there {
                    break;
                }
                if started.elapsed() > DEADLINE {
                    panic!("seed {seed}: {table} differs: {here} {there}: {}", self.difference());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let difference = self.difference();
        assert!(difference.is_empty(), "seed {seed}: {difference}");
    }
}

fn indexes(site: &Site) -> String {
    site.sql("select indexdef from pg_indexes where schemaname = 'public' order by 1")
}

/// One round; a difference ends it with words.
fn round(seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut two = Two::new();
    two.source.up();
    let clients = Clients::start(&two.source);
    two.copy.up();
    let started = Instant::now();
    let mut kills = 0;
    while started.elapsed() < FIRE || !two.unfinished().is_empty() {
        std::thread::sleep(Duration::from_millis(random.random_range(20..1500)));
        // After a while the copies are let come to their end, under writing.
        if started.elapsed() < FIRE * 2 {
            two.kill_one(random.random_range(0..4), Duration::from_millis(random.random_range(0..200)));
            kills += 1;
        }
        if kills % 5 == 4 {
            let table = TABLES[random.random_range(0..TABLES.len())];
            let _ = two.copy.watershed(&["source", "resync", table, "--yes"]);
            kills += 1;
        }
        assert!(started.elapsed() < DEADLINE * 2, "seed {seed}: not copied: {:?}", two.unfinished());
    }
    let calls = clients.stop();
    eprintln!("fire: seed {seed}: {kills} kills, {calls} calls in {:.1?}", started.elapsed());
    wait("the clients' sessions have ended", || {
        two.above.sql("postgres", "select count(*) from pg_stat_activity where query like 'call churn%'").trim() == "0"
    });
    two.wait_equal(seed);
    wait(&format!("seed {seed}: the indexes are equal"), || indexes(&two.source) == indexes(&two.copy));
    drop(two);
}

#[test]
fn tables_copied_under_fire_are_equal_at_the_end() {
    let rounds = number("WATERSHED_FIRE_ROUNDS").unwrap_or(1);
    for n in 0..rounds {
        let seed = number("WATERSHED_FIRE_SEED").map_or_else(rand::random, |seed| seed + n);
        eprintln!("fire: round {n}, seed {seed}");
        round(seed);
    }
}
