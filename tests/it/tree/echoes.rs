//! What a node applies never comes back as its database's own (law 5), however the server tells of it.

use super::postgres::sends;
use super::site::{Ground, Site, wait, wait_equal};
use watershed::testing::postgres::Cluster;

const ALL: &str = "select count(*), sum(id), sum(v), min(t), max(t) from big";
const TABLE: &str = "create table big (id bigint primary key, v int, t text check (t <> 'bad'))";

/// How many transactions the server has sent before their commit.
fn streamed(cluster: &Cluster) -> u64 {
    let sql = "select coalesce(sum(stream_txns), 0) from pg_stat_replication_slots";
    cluster.sql("postgres", sql).trim().parse().expect("a number")
}

/// Everything that was written before is decoded by now: what is written last is captured, and nothing else is.
fn only_its_own(leaf: &mut Site, marks: &mut u64) {
    *marks += 1;
    leaf.sql(&format!("insert into mark values ({marks})"));
    wait("its own is captured", || leaf.counter("captured") >= 1);
    leaf.wait_ready();
    assert_eq!(leaf.counter("captured"), 1, "what was applied came back: {}", leaf.log());
    // Counted from the start of the process.
    leaf.kill();
    leaf.up();
}

#[test]
fn what_is_streamed_before_its_commit_is_known_as_received() {
    let settings = [("wal_level", "logical"), ("max_slot_wal_keep_size", "1GB"), ("logical_decoding_work_mem", "64kB")];
    let (above, below) = (Cluster::with(&settings), Cluster::with(&settings));
    let ground = Ground::new();
    let mut root = ground.server_site("root", &above, TABLE);
    let mut leaf = ground.server_site("leaf", &below, &format!("{TABLE}; create table mark (id int primary key)"));
    root.configure(None, &sends("children", "\"big\""));
    leaf.configure(Some(root.port), "");
    let with = std::fs::read_to_string(leaf.config()).expect("a configuration");
    std::fs::write(leaf.config(), with.replace("[database]", "[database]\ncapture = [\"*\"]")).expect("written");
    root.sql("insert into big select n, 0, 'first' from generate_series(1, 4000) n");
    // Over what is there: functions are made, and rows removed, before the first is written.
    leaf.sql("insert into big select n, 1, 'stale' from generate_series(1000, 4000) n");
    root.up();
    leaf.up();
    wait_equal(ALL, &[&root, &leaf]);
    let mut marks = 0;
    only_its_own(&mut leaf, &mut marks);
    let copied = streamed(&below);
    assert!(copied > 0, "the server has sent the copy before its commit");
    // A transaction that is applied in parts, and many that are applied at once.
    root.sql("update big set v = v + 1, t = repeat('x', 500)");
    root.sql(
        "delete from big where id % 3 = 0; insert into big select n, 2, 'more' from generate_series(10000, 14000) n",
    );
    wait_equal(ALL, &[&root, &leaf]);
    only_its_own(&mut leaf, &mut marks);
    assert!(streamed(&below) > copied);
    // A lane that is replayed, its large transaction first after a start.
    leaf.sql("alter table big add constraint small check (v < 100)");
    root.sql("update big set v = v + 100");
    leaf.wait_source("big", "parked");
    root.sql("update big set v = v + 1 where id < 2000");
    leaf.kill();
    leaf.up();
    leaf.sql("alter table big drop constraint small");
    let before = streamed(&below);
    leaf.does(&["source", "retry", "big"]);
    leaf.wait_source("big", "live");
    wait_equal(ALL, &[&root, &leaf]);
    only_its_own(&mut leaf, &mut marks);
    assert!(streamed(&below) > before);
    assert_eq!(root.sql("select count(*) from pg_tables where tablename = 'mark'").trim(), "0");
}
