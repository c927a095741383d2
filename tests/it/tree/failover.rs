//! PostgreSQL's own failover and restores: a promoted standby, a base backup, a snapshot. Each is noticed and refused, and what
//! the message says to do makes the tree converge.

use super::postgres::{CLUSTER, ORDERS, OWNED, SERVER, sends, wait_same};
use super::site::{Ground, Site, wait, wait_equal};
use watershed::testing::postgres::Cluster;

const FULL: &str = "alter table orders replica identity full;";
const MARKS: &str = "select count(*) from marks";

fn server() -> Cluster {
    Cluster::with(&[("wal_level", "logical"), ("max_slot_wal_keep_size", "1GB"), ("fsync", "off")])
}

/// `root` on a server of its own and `leaf` below it; each owns its rows of `orders`, and `marks` goes down.
fn pair(ground: &Ground, cluster: &Cluster) -> (Site, Site) {
    let mut root = ground.server_site("root", cluster, &format!("{SERVER} {FULL}"));
    let mut leaf = ground.server_site("leaf", &CLUSTER, &format!("{SERVER} {FULL}"));
    configure(&mut root);
    leaf.configure(Some(root.port), &(sends("parent", "\"orders\"") + OWNED));
    root.up();
    leaf.up();
    leaf.wait_ready();
    root.sql("insert into orders select n, 'root', n, 'first' from generate_series(1, 300) n; insert into marks values (1, true)");
    leaf.sql("insert into orders select n, 'leaf', n, 'first' from generate_series(1001, 1300) n");
    wait("both have both", || [&root, &leaf].iter().all(|site| site.sql("select count(*) from orders") == "600\n"));
    (root, leaf)
}

fn configure(root: &mut Site) {
    root.configure(None, &(sends("children", "\"orders\", \"marks\"") + OWNED));
}

/// What everybody does who goes on with the database as it is now.
fn begins_afresh(root: &mut Site, leaf: &Site) {
    root.stop();
    root.does(&["source", "drop", "database", "--yes"]);
    root.up();
    root.sql("insert into orders values (998, 'root', 1, 'after'); update orders set note = 'after' where id = 1");
    leaf.sql("insert into orders values (1998, 'leaf', 1, 'after'); delete from orders where id = 1001");
    wait("what was written after is everywhere", || {
        let both = "select count(*) from orders where id in (998, 1998)";
        [&*root, leaf].iter().all(|site| site.sql(both) == "2\n")
    });
    wait_equal(ORDERS, &[root, leaf]);
    wait_same(root, leaf);
    wait("nobody has a problem", || {
        [&*root, leaf].iter().all(|site| site.status()["problems"] == serde_json::json!([]))
    });
}

/// The server is refused: the process ends with 5 and these words, and says it again.
fn is_refused(root: &mut Site, code: &str, words: &str) {
    for _ in 0..2 {
        let said = root.log().len();
        root.start();
        assert_eq!(root.ended(), Some(5), "{}", root.log());
        let log = root.log().split_off(said);
        for words in [code, words, "WS-NODE-012", "watershed source drop database --yes"] {
            assert!(log.contains(words), "{words:?} in {log}");
        }
        println!("{log}");
    }
}

fn replayed(primary: &Cluster, standby: &Cluster) {
    let upto = primary.sql("postgres", "select pg_current_wal_lsn()");
    let sql = format!("select pg_last_wal_replay_lsn() >= '{}'", upto.trim());
    wait("the standby has what the primary has", || standby.sql("postgres", &sql) == "t\n");
}

#[test]
fn a_promoted_standby_that_lost_commits_is_refused_by_a_node_that_runs_and_at_its_start() {
    let ground = Ground::new();
    let mut old = server();
    let (mut root, leaf) = pair(&ground, &old);
    let mut new = old.standby();
    replayed(&old, &new);
    // The node finds whichever of them is the primary.
    let url = root.url();
    let database = url.rsplit('/').next().expect("a name").to_owned();
    let both = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{database}?target_session_attrs=read-write",
        old.port(),
        new.port()
    );
    root.stop();
    root.moves(both);
    configure(&mut root);
    root.up();
    new.kill();
    root.sql("insert into orders values (301, 'root', 1, 'lost'); update orders set note = 'lost' where id = 2");
    leaf.sql("insert into orders values (1301, 'leaf', 1, 'not lost')");
    wait("both have both", || [&root, &leaf].iter().all(|site| site.sql("select count(*) from orders") == "602\n"));
    old.kill();
    new.restart();
    new.sql("postgres", "select pg_promote()");
    wait("it takes writes", || new.sql("postgres", "select pg_is_in_recovery()") == "f\n");
    new.sql(&database, "insert into orders values (302, 'root', 1, 'of the new primary')");
    root.wait_problem("WS-PGCAPTURE-032");
    root.wait_problem("timeline 2");
    root.wait_problem("watershed source drop database --yes");
    assert_eq!(
        leaf.sql("select count(*) from orders where id = 302"),
        "0\n",
        "nothing is sent of what cannot be known"
    );
    root.stop();
    is_refused(&mut root, "WS-PGCAPTURE-032", "a standby was promoted");
    begins_afresh(&mut root, &leaf);
    assert_eq!(leaf.sql("select id from orders where id in (301, 302, 1301) order by id"), "302\n1301\n");
}

#[test]
fn a_server_restored_from_a_base_backup_is_refused_also_when_its_log_has_grown_past_ours() {
    let ground = Ground::new();
    let mut old = server();
    let (mut root, leaf) = pair(&ground, &old);
    let [mut short, mut long] = [old.backup(), old.backup()];
    root.sql("insert into orders select n, 'root', n, 'lost' from generate_series(301, 400) n; update marks set done = false");
    wait("the leaf has it", || leaf.sql("select count(*) from orders") == "700\n");
    root.stop();
    old.stop();
    let database = root.url().rsplit('/').next().expect("a name").to_owned();
    short.restart();
    root.moves(short.url(&database));
    configure(&mut root);
    is_refused(&mut root, "WS-PGCAPTURE-03", "restored");
    long.restart();
    long.sql(&database, "create table growth as select repeat('x', 1000) from generate_series(1, 5000)");
    long.sql(&database, "insert into orders values (999, 'root', 1, 'of the restored')");
    root.moves(long.url(&database));
    configure(&mut root);
    is_refused(&mut root, "WS-PGCAPTURE-034", "is gone");
    assert_eq!(leaf.sql("select count(*) from orders"), "700\n", "nothing is merged");
    begins_afresh(&mut root, &leaf);
    assert_eq!(leaf.sql("select count(*) from orders where note = 'lost'"), "0\n");
    assert_eq!(leaf.sql(MARKS), "1\n");
}

/// A server, a snapshot of its disk from before rows were written that the leaf has, the root at the server, and the leaf.
fn snapshot(ground: &Ground) -> (Cluster, Cluster, Site, Site) {
    let mut old = server();
    let (mut root, leaf) = pair(ground, &old);
    root.stop();
    old.stop();
    let copy = old.snapshot();
    old.restart();
    root.up();
    root.sql("insert into orders select n, 'root', n, 'lost' from generate_series(301, 400) n");
    wait("the leaf has it", || leaf.sql("select count(*) from orders") == "700\n");
    (old, copy, root, leaf)
}

#[test]
fn a_snapshot_that_is_put_back_with_its_slot_is_refused() {
    let ground = Ground::new();
    let (mut old, mut copy, mut root, leaf) = snapshot(&ground);
    root.stop();
    old.stop();
    let database = root.url().rsplit('/').next().expect("a name").to_owned();
    copy.restart();
    copy.sql(&database, "insert into orders values (999, 'root', 1, 'of the snapshot')");
    root.moves(copy.url(&database));
    configure(&mut root);
    is_refused(&mut root, "WS-PGCAPTURE-033", "restored");
    begins_afresh(&mut root, &leaf);
}

/// Nothing of the server tells it from the one that was there: not its id, timeline, slot, or how far its log has come.
#[test]
fn a_snapshot_with_its_slot_whose_log_has_grown_past_ours_is_refused() {
    let ground = Ground::new();
    let (mut old, mut copy, mut root, leaf) = snapshot(&ground);
    root.kill();
    let place = old.sql("postgres", "select pg_current_wal_lsn()");
    old.stop();
    let database = root.url().rsplit('/').next().expect("a name").to_owned();
    copy.restart();
    let is_past = format!("select pg_current_wal_lsn() > '{}'", place.trim());
    copy.sql(&database, "create table growth (v text)");
    while copy.sql(&database, &is_past) != "t\n" {
        copy.sql(&database, "insert into growth select repeat('x', 1000) from generate_series(1, 1000)");
    }
    copy.sql(&database, "insert into orders values (999, 'root', 1, 'of the snapshot')");
    root.moves(copy.url(&database));
    configure(&mut root);
    is_refused(&mut root, "WS-PGCAPTURE-040", "put back to an earlier state");
    assert_eq!(leaf.sql("select count(*) from orders"), "700\n", "nothing is merged");
    begins_afresh(&mut root, &leaf);
    assert_eq!(leaf.sql("select count(*) from orders where note = 'lost'"), "0\n");
}

/// The witness changes in two steps, with a kill between any two of them.
#[test]
fn a_node_that_is_killed_again_and_again_knows_its_server() {
    let ground = Ground::new();
    let old = server();
    let mut root = ground.server_site("root", &old, SERVER);
    root.configure(None, &sends("children", "\"orders\", \"marks\""));
    root.up();
    let witness = |root: &Site| std::fs::read_to_string(root.data().join("capture.witness")).unwrap_or_default();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..12 {
        root.sql(&format!("insert into orders values ({round}, 'root', 1, 'x')"));
        wait("it is captured", || root.counter("captured") > 0);
        root.kill();
        // In the folder and not in the database: what a kill between the two steps leaves.
        if round % 3 == 0 {
            let last = witness(&root).lines().last().expect("a token").to_owned();
            std::fs::write(root.data().join("capture.witness"), format!("{last}\n{round:032x}\n")).expect("a file");
        }
        root.up();
        seen.insert(witness(&root));
    }
    assert_eq!(seen.len(), 12, "it changes at every start: {seen:?}");
    let there = root.sql("select token from watershed.witness");
    assert!(witness(&root).contains(there.trim()), "{there}");
    // While it runs, it changes once something was captured, and then no more.
    let before = witness(&root);
    root.sql("insert into orders values (100, 'root', 1, 'x')");
    wait("it changes", || witness(&root) != before);
    // One of another life.
    root.stop();
    root.sql("update watershed.witness set token = 'another'");
    root.start();
    assert_eq!(root.ended(), Some(5), "{}", root.log());
    assert!(root.log().contains("WS-PGCAPTURE-040"), "{}", root.log());
    root.sql(&format!("update watershed.witness set token = '{}'", there.trim()));
    std::fs::write(root.data().join("capture.witness"), vec![0xff; 100_000]).expect("a file");
    root.start();
    assert_eq!(root.ended(), Some(5), "{}", root.log());
    std::fs::write(root.data().join("capture.witness"), format!("none\n{}\n", there.trim())).expect("a file");
    root.up();
}

#[test]
fn a_database_that_only_receives_fails_over_by_itself() {
    let ground = Ground::new();
    let mut old = server();
    let mut root = ground.server_site("root", &CLUSTER, SERVER);
    let mut leaf = ground.server_site("leaf", &old, SERVER);
    root.configure(None, &sends("children", "\"orders\", \"marks\""));
    leaf.configure(Some(root.port), "");
    root.up();
    leaf.up();
    root.sql("insert into orders select n, 'root', n, 'first' from generate_series(1, 300) n");
    wait_equal(ORDERS, &[&root, &leaf]);
    let mut new = old.standby();
    replayed(&old, &new);
    new.kill();
    root.sql("update orders set note = 'second'; delete from orders where id % 3 = 0");
    wait_equal(ORDERS, &[&root, &leaf]);
    leaf.kill();
    old.kill();
    new.restart();
    new.sql("postgres", "select pg_promote()");
    wait("it takes writes", || new.sql("postgres", "select pg_is_in_recovery()") == "f\n");
    let database = leaf.url().rsplit('/').next().expect("a name").to_owned();
    leaf.moves(new.url(&database));
    leaf.configure(Some(root.port), "");
    assert!(leaf.sql(ORDERS).contains("first"), "the standby has less than was applied");
    leaf.up();
    root.sql("insert into orders values (999, 'root', 1, 'third')");
    wait_equal(ORDERS, &[&root, &leaf]);
    wait_same(&root, &leaf);
}
