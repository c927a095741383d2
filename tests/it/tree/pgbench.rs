//! `pgbench` at a leaf, through a node with a database of its own, to a server at the root and to a file below the root.
//!
//! Scale 1 and six seconds; `WATERSHED_PGBENCH_SCALE` and `WATERSHED_PGBENCH_SECONDS` have it run larger and longer.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::site::{DEADLINE, Ground, Site, wait, wait_for, watershed};
use watershed::testing::postgres::Cluster;

const TABLES: &str = "\"pgbench_accounts\", \"pgbench_branches\", \"pgbench_history\", \"pgbench_tellers\"";
const CLIENTS: &str = "4";
/// How much of the server's transaction log the running node may not have acknowledged, in bytes.
const BEHIND_MAX: u64 = 64 << 20;
/// What the server may keep of it for the slot: that, and what is written in the 15 s between two looks at what is running.
const KEPT_MAX: u64 = 384 << 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Tree {
    above: Cluster,
    below: Cluster,
    root: Site,
    middle: Site,
    leaf: Site,
    file: Site,
    _ground: Ground,
}

fn tree() -> Tree {
    let settings =
        [("wal_level", "logical"), ("max_slot_wal_keep_size", "4GB"), ("max_wal_size", "2GB"), ("fsync", "off")];
    let (above, below) = (Cluster::with(&settings), Cluster::with(&settings));
    let ground = Ground::new();
    let mut root = ground.server_site("root", &above, "");
    let mut middle = ground.server_site("middle", &above, "");
    let mut leaf = ground.server_site("leaf", &below, "");
    let mut file = ground.site("file", "pragma journal_mode = wal");
    let scale = number("WATERSHED_PGBENCH_SCALE", 1).to_string();
    let made = below.command("pgbench").args(["-q", "-i", "-s", &scale, &leaf.url()]).output().expect("pgbench");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let owned: String = TABLES.split(", ").map(|table| format!("[table.{table}]\nowner = \"leaf\"\n")).collect();
    root.configure(None, &format!("[send.children]\ntables = [{TABLES}]\n{owned}"));
    middle.configure(Some(root.port), &format!("[send.parent]\ntables = [{TABLES}]\n{owned}"));
    leaf.configure(Some(middle.port), &format!("[send.parent]\ntables = [{TABLES}]\n{owned}"));
    file.configure(Some(root.port), &owned);
    Tree { above, below, root, middle, leaf, file, _ground: ground }
}

impl Tree {
    /// Large runs begin when the first copies are done: a table without a key, of which there is more than fits into one piece,
    /// is not copied.
    fn up(&mut self) {
        for site in [&mut self.root, &mut self.middle, &mut self.leaf, &mut self.file] {
            site.up();
        }
        if number("WATERSHED_PGBENCH_SCALE", 1) > 1 {
            for table in TABLES.replace(['"', ' '], "").split(',') {
                wait_for(&format!("{table} is copied"), 10 * DEADLINE, || self.file.source(table)["state"] == "live");
            }
        }
    }

    fn pgbench(&self, seconds: u64) -> Child {
        let mut command = self.below.command("pgbench");
        command.args(["-n", "-c", CLIENTS, "-j", "2", "-T", &seconds.to_string(), &self.leaf.url()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbench starts")
    }

    /// What the server keeps of its transaction log for the slot, and how much of it the node has not acknowledged, in bytes.
    /// (The first ends at the oldest transaction that was running when the server last looked, every 15 s.)
    fn retained(&self) -> (u64, u64) {
        let sql = "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, \
                   pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint from pg_replication_slots";
        let row = self.below.sql("postgres", sql);
        let (kept, behind) = row.trim().split_once('|').expect("one slot");
        (kept.parse().expect("a number"), behind.parse().expect("a number"))
    }

    /// Waits until `diff` finds nothing between the leaf and the two others; says how long that took.
    fn wait_equal(&self, what: &str) {
        let started = Instant::now();
        // A slow machine, and builds that were not made for speed, take longer than the run itself.
        let deadline = DEADLINE + 4 * seconds();
        let count = "select count(*) from pgbench_history";
        let wanted = self.leaf.sql(count);
        for site in [&self.root, &self.file] {
            wait_for(&format!("{} has all of the history", site.name), deadline, || {
                let output = site.try_sql(count);
                output.status.success() && String::from_utf8_lossy(&output.stdout) == wanted
            });
            let (tables, mut said) = (TABLES.replace(['"', ' '], ""), String::new());
            wait_for(&format!("{} is equal to the leaf", site.name), deadline, || {
                let output = watershed(&["diff", &self.leaf.url(), &site.url(), "--tables", &tables], None);
                said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
                output.status.code() == Some(0)
            });
            eprintln!("{what}: {} after {:.1} s: {}", site.name, started.elapsed().as_secs_f64(), said.trim());
        }
        assert_ne!(wanted.trim(), "0", "nothing was written");
        eprintln!("{what}: {} transactions", wanted.trim());
    }
}

fn seconds() -> Duration {
    Duration::from_secs(number("WATERSHED_PGBENCH_SECONDS", 6))
}

#[test]
fn everything_that_pgbench_writes_at_a_leaf_is_at_the_root_and_below_it() {
    let mut tree = tree();
    tree.up();
    tree.pgbench(seconds().as_secs()).wait().expect("it ends");
    tree.wait_equal("plain");
}

#[test]
fn everything_arrives_though_servers_and_nodes_are_killed() {
    let mut tree = tree();
    tree.up();
    let end = Instant::now() + 2 * seconds();
    let (mut kills, mut round) = ([0; 6], 0);
    let mut writer = tree.pgbench(3600);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200 + rand::random::<u64>() % 1000));
        // Each in turn, and in long runs anybody.
        let victim = if round < 6 { round } else { rand::random::<u64>() as usize % 6 };
        kills[victim] += 1;
        match victim {
            0 => tree.leaf.kill(),
            1 => tree.middle.kill(),
            2 => tree.root.kill(),
            3 => tree.file.kill(),
            4 => tree.above.kill(),
            _ => tree.below.kill(),
        }
        std::thread::sleep(Duration::from_millis(100));
        match victim {
            0 => tree.leaf.up(),
            1 => tree.middle.up(),
            2 => tree.root.up(),
            3 => tree.file.up(),
            4 => tree.above.restart(),
            _ => {
                tree.below.restart();
                let _ = writer.wait();
                writer = tree.pgbench(3600);
            }
        }
        round += 1;
    }
    let _ = writer.kill();
    let _ = writer.wait();
    // What its sessions were doing ends with them.
    wait("pgbench's sessions have ended", || {
        tree.below.sql("postgres", "select count(*) from pg_stat_activity where application_name = 'pgbench'").trim()
            == "0"
    });
    eprintln!("killed: kills of leaf, middle, root, file, server above, server below: {kills:?}");
    tree.wait_equal("killed");
}

#[test]
fn the_source_keeps_no_transaction_log_while_its_parent_is_away() {
    let mut tree = tree();
    tree.up();
    tree.leaf.wait_ready();
    wait("the root has the accounts", || tree.root.status()["ready"] == true);
    tree.root.stop();
    let mut writer = tree.pgbench(seconds().as_secs());
    let written =
        |tree: &Tree| tree.below.sql("postgres", "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint");
    let before: u64 = written(&tree).trim().parse().expect("a number");
    let (mut looks, mut last) = (Vec::new(), Instant::now());
    let (mut most, mut most_kept, mut kept_since) = (0, 0, 0);
    while writer.try_wait().expect("a child").is_none() {
        let (kept, behind) = tree.retained();
        (most, most_kept, kept_since) = (most.max(behind), most_kept.max(kept), kept_since.max(kept));
        if last.elapsed() > seconds() / 12 {
            looks.push(kept_since >> 20);
            (kept_since, last) = (0, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let all = written(&tree).trim().parse::<u64>().expect("a number") - before;
    eprintln!(
        "away: {} MiB of WAL written, at most {} MiB kept for the slot, {} MiB not acknowledged; kept over the run: {looks:?} MiB",
        all >> 20,
        most_kept >> 20,
        most >> 20
    );
    wait("the slot's lag is back to nearly nothing", || tree.retained().1 < 1 << 20);
    assert!(most < BEHIND_MAX, "the node had not acknowledged {most} bytes");
    assert!(most_kept < KEPT_MAX, "the server kept {most_kept} bytes");
    tree.root.up();
    tree.wait_equal("away");
}
