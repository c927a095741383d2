//! What others test of replication, case by case, from one server through two nodes to another: see `docs/CONFORMANCE.md`.

mod constraints;
mod rows;
mod transactions;
mod types;
mod unseen;

use super::postgres::CLUSTER;
use super::site::{Ground, Site, wait};

/// `root` sends what it has to `leaf`.
struct Pair {
    root: Site,
    leaf: Site,
    _ground: Ground,
}

impl Pair {
    /// With these schemas; `tables` are all that is sent, quoted and divided by commas, and the root owns them.
    fn new(tables: &str, at_root: &str, at_leaf: &str) -> Pair {
        Pair::at([CLUSTER.database(), CLUSTER.database()], tables, [at_root, at_leaf])
    }

    fn at(urls: [String; 2], tables: &str, schemas: [&str; 2]) -> Pair {
        let ground = Ground::new();
        let [mut root, mut leaf] = ["root", "leaf"].map(|name| ground.log_site(name));
        for (site, (url, schema)) in [&mut root, &mut leaf].into_iter().zip(urls.into_iter().zip(schemas)) {
            site.moves(url);
            site.sql(schema);
        }
        let owned: String = match tables {
            "\"*\"" => String::new(),
            _ => tables.split(", ").map(|table| format!("[table.{table}]\nowner = \"root\"\n")).collect(),
        };
        root.configure(None, &format!("[send.children]\ntables = [{tables}]\n{owned}"));
        leaf.configure(Some(root.port), &owned);
        let mut pair = Pair { root, leaf, _ground: ground };
        pair.root.up();
        pair.leaf.up();
        if tables != "\"*\"" {
            for table in tables.replace('"', "").split(", ") {
                pair.leaf.wait_source(table, "live");
            }
        }
        pair
    }

    /// Each is a transaction of its own, unless it is several statements.
    fn writes(&self, statements: &[&str]) {
        for statement in statements {
            self.root.sql(statement);
        }
    }

    /// Waits until the query gives the same at both, and gives it.
    fn same(&self, sql: &str) -> String {
        let (mut there, mut here) = (String::new(), String::new());
        let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait("it is the same at both ends", || {
                there = self.root.sql(sql);
                let found = self.leaf.try_sql(sql);
                here = String::from_utf8_lossy(&found.stdout).into_owned() + &String::from_utf8_lossy(&found.stderr);
                there == here
            });
        }));
        assert!(
            said.is_ok(),
            "{sql}\n--- at the root\n{there}\n--- at the leaf\n{here}\n{}",
            self.leaf.status()["problems"]
        );
        there
    }

    /// Waits until all rows of these tables are the same, whatever their order; nobody has a problem.
    fn equal(&self, tables: &[&str]) {
        for table in tables {
            self.same(&format!(
                "select coalesce(string_agg(t::text, E'\\n' order by t::text collate \"C\"), '') from {table} t"
            ));
        }
        for site in [&self.root, &self.leaf] {
            wait(&format!("nobody has a problem at {}", site.name), || {
                site.status()["problems"] == serde_json::json!([])
            });
        }
    }
}
