//! hq ← north ← n1, hq ← south: three levels, two ways.

use std::fs;
use std::process::Command;

use super::site::{Ground, Site, wait, wait_equal, watershed};

const SCHEMA: &str = "
create table products (id integer primary key, name text not null, price real);
create table orders (id integer primary key, site text not null, product integer, amount real);
create table secrets (id integer primary key, note text);
";

const OWNERS: &str = "[table.orders]\nowner_by = \"row.site\"\n[table.products]\nowner = \"hq\"\n";

pub struct Tree {
    pub hq: Site,
    pub north: Site,
    pub n1: Site,
    pub south: Site,
    _ground: Ground,
}

pub fn tree(journal: &str) -> Tree {
    let ground = Ground::new();
    let schema = format!("pragma journal_mode = {journal};{SCHEMA}");
    let [mut hq, mut north, mut n1, mut south] = ["hq", "north", "n1", "south"].map(|name| ground.site(name, &schema));
    hq.configure(
        None,
        &format!("[send.children]\ntables = [\"products\"]\n[send.child.south]\ntables = [\"products\", \"orders\"]\n{OWNERS}"),
    );
    let up = "[send.parent]\ntables = [\"orders\"]\n";
    north.configure(Some(hq.port), &format!("{up}[send.children]\ntables = [\"products\"]\n{OWNERS}"));
    n1.configure(Some(north.port), &format!("{up}{OWNERS}"));
    south.configure(Some(hq.port), &format!("{up}{OWNERS}"));
    Tree { hq, north, n1, south, _ground: ground }
}

impl Tree {
    pub fn up(&mut self) {
        for site in [&mut self.hq, &mut self.north, &mut self.n1, &mut self.south] {
            site.up();
        }
        for site in [&self.hq, &self.north, &self.n1, &self.south] {
            site.wait_ready();
        }
    }
}

const ORDERS: &str = "select * from orders order by id";
const PRODUCTS: &str = "select * from products order by id";

fn two_ways(journal: &str) {
    let mut tree = tree(journal);
    tree.hq.sql("insert into products values (1, 'before', 1.5)");
    tree.n1.sql("insert into orders values (100, 'n1', 1, 1.25)");
    tree.up();
    wait_equal(PRODUCTS, &[&tree.hq, &tree.north, &tree.n1, &tree.south]);
    wait_equal(ORDERS, &[&tree.n1, &tree.north, &tree.hq, &tree.south]);

    tree.hq.sql("insert into products values (2, 'after', 2.5); update products set price = 1.75 where id = 1");
    tree.n1.sql("insert into orders values (101, 'n1', 2, 2); insert into secrets values (1, 'of n1')");
    tree.south.sql("begin; insert into orders values (200, 'south', 1, 1); update orders set amount = 9 where id = 200; commit");
    python(&tree.north, "insert into orders values (300, 'north', 1, 3)");
    wait_equal(PRODUCTS, &[&tree.hq, &tree.north, &tree.n1, &tree.south]);
    wait("all orders at hq", || tree.hq.sql("select count(*) from orders") == "5\n" || tree.hq.sql("select count(*) from orders") == "4\n");
    wait_equal(ORDERS, &[&tree.hq, &tree.south]);
    rebuild(&tree);
    diffs(&tree);
    nothing_returns(&tree);
}

/// Rebuilds a table as migration tools do.
fn rebuild(tree: &Tree) {
    tree.n1.sql(
        "begin; create table orders_new (id integer primary key, site text not null, product integer, amount real);
         insert into orders_new select * from orders; drop table orders; alter table orders_new rename to orders; commit;
         insert into orders values (102, 'n1', 2, 4); update orders set amount = 7 where id = 100;",
    );
    wait_equal("select * from orders where site = 'n1' order by id", &[&tree.n1, &tree.north, &tree.hq, &tree.south]);
    wait_equal(ORDERS, &[&tree.hq, &tree.south]);
}

fn python(site: &Site, sql: &str) {
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=20); c.execute(sys.argv[2]); c.commit()";
    let done = Command::new("python3").args(["-c", script]).arg(site.database()).arg(sql).status().expect("python3");
    assert!(done.success());
}

fn diffs(tree: &Tree) {
    let url = |site: &Site| format!("sqlite:{}", site.database().display());
    let diff = |a: &Site, b: &Site, tables: &str| {
        let output = watershed(&["diff", &url(a), &url(b), "--tables", tables], None);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    for (a, b, tables) in [
        (&tree.hq, &tree.south, "orders,products"),
        (&tree.hq, &tree.north, "products"),
        (&tree.north, &tree.n1, "products"),
    ] {
        let (code, text) = diff(a, b, tables);
        assert_eq!(code, Some(0), "{} {} {tables}: {text}", a.name, b.name);
    }
    let (code, text) = diff(&tree.hq, &tree.n1, "secrets");
    assert_eq!(code, Some(6), "{text}");
}

/// What n1 wrote never returns to n1.
fn nothing_returns(tree: &Tree) {
    let output = tree.n1.watershed(&["log", "read", "main", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let id = tree.n1.status()["log"]["id"].as_str().expect("a log id").to_owned();
    let mut entries = 0;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect("NDJSON");
        entries += 1;
        let ours = entry["origin"].as_str().expect("an origin").starts_with(&id);
        assert_eq!(ours, entry["from"].is_null(), "{line}");
        if !ours {
            assert_eq!(entry["from"], "north", "{line}");
        }
    }
    assert!(entries >= 4, "{entries} entries");
    let tree_text = fs::read_to_string(tree.n1.config()).expect("readable");
    assert!(tree_text.contains("[parent]"));
}

#[test]
fn three_levels_two_ways_in_wal_mode() {
    two_ways("wal");
}

#[test]
fn three_levels_two_ways_with_a_rollback_journal() {
    two_ways("delete");
}
