//! What `check` and `run --dry-run` say of views, before a node has them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use serde_json::json;

use super::calls::{append, ask};
use super::sql::{TOTALS, write};
use crate::tree::site::{Ground, Site};
use crate::views::postgres::CLUSTER;

const FEED: &str = "[log.orders]\nappend = true\n";

fn view(name: &str, store: &str) -> String {
    format!("[view.{name}]\nlog = \"orders\"\nstore = \"{store}\"\nsql = \"totals.sql\"\n")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What both say, which must be the same.
#[track_caller]
fn says(site: &Site, code: i32) -> String {
    let checked = site.watershed(&["check"]);
    let planned = site.watershed(&["run", "--dry-run"]);
    assert_eq!(checked.status.code(), Some(code), "{}", words(&checked));
    assert_eq!(planned.status.code(), Some(code), "{}", words(&planned));
    words(&checked)
}

/// Every file below a folder, with its length.
fn files(folder: &Path) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let (path, meta) = entry.map(|entry| (entry.path(), entry.metadata().expect("it is there"))).expect("an entry");
        found.insert((path.display().to_string(), if meta.is_dir() { 0 } else { meta.len() }));
        if meta.is_dir() {
            found.extend(files(&path));
        }
    }
    found
}

#[test]
fn a_view_is_built_goes_on_or_is_built_anew_and_a_look_at_it_changes_nothing() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", TOTALS);
    let latest = "[view.last]\nlog = \"orders\"\nlatest = {}\n";
    site.configure(None, &format!("{FEED}{}{}{latest}", view("totals", "sqlite:totals.db"), view("kept", "memory")));
    let before = files(&site.dir);
    let said = says(&site, 0);
    for line in [
        "view.totals",
        "sql over orders in sqlite:",
        "view.kept",
        "sql over orders in memory: is built by",
        "latest over orders",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(files(&site.dir), before, "nothing is made");
    site.up();
    let query = format!("?after={}&timeout=60s", append(&site, "ada", 1));
    for view in ["totals", "kept", "last"] {
        let (status, answer) =
            ask(&site, view, &query, if view == "last" { "select * from orders" } else { "select 1" }, json!([]));
        assert_eq!(status, 200, "{answer}");
    }
    assert!(says(&site, 0).contains("goes on, by"), "also while the node runs");
    site.stop();
    let before = files(&site.dir);
    let said = says(&site, 0);
    assert_eq!(said.matches("goes on, by").count(), 3, "{said}");
    write(&site, "totals.sql", &TOTALS.replace("amount + excluded.amount", "amount + 2 * excluded.amount"));
    let said = says(&site, 0);
    let anew = "and is built anew beside that by";
    assert!(
        said.matches(anew).count() == 2 && said.contains("totals.sql is not what it was, from line 5 on"),
        "{said}"
    );
    write(&site, "totals.sql", TOTALS);
    assert_eq!(files(&site.dir), before, "nothing is changed");
}

#[test]
fn a_log_elsewhere_that_cannot_be_reached_is_said() {
    let ground = Ground::new();
    let mut site = ground.log_site("reader");
    write(&site, "totals.sql", TOTALS);
    let url = format!("http://127.0.0.1:{}/v1/logs/orders", crate::tree::site::free_port());
    site.configure(None, &view("totals", "memory").replace("\"orders\"", &format!("\"{url}\"")));
    let said = says(&site, 0);
    assert!(said.contains("mirror view.totals") && said.contains("is built by"), "{said}");
}

#[test]
fn what_an_operator_should_know_of_views_is_said() {
    let ground = Ground::new();
    let mut shop = ground.site("shop", "create table orders (id integer primary key, customer text, amount integer);");
    let old = "-- setup\ncreate table t (customer text);\n-- on delete orders\ndelete from t where customer = :old.customre;\n-- on insert nowhere\ninsert into t values (:row.a);\n";
    write(&shop, "old.sql", old);
    let section = |name: &str| format!("[view.{name}]\nstore = \"sqlite:views.db\"\nsql = \"old.sql\"\n");
    shop.configure(None, &format!("{}{}", section("one"), section("two")));
    let said = says(&shop, 0);
    for line in [
        "the latest rows of orders are kept with it",
        "the views one, two name one file, sqlite:",
        "old.sql:4:32: table orders has no column \"customre\", so that this is NULL",
        "the view one looks at nowhere, which the database does not have",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    shop.up();
    shop.stop();
    let said = says(&shop, 0);
    assert!(said.contains("is another view's, so it is kept in"), "{said}");
}

/// A definition, and what is said to it.
fn bad_definitions() -> Vec<(Vec<u8>, i32, &'static str)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let setup = "-- setup\ncreate table t (a integer);\n";
    vec![
        (vec![0xff, 0xfe, 0, 1, 2], 3, "is not UTF-8 text"),
        (vec![b'-'; 100 << 20], 3, "has more than"),
        (text(""), 3, "totals.sql"),
        (text(&format!("{setup}-- on insert orders\ninsert into t values (:rwo.a);\n")), 3, "totals.sql:4:"),
        (text(&format!("{setup}-- on insret orders\ninsert into t values (1);\n")), 3, "totals.sql:3:"),
        (text(&format!("{setup}-- on insert orders\ninsert into nowhere values (:row.a);\n")), 3, "WS-VIEW-122"),
        (
            text(&format!("{setup}-- on insert orders\ninsert into nowhere values (:row.a);\n")),
            3,
            "no such table: nowhere",
        ),
        (text(&format!("{setup}-- on insert orders\ninsret into t values (:row.a);\n")), 3, "totals.sql:4:1"),
        (text(&format!("{setup}-- on insert orders\ninsert into t(b) values (:row.a);\n")), 3, "totals.sql:4:"),
        (text("-- setup\nattach 'x.db' as x;\n-- on insert orders\ninsert into t values (1);\n"), 3, "ATTACH"),
        (
            text(
                "-- setup\ncreate table t (a);\ninsert into t with recursive n(i) as (select 1 union all select i + 1 from n) select 1 from n where i < 0;\n-- on insert orders\ninsert into t values (1);\n",
            ),
            3,
            "its setup takes more than",
        ),
    ]
}

#[test]
fn a_definition_that_cannot_be_used_is_pointed_at() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    site.configure(None, &format!("{FEED}{}", view("totals", "sqlite:totals.db")));
    assert!(says(&site, 3).contains("cannot be read"), "it is missing");
    std::fs::create_dir(site.dir.join("totals.sql")).expect("a folder");
    assert!(says(&site, 3).contains("cannot be read"), "it is a folder");
    std::fs::remove_dir(site.dir.join("totals.sql")).expect("removed");
    for (definition, code, expected) in bad_definitions() {
        std::fs::write(site.dir.join("totals.sql"), &definition).expect("written");
        let checked = site.watershed(&["check"]);
        let said = words(&checked);
        assert!(checked.status.code() == Some(code) && said.contains(expected), "{expected}: {said}");
        assert!(said.contains("error[") && said.contains("do: "), "{said}");
        eprintln!("{said}");
    }
    assert!(!site.dir.join("totals.db").exists() && !site.dir.join("x.db").exists());
}

#[test]
fn a_sqlite_store_that_cannot_be_used_is_said() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", TOTALS);
    std::fs::create_dir(site.dir.join("folder")).expect("a folder");
    write(&site, "text.db", &"this is no database ".repeat(100));
    let foreign = rusqlite::Connection::open(site.dir.join("foreign.db")).expect("a database");
    foreign.execute_batch("create table theirs (a)").expect("a table");
    let mut cases = vec![
        ("sqlite:missing/totals.db", "cannot be written"),
        ("sqlite:folder", "folder"),
        ("sqlite:text.db", "not a database"),
        ("sqlite:text.db/totals.db", "text.db"),
        ("sqlite:foreign.db", "is a database of something else"),
    ];
    let closed = site.dir.join("closed");
    std::fs::create_dir(&closed).expect("a folder");
    let mode = |mode| std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0o555).expect("closed");
    // Whoever may write everywhere may write there, too.
    if std::fs::write(closed.join("probe"), "").is_err() {
        cases.push(("sqlite:closed/totals.db", "cannot be written"));
    }
    for (store, expected) in cases {
        site.configure(None, &format!("{FEED}{}", view("totals", store)));
        let said = says(&site, 3);
        assert!(said.contains("error[WS-VIEW-124]") && said.contains(expected), "{store}: {said}");
        eprintln!("{said}");
    }
    mode(0o755).expect("open again");
    // All that is wrong is said, not only the first.
    site.configure(None, &format!("{FEED}{}{}", view("one", "sqlite:folder"), view("two", "sqlite:foreign.db")));
    let said = says(&site, 3);
    assert!(said.contains("the view one in") && said.contains("the view two in"), "{said}");
}

#[test]
fn a_store_in_postgres_is_looked_at_and_left_as_it_was() {
    let (ground, url) = (Ground::new(), CLUSTER.database());
    let mut site = ground.log_site("hub");
    let totals =
        TOTALS.replace("orders = orders + 1, amount = amount", "orders = totals.orders + 1, amount = totals.amount");
    write(&site, "totals.sql", &totals);
    let schemas = || {
        CLUSTER.sql(&url, "select string_agg(nspname, ',' order by nspname) from pg_namespace where nspname !~ '^pg_'")
    };
    site.configure(None, &format!("{FEED}{}", view("totals", &url)));
    let before = schemas();
    assert!(says(&site, 0).contains("is built by"));
    write(&site, "totals.sql", &totals.replace("insert into totals", "insert into nowhere"));
    let said = says(&site, 3);
    assert!(said.contains("error[WS-VIEW-122]") && said.contains("totals.sql:4:13"), "{said}");
    write(&site, "totals.sql", &totals);
    assert_eq!(schemas(), before, "nothing is left there");
    let role = format!("limited_{}", url.rsplit('/').next().expect("a name"));
    CLUSTER.sql("postgres", &format!("create role {role} login"));
    let limited = url.replacen("postgres@", &format!("{role}@"), 1);
    for (store, code, expected) in [
        (limited, 3, "may not make schemas in"),
        (format!("{url}_none"), 3, "does not exist"),
        (format!("postgres://postgres@127.0.0.1:{}/x", crate::tree::site::free_port()), 4, "WS-VIEW-123"),
    ] {
        site.configure(None, &format!("{FEED}{}", view("totals", &store)));
        let said = says(&site, code);
        assert!(said.contains(expected) && said.contains("error[WS-VIEW-12"), "{store}: {said}");
        eprintln!("{said}");
    }
    CLUSTER.sql(&url, "create schema totals");
    site.configure(None, &format!("{FEED}{}", view("totals", &url)));
    assert!(says(&site, 3).contains("is somebody else's"));
    CLUSTER.sql(&url, "drop schema totals");
    site.up();
    site.stop();
    assert!(says(&site, 0).contains("goes on, by"));
    write(&site, "totals.sql", &totals.replace("amount + excluded", "amount + 2 * excluded"));
    assert!(says(&site, 0).contains("is not what it was, from line 5 on"));
}
