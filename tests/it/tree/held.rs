//! Somebody holds a lock on one table of a database, and does not let go.

use std::process::{Command, Stdio};

use super::postgres::{CLUSTER, sends};
use super::site::{Ground, wait, wait_equal};

/// One table's lock is that table's (law 10): after a while the others go on, and it comes by itself when it is free.
#[test]
fn a_locked_table_holds_up_the_others_for_a_while_only_and_comes_by_itself() {
    let ground = Ground::new();
    let schema = "create table held (id int primary key, v int); create table free (id int primary key, v int)";
    let mut root = ground.server_site("root", &CLUSTER, schema);
    let mut leaf = ground.server_site("leaf", &CLUSTER, schema);
    root.sql("insert into held values (1, 0); insert into free values (1, 0)");
    root.configure(None, &sends("children", "\"held\", \"free\""));
    leaf.configure(Some(root.port), "");
    root.up();
    leaf.up();
    let all = "select (select sum(v) from held), (select sum(v) from free)";
    wait_equal("select count(*) from held, free", &[&root, &leaf]);
    leaf.wait_source("held", "live");
    leaf.wait_source("free", "live");
    let mut holder = Command::new("psql");
    holder.args(["-X", "-q", "-c", "begin", "-c", "lock table held", "-c", "select pg_sleep(600)", &leaf.url()]);
    let mut holder = holder.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psql is installed");
    let locks =
        "select count(*) from pg_locks where relation = 'held'::regclass and mode = 'AccessExclusiveLock' and granted";
    wait("the lock is held", || leaf.sql(locks).trim() == "1");
    root.sql("begin; update held set v = 1; update free set v = 1; commit");
    root.sql("update free set v = 2");
    wait("the other table goes on", || leaf.sql("select v from free").trim() == "2");
    leaf.wait_source("held", "parked");
    let error = leaf.source("held")["error"].to_string();
    assert!(error.contains("another session holds a lock here"), "{error}");
    root.sql("update held set v = 3; update free set v = 3");
    wait("and goes on", || leaf.sql("select v from free").trim() == "3");
    holder.kill().expect("it runs");
    holder.wait().expect("it ends");
    leaf.sql("select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)%' and datname = current_database() and pid <> pg_backend_pid()");
    wait("it comes by itself", || leaf.source("held")["state"] == "live");
    assert_eq!(wait_equal(all, &[&root, &leaf]).trim(), "3|3");
}
