//! Rows that become others without a word in the server's log: followers end equal, and nobody has to do anything.

use super::CLUSTER;
use crate::tree::postgres::sends;
use crate::tree::site::{Ground, Site, wait};

const TABLES: &str = "create table t (id int primary key, v text, n int, z text); \
    create table x1 (id int primary key, v text); create table x2 (id int primary key, v text);";
const ALL: &str = "select 't', id, v, n, z from t union all select 'x1', id, v, 0, '' from x1 \
    union all select 'x2', id, v, 0, '' from x2 order by 1, 2";

/// A server that is followed by a server, a file, and a copy in its own process.
struct Tree {
    root: Site,
    leaf: Site,
    file: Site,
    copy: String,
    _ground: Ground,
}

impl Tree {
    fn new() -> Tree {
        let ground = Ground::new();
        let mut root = ground.server_site("root", &CLUSTER, TABLES);
        let mut leaf = ground.server_site("leaf", &CLUSTER, TABLES);
        let mut file = ground.site("file", &format!("pragma journal_mode = wal; {TABLES}"));
        let copy = CLUSTER.database();
        CLUSTER.sql(&copy, TABLES);
        root.sql(
            "insert into t select n, 'row ' || n, n, 'z' from generate_series(1, 300) n; \
             insert into x1 select n, 'one' from generate_series(1, 50) n; \
             insert into x2 select n, 'two' from generate_series(26, 100) n",
        );
        let copied = format!("[copy.standby]\nurl = \"{copy}\"\ntables = [\"*\"]\n");
        let owned: String = ["t", "x1", "x2"].map(|table| format!("[table.{table}]\nowner = \"root\"\n")).concat();
        root.configure(None, &(sends("children", "\"t\", \"x1\", \"x2\"") + &owned + &copied));
        leaf.configure(Some(root.port), &owned);
        file.configure(Some(root.port), &owned);
        for site in [&mut root, &mut leaf, &mut file] {
            site.up();
        }
        let tree = Tree { root, leaf, file, copy, _ground: ground };
        tree.equal("at the start");
        tree
    }

    fn equal(&self, when: &str) {
        let wanted = self.root.sql(ALL);
        for site in [&self.leaf, &self.file] {
            wait(&format!("{} is equal {when}: {}", site.name, site.status()["problems"]), || site.sql(ALL) == wanted);
        }
        wait(&format!("the copy is equal {when}: {}", self.root.status()["problems"]), || {
            CLUSTER.try_sql(&self.copy, ALL).is_ok_and(|found| found == wanted)
        });
    }

    fn quiet(&self) {
        for site in [&self.root, &self.leaf, &self.file] {
            wait(&format!("nobody has a problem at {}", site.name), || {
                site.status()["problems"] == serde_json::json!([])
            });
        }
    }
}

/// What makes other rows, and an ordinary write behind it.
const WRITES: [(&str, &str); 6] = [
    ("alter table t alter n type int using n * 3", "update t set v = 'a' where id = 1"),
    ("alter table t alter v type text using upper(v)", "update t set n = 7 where id = 2"),
    ("alter table t drop z; alter table t add z text", "update t set z = 'again' where id = 3"),
    (
        "alter table t drop z; alter table t add z text default 'filled'; alter table t alter z drop default",
        "delete from t where id = 4",
    ),
    (
        "alter table x1 rename to tmp; alter table x2 rename to x1; alter table tmp rename to x2",
        "update x1 set v = 'changed' where id in (1, 30, 90); update x2 set v = 'changed' where id in (2, 31, 91)",
    ),
    ("alter table x1 alter id type int using id + 1000", "update x1 set v = 'moved' where id % 2 = 0"),
];

#[test]
fn rows_that_alter_table_makes_others_are_the_same_everywhere_in_the_end() {
    let tree = Tree::new();
    for (alter, write) in WRITES {
        tree.root.sql(alter);
        tree.root.sql(write);
        tree.equal(alter);
    }
    tree.quiet();
}

#[test]
fn also_when_the_node_is_killed_right_after_or_is_down_meanwhile() {
    let mut tree = Tree::new();
    for (n, (alter, write)) in WRITES.into_iter().enumerate() {
        match n % 2 {
            0 => {
                tree.root.kill();
                tree.root.sql(alter);
                tree.root.up();
            }
            _ => {
                tree.root.sql(alter);
                tree.root.kill();
                tree.root.up();
            }
        }
        tree.root.sql(write);
        tree.root.kill();
        tree.root.up();
        tree.equal(alter);
    }
    tree.quiet();
}
