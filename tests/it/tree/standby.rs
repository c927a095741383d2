//! A live copy of a node's database in the same process.

use super::site::{Ground, Site, wait};
use std::process::Command;
use watershed::testing::postgres::Cluster;

const SCHEMA: &str = "pragma journal_mode = wal; create table orders (id integer primary key, note text); create table private (id integer primary key);";
const ALL: &str = "select count(*), sum(id), min(note), max(note) from orders";

fn shell(file: &std::path::Path, sql: &str) -> String {
    let output = Command::new("sqlite3").args(["-batch", "-cmd", ".timeout 20000"]).arg(file).arg(sql).output();
    String::from_utf8_lossy(&output.expect("the sqlite3 shell is installed").stdout).into_owned()
}

#[test]
fn a_copy_follows_through_kills_and_shows_itself() {
    let ground = Ground::new();
    let mut site = ground.site("hq", SCHEMA);
    let copy = site.dir.join("copy.db");
    shell(&copy, SCHEMA);
    site.sql("insert into orders select value, 'before' from generate_series(1, 7000); insert into private values (1)");
    let copied = "[copy.standby]\nurl = \"sqlite:copy.db\"\ntables = [\"orders\"]\n";
    site.configure(None, &format!("[send.children]\ntables = [\"*\"]\n{copied}"));
    site.up();
    site.sql("insert into private values (2)");
    for round in 0..6 {
        let first = 10_000 + round * 100;
        site.sql(&format!(
            "insert into orders select value, 'round {round}' from generate_series({first}, {}); update orders set note = 'changed' where id % 6 = {round}; \
             delete from orders where id % 50 = {round}",
            first + 99
        ));
        if round % 2 == 0 {
            site.kill();
            site.up();
        }
    }
    wait("the copy is equal", || shell(&copy, ALL) == site.sql(ALL));
    assert_eq!(shell(&copy, "select count(*) from private").trim(), "0", "what is not listed is not copied");
    wait("the copy is shown", || site.status()["copies"][0]["state"] == "running");
    assert!(site.does(&["status"]).contains("copy      standby: sqlite:"), "{}", site.does(&["status"]));
    let said = super::site::watershed(
        &["diff", &site.url(), &format!("sqlite:{}", copy.display()), "--tables", "orders"],
        None,
    );
    assert_eq!(said.status.code(), Some(0));
}

/// Replication origins are the whole server's: the node's own session and the copy's have different ones. And a session that has
/// made a function for each of many combinations of tables is replaced before they are too many.
#[test]
fn a_copy_on_the_same_server_follows_whatever_tables_its_transactions_combine() {
    let cluster = Cluster::with(&[("wal_level", "logical"), ("max_slot_wal_keep_size", "1GB")]);
    let tables: String = (0..20).map(|n| format!("create table t{n} (id bigint primary key, v int);")).collect();
    let ground = Ground::new();
    let mut site = ground.server_site("hq", &cluster, &tables);
    let copy = cluster.database();
    site.configure(None, &format!("[copy.standby]\nurl = \"{copy}\"\ntables = [\"*\"]\n"));
    site.up();
    let there = |sql: &str| cluster.try_sql(&copy, sql).is_ok_and(|text| text.trim() == site.sql(sql).trim());
    site.sql("insert into t19 values (0, 0)");
    wait("the copy follows", || there("select count(*) from t19"));
    let mut id = 0;
    for (a, b) in (0..20).flat_map(|a| (0..a).map(move |b| (a, b))) {
        id += 1;
        site.sql(&format!(
            "begin; insert into t{a} values ({id}, 1); update t{b} set v = v + 1 where id = {}; commit",
            id - 1
        ));
        let made = cluster.sql(&copy, "select count(*) from pg_proc where proname ~ '^ws_(loop|bulk)'");
        assert!(made.trim().parse::<u32>().is_ok_and(|made| made <= 160), "{made} functions");
    }
    for n in 0..20 {
        let all = format!("select count(*), sum(id), sum(v) from t{n}");
        wait("the copy is equal", || there(&all));
    }
}

/// A server whose commits are long in memory only, where nothing but the copy's own session can notice that it lost them.
#[test]
fn what_a_copys_server_has_lost_comes_again_though_nothing_else_happens() {
    let mut cluster = Cluster::with(&[("wal_writer_delay", "10s"), ("shared_buffers", "16MB")]);
    let url = cluster.database();
    cluster.sql(&url, "create table orders (id bigint primary key, note text)");
    let ground = Ground::new();
    let mut site = ground.site("hq", SCHEMA);
    site.configure(None, &format!("[copy.standby]\nurl = \"{url}\"\ntables = [\"orders\"]\n"));
    site.up();
    wait("the copy follows", || site.status()["copies"][0]["state"] == "running");
    for round in 1..=4 {
        site.sql(&format!("insert into orders values ({round}, 'once')"));
        let there = |cluster: &Cluster| {
            cluster.try_sql(&url, "select max(id) from orders").is_ok_and(|max| max.trim() == round.to_string())
        };
        wait("the row is there", || there(&cluster));
        cluster.kill();
        cluster.restart();
        wait("the row is there again", || there(&cluster));
    }
}

#[test]
fn a_table_that_was_replaced_is_copied_again_and_a_copy_that_is_not_there_holds_up_nobody() {
    let ground = Ground::new();
    let mut site = ground.site("hq", SCHEMA);
    let copy = site.dir.join("copy.db");
    site.sql("insert into orders values (1, 'one')");
    site.configure(None, "[copy.standby]\nurl = \"sqlite:copy.db\"\ntables = [\"orders\"]\n");
    site.up();
    site.wait_ready();
    site.wait_problem("copy standby");
    shell(&copy, SCHEMA);
    wait("the copy is equal", || shell(&copy, ALL) == site.sql(ALL));
    site.sql("drop table orders; create table orders (id integer primary key, note text); insert into orders values (2, 'two')");
    wait("the copy is equal again", || shell(&copy, ALL) == site.sql(ALL));
}

#[test]
fn a_copys_parked_table_is_shown_and_retried_skipped_or_copied_afresh() {
    let ground = Ground::new();
    let mut site = ground.site("hq", SCHEMA);
    let copy = site.dir.join("copy.db");
    shell(
        &copy,
        "pragma journal_mode = wal; create table orders (id integer primary key, note text check (note <> 'bad')); create table private (id integer primary key);",
    );
    site.sql("insert into orders values (1, 'one')");
    site.configure(None, "[copy.standby]\nurl = \"sqlite:copy.db\"\ntables = [\"*\"]\n");
    site.up();
    wait("the copy is equal", || shell(&copy, ALL) == site.sql(ALL));
    site.wait_source("standby/orders", "live");
    site.wait_source("standby", "running");
    let parked = |site: &Site| {
        site.wait_source("standby/orders", "parked");
        site.wait_problem("watershed source retry standby/orders");
        assert!(
            site.source("standby/orders")["error"].to_string().contains("CHECK"),
            "{}",
            site.source("standby/orders")
        );
        assert_eq!(site.source("orders")["state"], "live", "the node's own table is not parked");
    };
    let others = |site: &Site, id: u32| {
        site.sql(&format!("insert into private values ({id})"));
        wait("the other table goes on", || shell(&copy, "select max(id) from private").trim() == id.to_string());
    };
    // Skipped, also after a kill.
    site.sql("insert into orders values (2, 'bad')");
    parked(&site);
    site.sql("insert into orders values (3, 'three')");
    others(&site, 1);
    site.kill();
    site.up();
    parked(&site);
    assert_eq!(site.watershed(&["source", "skip", "standby/orders"]).status.code(), Some(2), "a skip wants --yes");
    site.does(&["source", "skip", "standby/orders", "--yes"]);
    site.wait_source("standby/orders", "live");
    wait("the rest is applied", || shell(&copy, "select group_concat(id) from orders").trim() == "1,3");
    // Retried: first in vain, then with the cause mended.
    site.sql("insert into orders values (4, 'bad')");
    parked(&site);
    site.does(&["source", "retry", "standby/orders"]);
    parked(&site);
    shell(
        &copy,
        "pragma writable_schema = on; update sqlite_schema set sql = 'CREATE TABLE orders (id integer primary key, note text)' where name = 'orders'; create table bump (i); drop table bump;",
    );
    site.does(&["source", "retry", "standby/orders"]);
    site.wait_source("standby/orders", "live");
    wait("what was refused is there", || shell(&copy, "select group_concat(id) from orders").trim() == "1,3,4");
    // Copied afresh: what was skipped is there, too.
    site.does(&["source", "resync", "standby/orders", "--yes"]);
    wait("the copy is equal again", || shell(&copy, ALL) == site.sql(ALL));
    site.wait_source("standby/orders", "live");
    site.does(&["source", "pause", "standby/orders"]);
    site.sql("insert into orders values (9, 'nine')");
    others(&site, 2);
    assert_eq!(shell(&copy, "select count(*) from orders where id = 9").trim(), "0", "a paused table waits");
    site.does(&["source", "resume", "standby/orders"]);
    wait("the copy is equal at the end", || shell(&copy, ALL) == site.sql(ALL));
    for unknown in ["standby/nosuch", "nobody/orders", "standby/"] {
        let refused = site.watershed(&["source", "retry", unknown]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("WS-HTTP-006"), "{unknown}: {said}");
    }
}

/// The node's data folder was lost. What the copy has is not overwritten before somebody says so, and then all of it is.
#[test]
fn a_copy_of_another_log_waits_for_its_operator_and_begins_afresh() {
    let cluster = &super::postgres::CLUSTER;
    let ground = Ground::new();
    let mut site = ground.site("hq", SCHEMA);
    let (file, server) = (site.dir.join("copy.db"), cluster.database());
    shell(&file, SCHEMA);
    let copies = {
        format!(
            "[copy.file]\nurl = \"sqlite:copy.db\"\ntables = [\"orders\"]\n[copy.server]\nurl = \"{server}\"\ntables = [\"orders\"]\n"
        )
    };
    site.configure(None, &copies);
    site.sql("insert into orders values (1, 'one'), (2, 'two')");
    let equal = |site: &Site| {
        let all = site.sql(ALL);
        shell(&file, ALL) == all && cluster.try_sql(&server, ALL).is_ok_and(|there| there == all)
    };
    site.up();
    wait("the copies are equal", || equal(&site));
    assert_eq!(site.watershed(&["source", "drop", "file/", "--yes"]).status.code(), Some(5), "the node runs");
    site.stop();
    std::fs::remove_dir_all(site.data()).expect("the folder is lost");
    site.does(&["source", "drop", "database", "--yes"]);
    site.sql("delete from orders where id = 1; insert into orders values (3, 'three')");
    site.up();
    for name in ["file", "server"] {
        site.wait_problem(&format!("copy {name}: error[WS-NODE-028]"));
        site.wait_problem(&format!("watershed source drop {name}/ --yes"));
    }
    assert_eq!(shell(&file, "select group_concat(id) from orders").trim(), "1,2");
    site.stop();
    for unknown in ["nobody/", "/"] {
        assert_eq!(site.watershed(&["source", "drop", unknown, "--yes"]).status.code(), Some(3), "{unknown}");
    }
    assert_eq!(site.watershed(&["source", "drop", "file/"]).status.code(), Some(2), "a drop wants --yes");
    site.does(&["source", "drop", "file/", "--yes"]);
    let log = cluster.sql(&server, "select left(cursor, 16) from watershed.cursor");
    let origins =
        format!("select count(*) from pg_replication_origin where roname like 'watershed_{}_server%'", log.trim());
    assert_ne!(cluster.sql(&server, &origins).trim(), "0");
    site.does(&["source", "drop", "server/", "--yes"]);
    assert_eq!(cluster.sql(&server, &origins).trim(), "0", "its origins go with it");
    site.up();
    wait("the copies are equal again", || equal(&site));
    // A node's own database is nobody's copy.
    let mut other = ground.site("other", SCHEMA);
    other.configure(None, &format!("[copy.hq]\nurl = \"{}\"\ntables = [\"orders\"]\n", site.url()));
    let refused = other.watershed(&["source", "drop", "hq/", "--yes"]);
    assert_eq!(refused.status.code(), Some(5), "{}", String::from_utf8_lossy(&refused.stderr));
    site.sql("insert into orders values (4, 'four')");
    wait("the copies follow", || equal(&site));
}

/// Tables whose copies cannot be made stand before the one that can, in every way in which they cannot.
#[test]
fn tables_that_cannot_be_copied_hold_up_no_other_and_come_when_they_can() {
    let cluster = &super::postgres::CLUSTER;
    let schema = "create table a_none (); create table b_keyless (v int); create table c_check (id int primary key, v int); \
        create table d_other (id int primary key, v int); create table e_view (id int primary key); create table zlast (id int primary key)";
    let ground = Ground::new();
    let mut site = ground.server_site("hq", cluster, schema);
    site.sql("insert into b_keyless values (1); insert into c_check values (1, 7); insert into d_other values (1, 1); insert into e_view values (1); insert into zlast values (1)");
    let copy = cluster.database();
    cluster.sql(
        &copy,
        "create table c_check (id int primary key, v int check (v <> 7)); create table d_other (id int, v int primary key); create view e_view as select 1 as id",
    );
    // The slot is made before the writer begins: it waits for all that write.
    let sends = "[send.children]\ntables = [\"*\"]\n";
    site.configure(None, sends);
    site.up();
    site.stop();
    site.configure(None, &format!("{sends}[copy.standby]\nurl = \"{copy}\"\ntables = [\"*\"]\n"));
    // Whoever writes to a table without a key keeps its snapshot from being taken.
    let url = site.url();
    let mut writer = Command::new("psql");
    writer.args([
        "-X",
        "-q",
        "-c",
        "begin",
        "-c",
        "insert into b_keyless values (2)",
        "-c",
        "select pg_sleep(600)",
        &url,
    ]);
    let mut writer = writer.stdout(std::process::Stdio::null()).spawn().expect("psql is installed");
    let holds = "select count(*) from pg_locks where relation = 'b_keyless'::regclass and mode = 'RowExclusiveLock'";
    wait("the writer writes", || site.sql(holds).trim() == "1");
    site.up();
    let there = |sql: &str, expected: &str| cluster.try_sql(&copy, sql).is_ok_and(|text| text.trim() == expected);
    wait("the last table is copied", || there("select count(*) from zlast", "1"));
    site.sql("insert into zlast values (2)");
    wait("and follows", || there("select count(*) from zlast", "2"));
    for table in ["c_check", "d_other", "e_view"] {
        site.wait_source(&format!("standby/{table}"), "parked");
    }
    assert!(!there("select count(*) from b_keyless", "1"), "it waits");
    // psql's own process ends, and with it its transaction.
    writer.kill().expect("it runs");
    writer.wait().expect("it ends");
    site.sql("select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)%' and datname = current_database() and pid <> pg_backend_pid()");
    wait("the table without a key is copied", || there("select count(*) from b_keyless", "1"));
    cluster.sql(&copy, "alter table c_check drop constraint c_check_v_check");
    site.does(&["source", "retry", "standby/c_check"]);
    wait("what was mended is copied", || there("select v from c_check", "7"));
}

/// It would be captured again what is applied to it.
#[test]
fn a_copy_that_is_the_nodes_own_database_under_another_name_is_refused() {
    let ground = Ground::new();
    let cluster = Cluster::with(&[("wal_level", "logical"), ("max_slot_wal_keep_size", "1GB")]);
    let schema = "create table orders (id bigint primary key, note text);";
    let (mut file, mut server) = (ground.site("file", SCHEMA), ground.server_site("server", &cluster, schema));
    std::os::unix::fs::symlink(file.database(), file.dir.join("other.db")).expect("a link");
    let other = server.url().replace("127.0.0.1", "localhost");
    assert_ne!(other, server.url());
    file.configure(None, "[copy.standby]\nurl = \"sqlite:other.db\"\ntables = [\"orders\"]\n");
    server.configure(None, &format!("[copy.standby]\nurl = \"{other}\"\ntables = [\"orders\"]\n"));
    for site in [&mut file, &mut server] {
        let checked = site.watershed(&["check"]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!(checked.status.code(), Some(3), "{said}");
        assert!(said.contains("WS-NODE-032"), "{said}");
        site.up();
        site.wait_problem("WS-NODE-032");
        site.sql("insert into orders values (1, 'one')");
        wait("the row is captured", || site.counter("captured") == 1);
        assert_ne!(site.status()["copies"][0]["state"], "running", "{}", site.status()["copies"]);
        assert_eq!(site.counter("captured"), 1, "it does not come back");
    }
}
