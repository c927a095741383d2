//! `pgbench` at a leaf, through a node with a database of its own, to a server at the root and to a file below the root.
//!
//! Scale 1 and six seconds; `WATERSHED_PGBENCH_SCALE` and `WATERSHED_PGBENCH_SECONDS` have it run larger and longer.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::site::{Ground, Site, wait, watershed};
use watershed::testing::postgres::Cluster;

const TABLES: &str = "\"pgbench_accounts\", \"pgbench_branches\", \"pgbench_history\", \"pgbench_tellers\"";
const CLIENTS: &str = "4";
/// What the server may keep of its transaction log for us, in bytes, while the node runs.
const RETAINED_MAX: u64 = 64 << 20;

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
    fn up(&mut self) {
        for site in [&mut self.root, &mut self.middle, &mut self.leaf, &mut self.file] {
            site.up();
        }
    }

    fn pgbench(&self, seconds: u64) -> Child {
        let mut command = self.below.command("pgbench");
        command.args(["-n", "-c", CLIENTS, "-j", "2", "-T", &seconds.to_string(), &self.leaf.url()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbench starts")
    }

    fn retained(&self) -> u64 {
        let sql = "select coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)), 0)::bigint from pg_replication_slots";
        self.below.sql("postgres", sql).trim().parse().expect("a number")
    }

    /// Waits until `diff` finds nothing between the leaf and the two others.
    fn wait_equal(&self) {
        let count = "select count(*) from pgbench_history";
        let wanted = self.leaf.sql(count);
        for site in [&self.root, &self.file] {
            wait(&format!("{} has all of the history", site.name), || {
                let output = site.try_sql(count);
                output.status.success() && String::from_utf8_lossy(&output.stdout) == wanted
            });
            let mut said = String::new();
            wait(&format!("{} is equal to the leaf", site.name), || {
                let tables = TABLES.replace(['"', ' '], "");
                let output = watershed(&["diff", &self.leaf.url(), &site.url(), "--tables", &tables], None);
                said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
                output.status.code() == Some(0)
            });
        }
        assert_ne!(wanted.trim(), "0", "nothing was written");
    }
}

#[test]
fn everything_that_pgbench_writes_at_a_leaf_is_at_the_root_and_below_it() {
    let mut tree = tree();
    tree.up();
    tree.pgbench(number("WATERSHED_PGBENCH_SECONDS", 6)).wait().expect("it ends");
    tree.wait_equal();
}

#[test]
fn everything_arrives_though_servers_and_nodes_are_killed() {
    let mut tree = tree();
    tree.up();
    let end = Instant::now() + Duration::from_secs(number("WATERSHED_PGBENCH_SECONDS", 6) * 2);
    let mut round = 0;
    let mut writer = tree.pgbench(3600);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(700));
        match round % 6 {
            0 => tree.leaf.kill(),
            1 => tree.middle.kill(),
            2 => tree.root.kill(),
            3 => tree.file.kill(),
            4 => tree.above.kill(),
            _ => tree.below.kill(),
        }
        std::thread::sleep(Duration::from_millis(100));
        match round % 6 {
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
    tree.wait_equal();
}

#[test]
fn the_source_keeps_no_transaction_log_while_its_parent_is_away() {
    let mut tree = tree();
    tree.up();
    tree.leaf.wait_ready();
    wait("the root has the accounts", || tree.root.status()["ready"] == true);
    tree.root.stop();
    let mut writer = tree.pgbench(number("WATERSHED_PGBENCH_SECONDS", 6));
    let mut most = 0;
    while writer.try_wait().expect("a child").is_none() {
        most = most.max(tree.retained());
        std::thread::sleep(Duration::from_millis(200));
    }
    wait("the slot's lag is back to nearly nothing", || tree.retained() < 1 << 20);
    assert!(most < RETAINED_MAX, "the server kept {most} bytes");
    tree.root.up();
    tree.wait_equal();
}
