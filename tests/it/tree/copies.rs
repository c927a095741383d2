//! First copies under writing, over kills, and of tables that come later.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::site::{Ground, Site, wait, wait_equal, watershed};

const ROWS: i64 = 50_000;
const SCHEMA: &str = "pragma journal_mode = wal;
create table items (site text, code text, amount real, note blob, primary key (site, code));
create table things (id text primary key, n integer);
create table own (id integer primary key, site text not null, v integer);";

fn fill(path: PathBuf, rows: i64) {
    let mut connection = Connection::open(path).expect("the database");
    let tx = connection.transaction().expect("begin");
    for n in 0..rows {
        let code = format!("c{n:06}");
        let site = if n % 2 == 0 { "a" } else { "b" };
        tx.execute("insert into items values (?, ?, ?, ?)", params![site, code, n as f64 / 3.0, vec![1_u8; 40]])
            .expect("insert");
    }
    tx.execute_batch("insert into things select code, rowid from items limit 5000").expect("insert");
    tx.commit().expect("commit");
}

/// Inserts, updates, deletes and moves rows by their keys, until told to stop; gives the number of transactions.
fn churn(path: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut connection = Connection::open(path).expect("the database");
        connection.busy_timeout(Duration::from_secs(30)).expect("a timeout");
        let mut n = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let pick = |_| format!("c{:06}", rand::random::<u64>() % ROWS as u64);
            let (one, two, three) = (pick(0), pick(1), pick(2));
            let behavior = rusqlite::TransactionBehavior::Immediate;
            let tx = connection.transaction_with_behavior(behavior).expect("begin");
            tx.execute("update items set amount = ?1 where code = ?2", params![n as i64, one]).expect("update");
            tx.execute("delete from items where code = ?1", [&two]).expect("delete");
            tx.execute("insert or replace into items values ('z', ?1, 1, null)", [format!("n{n}")]).expect("insert");
            tx.execute("update or replace items set code = ?1, site = 'm' where code = ?2", [format!("a{n}"), three])
                .expect("move");
            tx.execute("update or replace things set id = ?1 where id = ?2", [format!("m{}", n % 50), pick(3)])
                .expect("move");
            tx.commit().expect("commit");
            n += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        n
    })
}

fn equal_by_diff(a: &Site, b: &Site, tables: &str) {
    let output = watershed(&["diff", &a.url(), &b.url(), "--tables", tables], None);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{} {} {tables}: {text}", a.name, b.name);
}

fn copied(site: &Site) -> u64 {
    site.source("items")["rows"].as_u64().unwrap_or_default()
}

#[test]
fn a_copy_under_writing_and_kills_goes_on_where_it_was_and_ends_equal() {
    let ground = Ground::new();
    let mut hq = ground.site("hq", SCHEMA);
    let mut north = ground.site("north", SCHEMA);
    fill(north.database(), ROWS);
    hq.configure(None, "");
    north.configure(Some(hq.port), "[send.parent]\ntables = [\"items\", \"things\"]\n");
    hq.sql("insert into items values ('hq', 'kept', 1, null)");
    hq.up();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = churn(north.database(), stop.clone());
    north.up();
    wait("the copy is under way", || copied(&hq) >= 4_000);
    let before = copied(&hq);
    hq.kill();
    hq.up();
    assert!(copied(&hq) >= before || hq.source("items")["state"] != "copying", "it begins again after {before}");
    wait("it goes on", || copied(&hq) > before || hq.source("items")["state"] != "copying");
    let total = hq.counter("copied_rows");
    assert!(total <= (ROWS as u64).saturating_sub(before) + 20_000, "{total} rows copied after {before}");
    north.kill();
    north.up();
    hq.wait_source("items", "live");
    hq.wait_source("things", "live");
    stop.store(true, Ordering::Relaxed);
    let transactions = writing.join().expect("the writer ends well");
    assert!(transactions > 50, "{transactions}");
    wait_equal(
        "select count(*), sum(cast(round(amount * 3) as integer)), max(code) from items where site <> 'hq'",
        &[&hq, &north],
    );
    wait_equal("select count(*), min(id), max(id), sum(n) from things", &[&hq, &north]);
    equal_by_diff(&hq, &north, "things");
    assert_eq!(hq.sql("select code from items where site = 'hq'"), "kept\n", "without an owner nothing is removed");
    assert!(hq.log().contains("it has no owner here, so deletions are not verified"), "{}", hq.log());
    hq.sql("delete from items where site = 'hq'");
    equal_by_diff(&hq, &north, "items");
}

#[test]
fn a_copy_removes_what_the_sender_owns_and_lacks_and_never_touches_the_receivers_own_rows() {
    let ground = Ground::new();
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    let owner = "[table.own]\nowner_by = \"row.site\"\n";
    hq.configure(None, &format!("[send.children]\ntables = [\"own\"]\n{owner}"));
    north.configure(Some(hq.port), &format!("[send.parent]\ntables = [\"own\"]\n{owner}"));
    hq.sql("insert into own values (1, 'hq', 1), (2, 'hq', 2), (3, 'north', 0), (4, 'north', 4)");
    north.sql("insert into own values (2, 'hq', 0), (3, 'north', 3), (9, 'hq', 9), (10, 'north', 10)");
    hq.up();
    north.up();
    let rows = wait_equal("select * from own order by id", &[&hq, &north]);
    assert_eq!(rows, "1|hq|1\n2|hq|2\n3|north|3\n10|north|10\n");
    for site in [&hq, &north] {
        site.wait_source("own", "live");
        assert_eq!(site.counter("refused_writes"), 0);
    }
}

#[test]
fn a_table_that_is_resynced_again_and_again_ends_live_and_equal() {
    let ground = Ground::new();
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, "");
    north.configure(Some(hq.port), "[send.parent]\ntables = [\"things\"]\n");
    north.sql("insert into things values ('a', 1)");
    hq.up();
    north.up();
    wait_equal("select * from things", &[&hq, &north]);
    for n in 0..20 {
        hq.does(&["source", "resync", "things", "--yes"]);
        // At any instant of the copy before.
        wait("a moment has passed", || hq.counter("copied_rows") > n / 2);
    }
    hq.wait_source("things", "live");
    north.sql("insert into things values ('b', 2)");
    wait_equal("select * from things order by id", &[&hq, &north]);
}

#[test]
fn a_table_is_added_to_the_selection_by_restart_and_by_sighup() {
    let ground = Ground::new();
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, "");
    north.sql("insert into things values ('a', 1); insert into own values (1, 'n', 1)");
    north.sql("insert into items values ('a', 'b', 1, null)");
    north.configure(Some(hq.port), "[send.parent]\ntables = [\"things\"]\n");
    hq.up();
    north.up();
    wait_equal("select * from things", &[&hq, &north]);
    north.stop();
    north.sql("insert into own values (2, 'n', 2)");
    north.configure(Some(hq.port), "[send.parent]\ntables = [\"things\", \"own\"]\n");
    north.up();
    wait_equal("select * from own order by id", &[&hq, &north]);
    assert_eq!(hq.sql("select count(*) from items"), "0\n");
    north.configure(Some(hq.port), "[send.parent]\ntables = [\"things\", \"own\", \"items\"]\n");
    north.reload();
    wait_equal("select site, code, amount from items order by 1, 2", &[&hq, &north]);
    north.sql("delete from items; insert into things values ('b', 2); update own set v = 7");
    for table in ["items", "things", "own"] {
        wait_equal(&format!("select count(*) from {table}"), &[&hq, &north]);
    }
    wait_equal("select * from own order by id", &[&hq, &north]);
}

#[test]
fn a_table_created_later_is_matched_by_a_star_and_copied() {
    let ground = Ground::new();
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    hq.configure(None, "");
    north.configure(Some(hq.port), "[send.parent]\ntables = [\"*\"]\n");
    hq.up();
    north.up();
    north.wait_ready();
    hq.sql("create table later (a integer, b text, v real, primary key (b, a))");
    north.sql(
        "create table later (a integer, b text, v real, primary key (b, a)); insert into later values (1, 'x', 0.5)",
    );
    wait_equal("select * from later order by b, a", &[&hq, &north]);
    north.sql("create table unheard_of (id integer primary key, v text); insert into unheard_of values (1, 'new')");
    wait("it is created at the parent", || hq.try_sql("select v from unheard_of").stdout == b"new\n");
    north.sql("update later set b = 'y', v = 2; update unheard_of set v = 'newer'; drop table things");
    wait_equal("select * from later order by b, a", &[&hq, &north]);
    wait_equal("select * from unheard_of", &[&hq, &north]);
    north.sql("insert into own values (1, 'n', 1)");
    wait_equal("select * from own", &[&hq, &north]);
}

/// What comes of a table before its first copy has begun meets no rows: that is no error, and nobody is alarmed.
#[test]
fn tables_whose_first_copy_waits_its_turn_are_no_error() {
    let ground = Ground::new();
    let tables: String = (0..9).map(|n| format!("create table t{n} (id int primary key, v int, t text);")).collect();
    let mut root = ground.server_site("root", &super::postgres::CLUSTER, &tables);
    let mut leaf = ground.server_site("leaf", &super::postgres::CLUSTER, "");
    let fill = |n: u32| format!("insert into t{n} select n, 0, repeat('x', 300) from generate_series(1, 20000) n;");
    root.sql(&(0..9).map(fill).collect::<String>());
    root.configure(None, "[send.children]\ntables = [\"*\"]\n");
    leaf.configure(Some(root.port), "");
    root.up();
    let writes = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (root, writes) = (&root, &writes);
        scope.spawn(move || {
            while writes.load(Ordering::Relaxed) {
                let update = |n: u32| format!("update t{n} set v = v + 1 where id in (1, 10000, 20000);");
                root.try_sql(&(0..9).map(update).collect::<String>());
            }
        });
        leaf.up();
        for n in 0..9 {
            leaf.wait_source(&format!("t{n}"), "live");
        }
        writes.store(false, Ordering::Relaxed);
    });
    for n in 0..9 {
        wait_equal(&format!("select count(*), sum(v) from t{n}"), &[&root, &leaf]);
    }
    assert!(!leaf.log().contains("WS-APPLY-003"), "{}", leaf.log());
    assert!(leaf.log().contains("waits for its first copy"), "something came before its turn: {}", leaf.log());
}
