//! PostgreSQL servers that are not as they must be: each is refused by the real binary with a code, an exit code and what to do;
//! when that is done everything arrives.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use super::postgres::{CLUSTER, ORDERS, SERVER, sends, wait_same};
use super::site::{Ground, Site, wait, wait_equal};
use watershed::testing::postgres::Cluster;

fn cluster(more: &[(&str, &str)]) -> Cluster {
    let mut settings = vec![("wal_level", "logical"), ("max_slot_wal_keep_size", "1GB"), ("fsync", "off")];
    settings.retain(|(name, _)| !more.iter().any(|(other, _)| name == other));
    settings.extend(more);
    Cluster::with(&settings)
}

/// `root` on that server sends `orders` and `marks` to `leaf`, which runs.
fn pair(ground: &Ground, cluster: &Cluster) -> (Site, Site) {
    let mut root = ground.server_site("root", cluster, SERVER);
    let mut leaf = ground.server_site("leaf", &CLUSTER, SERVER);
    root.configure(None, &sends("children", "\"orders\", \"marks\""));
    leaf.configure(Some(root.port), "");
    root.sql("insert into orders select n, 'root', n, 'first' from generate_series(1, 100) n");
    leaf.up();
    (root, leaf)
}

/// A command ends with that code and says all of these words; gives what it says.
fn refused(site: &Site, args: &[&str], exit: i32, words: &[&str]) -> String {
    let output = site.watershed(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("$ watershed {} # exit code {:?}\n{said}", args.join(" "), output.status.code());
    assert_eq!(output.status.code(), Some(exit), "{said}");
    for word in words.iter().chain(&["error[WS-", "why: ", "do: "]) {
        assert!(said.contains(word), "{word:?} in {said}");
    }
    said
}

/// Everything that was and is written at the root is at the leaf.
fn flows(root: &Site, leaf: &Site) {
    root.sql("insert into orders values (5000, 'root', 1, 'after'); update orders set note = 'changed' where id % 7 = 0; delete from orders where id = 3");
    wait("what was written last is there", || leaf.sql("select count(*) from orders where id = 5000") == "1\n");
    wait_equal(ORDERS, &[root, leaf]);
    wait_same(root, leaf);
}

fn slot(root: &Site) -> String {
    root.sql("select slot_name from pg_replication_slots where database = current_database()").trim().to_owned()
}

#[test]
fn a_server_as_it_comes_is_made_ready_as_the_message_says() {
    let ground = Ground::new();
    let mut cluster = Cluster::start();
    let (mut root, leaf) = pair(&ground, &cluster);
    let words = ["WS-PG-040", "WS-PGCAPTURE-003", "WS-PGCAPTURE-004", "wal_level is replica"];
    refused(&root, &["check"], 3, &words);
    let said = refused(&root, &["run"], 3, &words);
    for statement in ["ALTER SYSTEM SET wal_level = 'logical'", "ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'"] {
        assert!(said.contains(statement), "{said}");
        root.sql(statement);
    }
    cluster.kill();
    cluster.restart();
    root.does(&["check"]);
    root.up();
    flows(&root, &leaf);
}

#[test]
fn a_user_without_privileges_is_told_each_statement_and_they_suffice() {
    let ground = Ground::new();
    let cluster = cluster(&[]);
    let (mut root, leaf) = pair(&ground, &cluster);
    let url = root.url();
    root.sql(
        "create role small login; create role app; alter table orders owner to app; alter table marks owner to app",
    );
    root.moves(url.replace("postgres@", "small@"));
    root.configure(None, &sends("children", "\"orders\", \"marks\""));
    root.moves(url.clone());
    let words = ["WS-PG-040", "WS-PGCAPTURE-007", "WS-PGCAPTURE-008", "WS-PGCAPTURE-010", "WS-PGCAPTURE-011"];
    let grants = |said: &str| {
        for todo in said.lines().filter_map(|line| line.split(" / do: ").nth(1)) {
            cluster.sql(&url, &todo[..todo.rfind(';').expect("a statement") + 1]);
        }
    };
    grants(&refused(&root, &["run"], 3, &words));
    let said = refused(
        &root,
        &["run"],
        3,
        &["WS-NODE-024", "may not read it", "GRANT SELECT ON", "GRANT \"app\" TO \"small\""],
    );
    grants(&said);
    root.does(&["check"]);
    root.up();
    wait_equal(ORDERS, &[&root, &leaf]);
    // A table that may not be read any more cannot be copied, and holds up no other.
    root.sql("revoke select on orders from app");
    leaf.does(&["source", "resync", "orders", "--yes"]);
    wait("the reason is shown", || leaf.source("orders")["error"].to_string().contains("permission denied"));
    root.sql("insert into marks values (1, true)");
    wait("the other table goes on", || leaf.sql("select count(*) from marks") == "1\n");
    println!("{}", leaf.source("orders")["error"]);
    root.sql("grant select on orders to app");
    flows(&root, &leaf);
}

#[test]
fn without_a_free_slot_nothing_begins_and_one_that_is_dropped_suffices() {
    let ground = Ground::new();
    let cluster = cluster(&[("max_replication_slots", "1")]);
    let (mut root, leaf) = pair(&ground, &cluster);
    root.sql("select pg_create_logical_replication_slot('somebody', 'test_decoding')");
    let words =
        ["WS-PG-040", "WS-PGCAPTURE-005", "all 1 replication slots are taken", "somebody", "pg_drop_replication_slot"];
    refused(&root, &["check"], 3, &words);
    refused(&root, &["run"], 3, &words);
    root.sql("select pg_drop_replication_slot('somebody')");
    root.up();
    flows(&root, &leaf);
}

#[test]
fn a_slot_that_somebody_reads_is_waited_for() {
    let ground = Ground::new();
    let cluster = cluster(&[]);
    let (mut root, leaf) = pair(&ground, &cluster);
    root.up();
    wait_equal(ORDERS, &[&root, &leaf]);
    root.stop();
    let (slot, url) = (slot(&root), root.url());
    let mut other = cluster.command("pg_recvlogical");
    other.args(["--start", "--slot", &slot, "-d", &url, "-f", "/dev/null", "--status-interval=0", "--no-loop"]);
    other.args(["-o", "proto_version=1", "-o", &format!("publication_names={slot}")]);
    let mut other = other.stdin(Stdio::null()).spawn().expect("pg_recvlogical");
    wait("somebody reads from it", || root.sql("select count(*) from pg_replication_slots where active") == "1\n");
    root.start();
    root.wait_log("WS-PGCAPTURE-028");
    wait("the node says that it waits", || root.get("/readyz").is_some_and(|(code, _)| code == 503));
    println!("{}", root.log().lines().last().unwrap_or_default());
    other.kill().expect("killed");
    other.wait().expect("ended");
    root.wait_healthy();
    flows(&root, &leaf);
}

/// The database is accepted as it is now, as the message says.
fn begins_afresh(root: &mut Site) {
    root.does(&["source", "drop", "database", "--yes"]);
    root.up();
}

#[test]
fn a_slot_that_is_dropped_made_again_or_given_up_is_an_operators_decision() {
    let ground = Ground::new();
    let cluster = cluster(&[("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")]);
    let (mut root, leaf) = pair(&ground, &cluster);
    root.up();
    wait_equal(ORDERS, &[&root, &leaf]);
    // Dropped under a node that runs.
    let name = slot(&root);
    wait("it is dropped", || {
        let drop = format!(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{name}'; \
                            select pg_drop_replication_slot('{name}')"
        );
        root.try_sql(&drop).status.success()
    });
    root.sql("insert into orders values (501, 'root', 1, 'while there is no slot')");
    root.wait_problem("WS-PGCAPTURE-034");
    root.stop();
    refused(
        &root,
        &["run"],
        5,
        &["WS-NODE-012", "WS-PGCAPTURE-034", "is gone", "watershed source drop database --yes"],
    );
    // Made again by somebody.
    root.sql(&format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')"));
    refused(&root, &["run"], 5, &["WS-NODE-012", "WS-PGCAPTURE-037", "somebody made it again"]);
    begins_afresh(&mut root);
    flows(&root, &leaf);
    assert_eq!(leaf.sql("select note from orders where id = 501"), "while there is no slot\n");
    // Given up by the server, while the node was away.
    root.stop();
    let status = "select wal_status from pg_replication_slots";
    root.sql("delete from orders where id = 5000; insert into orders values (502, 'root', 1, 'while the node is away'); create table junk (i int)");
    wait("the server gives it up", || {
        root.sql("insert into junk values (1); select pg_switch_wal()");
        root.sql("checkpoint");
        root.sql(status) == "lost\n"
    });
    refused(
        &root,
        &["run"],
        5,
        &["WS-NODE-012", "WS-PGCAPTURE-036", "max_slot_wal_keep_size", "watershed source drop database --yes"],
    );
    begins_afresh(&mut root);
    flows(&root, &leaf);
    assert_eq!(leaf.sql("select note from orders where id = 502"), "while the node is away\n");
}

#[test]
fn a_table_without_identity_is_warned_of_its_writers_go_on_and_it_flows_once_it_has_one() {
    let ground = Ground::new();
    let keyless = "create table notes (n int, text text)";
    let mut root = ground.server_site("root", &CLUSTER, keyless);
    let mut leaf = ground.server_site("leaf", &CLUSTER, keyless);
    let owner = "[table.notes]\nowner = \"root\"\n";
    root.configure(None, &(sends("children", "\"notes\"") + owner));
    leaf.configure(Some(root.port), owner);
    let said = root.does(&["check"]);
    println!("{said}");
    for words in [
        "no primary key",
        "only inserts and TRUNCATE are captured",
        "ALTER TABLE \"public\".\"notes\" REPLICA IDENTITY FULL",
    ] {
        assert!(said.contains(words), "{words:?} in {said}");
    }
    root.up();
    leaf.up();
    leaf.wait_source("notes", "live");
    let notes = "select * from notes order by n";
    root.sql("insert into notes values (1, 'a'), (2, 'b'), (2, 'b')");
    wait_equal(notes, &[&root, &leaf]);
    // The application's own writes are not in the way.
    root.sql("update notes set text = 'changed' where n = 1; delete from notes where n = 2; insert into notes values (3, 'c')");
    wait("inserts go on", || leaf.sql(notes).contains("3|c"));
    assert!(leaf.sql(notes).contains("1|a\n2|b\n2|b\n"), "updates and deletes are not told");
    for site in [&root, &leaf] {
        site.sql("alter table notes replica identity full");
    }
    wait_equal(notes, &[&root, &leaf]);
    root.sql("update notes set text = 'again'; delete from notes where n = 3");
    assert_eq!(wait_equal(notes, &[&root, &leaf]), "1|again\n");
}

#[test]
fn a_type_that_the_other_side_lacks_parks_its_table_until_it_is_made() {
    let ground = Ground::new();
    let types =
        "create type mood as enum ('sad', 'ok'); create table feelings (id int primary key, m mood, many mood[]);";
    let mut root = ground.server_site("root", &CLUSTER, &format!("{SERVER} {types}"));
    let mut leaf = ground.server_site("leaf", &CLUSTER, SERVER);
    root.configure(None, &sends("children", "\"orders\", \"feelings\""));
    leaf.configure(Some(root.port), "");
    root.sql("insert into feelings values (1, 'ok', '{sad,ok}'); insert into orders values (1, 'root', 1, 'x')");
    root.up();
    leaf.up();
    wait_equal(ORDERS, &[&root, &leaf]);
    wait("the reason is shown", || leaf.source("feelings")["error"].to_string().contains("mood"));
    println!("{}", leaf.source("feelings"));
    root.sql("insert into feelings values (2, null, null); update orders set note = 'y'");
    wait_equal(ORDERS, &[&root, &leaf]);
    leaf.sql("create type mood as enum ('sad', 'ok')");
    if leaf.source("feelings")["state"] == "parked" {
        leaf.does(&["source", "retry", "feelings"]);
    }
    wait("the table is there", || leaf.try_sql("select 1 from feelings").status.success());
    wait_equal("select * from feelings order by id", &[&root, &leaf]);
}

/// A small disk of its own, for a tablespace; `None` where this user may not mount one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).expect("a folder");
        // It must belong to the server's user.
        let owner = std::fs::metadata(at.parent().expect("a folder")).expect("its owner");
        let options = format!("size=6m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| SmallDisk(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_at_the_destination_is_waited_out_and_nothing_is_lost() {
    let ground = Ground::new();
    let cluster = cluster(&[]);
    let Some(disk) = SmallDisk::mount(&cluster.sockets().join("small")) else {
        eprintln!("this user may not mount a small disk: not tested");
        return;
    };
    let mut root = ground.server_site("root", &CLUSTER, SERVER);
    let mut leaf = ground.server_site("leaf", &cluster, SERVER);
    root.configure(None, &sends("children", "\"orders\", \"marks\""));
    leaf.configure(Some(root.port), "");
    leaf.sql(&format!("create tablespace small location '{}'", disk.0.display()));
    leaf.sql("alter table orders set tablespace small; alter index orders_pkey set tablespace small");
    root.up();
    leaf.up();
    leaf.wait_source("orders", "live");
    leaf.wait_source("marks", "live");
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![0; 5 << 20]).expect("it fits");
    root.sql("insert into orders select n, 'root', n, repeat('x', 1000) from generate_series(1, 3000) n; insert into marks values (1, true)");
    let said = |leaf: &Site| leaf.status()["problems"].to_string();
    wait("the full disk is told", || said(&leaf).contains("No space left on device"));
    println!("{}", said(&leaf));
    for _ in 0..20 {
        // It is shown for as long as it lasts.
        let said = said(&leaf);
        assert!(said.contains("No space left on device") && said.contains(" / do: see that the database"), "{said}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    leaf.kill();
    leaf.up();
    wait("it is told again", || said(&leaf).contains("No space left on device"));
    std::fs::remove_file(&ballast).expect("removed");
    if leaf.source("orders")["state"] == "parked" {
        leaf.does(&["source", "retry", "orders"]);
    }
    wait_equal(ORDERS, &[&root, &leaf]);
    wait_same(&root, &leaf);
}

#[test]
fn a_password_that_is_changed_under_a_node_is_told_and_nothing_is_lost() {
    let ground = Ground::new();
    let mut cluster = cluster(&[]);
    let (mut root, leaf) = pair(&ground, &cluster);
    root.sql("create role app login superuser password 'one'");
    let rules = "host all app all scram-sha-256\nlocal all all trust\nhost all all all trust\n";
    std::fs::write(cluster.sockets().join("data/pg_hba.conf"), rules).expect("written");
    root.sql("select pg_reload_conf()");
    let url = root.url();
    root.moves(url.replace("postgres@", "app:one@"));
    root.configure(None, &sends("children", "\"orders\", \"marks\""));
    root.moves(url);
    root.up();
    wait_equal(ORDERS, &[&root, &leaf]);
    root.sql("alter role app password 'two'; insert into orders values (200, 'root', 1, 'before the restart')");
    cluster.kill();
    cluster.restart();
    root.sql("insert into orders values (201, 'root', 1, 'after it')");
    root.wait_problem("password authentication failed");
    println!("{}", root.status()["problems"]);
    assert!(!root.status()["problems"].to_string().contains("app:one"), "no password is shown");
    assert_eq!(root.get("/healthz").map(|(code, _)| code), Some(200), "the process works");
    assert_eq!(root.get("/readyz").map(|(code, _)| code), Some(503), "and is not ready");
    root.sql("alter role app password 'one'");
    wait_equal(ORDERS, &[&root, &leaf]);
    wait("everything goes on by itself", || !root.status()["problems"].to_string().contains("authentication"));
    assert_eq!(root.get("/readyz").map(|(code, _)| code), Some(200));
    root.sql("alter role app password 'two'");
    root.stop();
    refused(&root, &["run"], 3, &["WS-PG-003", "password authentication failed"]);
    root.sql("alter role app password 'one'");
    root.up();
    flows(&root, &leaf);
}

#[test]
fn a_file_that_has_got_a_table_without_a_key_starts_again() {
    let ground = Ground::new();
    let mut root = ground.server_site("root", &CLUSTER, "create table notes (n int, text text)");
    let mut file = ground.site("file", "pragma journal_mode = wal");
    let owner = "[table.notes]\nowner = \"root\"\n";
    root.configure(None, &(sends("children", "\"notes\"") + owner));
    file.configure(Some(root.port), owner);
    root.sql("insert into notes values (1, 'a'), (1, 'a')");
    root.up();
    file.up();
    file.wait_source("notes", "live");
    for round in 0..2 {
        file.kill();
        root.sql(&format!("insert into notes values ({round}, 'more')"));
        file.up();
        wait_equal("select * from notes order by n, text", &[&root, &file]);
    }
    // Where its own changes are to be sent, it is refused as before.
    file.stop();
    file.configure(Some(root.port), &(sends("parent", "\"notes\"") + owner));
    refused(&file, &["run"], 3, &["WS-NODE-024", "it has no PRIMARY KEY"]);
}
