//! A view's output as a log: whoever folds it into tables has what the view had.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::calls::{append, ask, post};
use super::sql::write;
use crate::tree::site::{Ground, Site, wait};
use crate::views::postgres::CLUSTER;

/// Inserts, updates and deletes: an order of nothing takes its customer away.
pub const TOTALS: &str = "\
-- setup
create table totals (customer text primary key, orders integer not null, amount integer not null);
-- on insert orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = totals.orders + 1, amount = totals.amount + excluded.amount;
delete from totals where customer = :row.customer and :row.amount = 0;
";

/// Without deletes, in the words of both kinds of stores.
pub const UPSERTS: &str = "\
-- setup
create table totals (customer text primary key, orders integer not null, amount integer not null);
-- on insert orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = totals.orders + 1, amount = totals.amount + excluded.amount;
";

/// A view of another's output: it has as many rows, and the same sum.
pub const SUMS: &str = "\
-- setup
create table sums (id integer primary key, n integer not null, amount integer not null);
insert into sums values (1, 0, 0);
-- on insert totals
update sums set n = n + 1, amount = amount + :row.amount;
-- on update totals
update sums set amount = amount + :row.amount - :old.amount;
-- on delete totals
update sums set n = n - 1, amount = amount - :old.amount;
-- on truncate totals
update sums set n = 0, amount = 0;
";

pub const SECTIONS: &str = "\
[log.orders]
append = true
[view.totals]
log = \"orders\"
store = \"STORE\"
sql = \"totals.sql\"
publish = \"totals_changes\"
";

/// Tables as a reader of changes has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fold {
    pub rows: BTreeMap<String, Json>,
    pub entries: usize,
    /// Entries that begin with a truncate.
    pub wholes: usize,
    /// The places of the view's log by which it has changed.
    causes: Vec<u64>,
}

impl Fold {
    /// Takes every change; each has to fit what is there.
    fn take(&mut self, entry: &Json) {
        self.entries += usize::from(entry["part"].as_u64().unwrap_or(0) == 0);
        let changes = entry["changes"].as_array().expect("changes");
        let whole = changes.iter().any(|change| change["op"] == "truncate");
        self.wholes += usize::from(whole);
        let cause = entry["causation"].as_str().expect("a cause");
        let position: u64 = cause.rsplit('-').next().and_then(|text| text.parse().ok()).expect("a cursor");
        assert!(whole || self.causes.last().is_none_or(|last| *last < position), "{cause} comes again");
        self.causes.push(position);
        for change in changes {
            let key = |row: &Json| row["customer"].to_string();
            let (row, old) = (&change["row"], &change["old"]);
            match change["op"].as_str() {
                Some("truncate") => self.rows.clear(),
                Some("insert") => assert_eq!(self.rows.insert(key(row), row.clone()), None, "{change}"),
                Some("delete") => assert_eq!(self.rows.remove(&key(old)).as_ref(), Some(old), "{change}"),
                Some("update") => {
                    assert_eq!(self.rows.remove(&key(old)).as_ref(), Some(old), "{change}");
                    self.rows.insert(key(row), row.clone());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Of everything that a log has.
    pub fn of(site: &Site, log: &str) -> Fold {
        let mut fold = Fold::default();
        for line in lines(site, &format!("/v1/logs/{log}/entries?after=0&limit=1000000")).lines() {
            fold.take(&serde_json::from_str(line).expect("JSON"));
        }
        fold
    }
}

fn lines(site: &Site, path: &str) -> String {
    let (status, text) = site.get(path).expect("an answer");
    assert_eq!(status, 200, "{text}");
    text
}

/// What a view has, by customer, and as of where.
fn held(site: &Site, view: &str, query: &str) -> BTreeMap<String, Json> {
    let (status, answer) = ask(site, view, query, "select customer, orders, amount from totals", json!([]));
    assert_eq!(status, 200, "{answer}");
    let row = |row: &Json| (row[0].to_string(), json!({ "customer": row[0], "orders": row[1], "amount": row[2] }));
    answer["rows"].as_array().expect("rows").iter().map(row).collect()
}

pub fn status(site: &Site, view: &str) -> Json {
    let views = site.status()["views"].clone();
    views.as_array().expect("views").iter().find(|one| one["name"] == view).cloned().unwrap_or_default()
}

/// Waits until what a view has as of a place stands in the log of its output.
fn published(site: &Site, view: &str, token: &str) {
    let at = |cursor: &str| cursor.rsplit('-').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    wait(&format!("{view} has published {token}"), || {
        let out = status(site, view)["published"].clone();
        out["cursor"].as_str().is_some_and(|cursor| at(cursor) >= at(token)) && out["error"].is_null()
    });
}

fn order(site: &Site, n: i64) -> String {
    append(site, &format!("c{}", n % 7), if n % 5 == 0 { 0 } else { n })
}

/// A node whose view is kept there, and another view of its output.
fn site(ground: &Ground, store: &str, more: &str) -> Site {
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", TOTALS);
    write(&site, "sums.sql", SUMS);
    let sums = "[view.sums]\nlog = \"totals_changes\"\nstore = \"sqlite:sums.db\"\nsql = \"sums.sql\"\n";
    site.configure(None, &format!("{}{more}{sums}", SECTIONS.replace("STORE", store)));
    site.up();
    site
}

/// The process is killed again and again, at any instant; a folding reader has what the view has, once.
pub fn folds_through_kills(store: &str, more: &str) {
    // In PostgreSQL a customer who comes and goes by one order has not been there.
    let (mut there, mut changed, comes_to) = (BTreeSet::new(), 0, store.starts_with("postgres"));
    let ground = Ground::new();
    let mut site = site(&ground, store, more);
    let (mut n, mut token) = (0, String::new());
    for round in 0..8 {
        for _ in 0..25 {
            n += 1;
            token = order(&site, n);
            if n == 1 {
                // What was there before it began would be one entry.
                published(&site, "totals", &token);
            }
            let was = if n % 5 == 0 { there.remove(&(n % 7)) } else { !there.insert(n % 7) };
            changed += usize::from(!comes_to || n % 5 != 0 || was);
        }
        std::thread::sleep(Duration::from_millis(round * 9));
        site.kill();
        site.up();
    }
    let there = held(&site, "totals", &format!("?after={token}&timeout=60s"));
    published(&site, "totals", &token);
    let fold = Fold::of(&site, "totals_changes");
    assert_eq!(fold.rows, there);
    assert_eq!((fold.entries, fold.wholes), (changed, 0), "one entry for each order that changes a row");
    // The log of the output is a log: its cursor is a token, and a view of it comes there.
    let shown: Json = serde_json::from_str(&lines(&site, "/v1/logs/totals_changes")).expect("JSON");
    assert_eq!((&shown["view"], &shown["append"]), (&json!("totals"), &json!(false)), "{shown}");
    let query = format!("?after={}&timeout=60s", shown["cursor"].as_str().expect("a cursor"));
    let (code, answer) = ask(&site, "sums", &query, "select n, amount from sums", json!([]));
    let sum: i64 = there.values().map(|row| row["amount"].as_i64().expect("a number")).sum();
    assert_eq!((code, &answer["rows"]), (200, &json!([[there.len(), sum]])), "{answer}");
}

#[test]
fn a_folded_output_is_the_view_through_kills() {
    folds_through_kills("sqlite:totals.db", "");
}

#[test]
fn a_state_in_memory_that_went_back_publishes_nothing_twice() {
    folds_through_kills("memory", "persist_every = \"1s\"\n");
}

#[test]
fn a_folded_output_of_a_view_in_postgresql_is_the_view_through_kills() {
    folds_through_kills(&CLUSTER.database(), "");
}

/// A changed definition takes over: the output has it in one entry, and then goes on.
pub fn folds_through_a_rebuild(store: &str) {
    let ground = Ground::new();
    let mut site = site(&ground, store, "");
    for n in 1..=60 {
        order(&site, n);
    }
    let doubled = TOTALS.replace("(:row.customer, 1, :row.amount)", "(:row.customer, 1, 2 * :row.amount)");
    write(&site, "totals.sql", &doubled);
    site.reload();
    let mut n = 60;
    wait("the new definition has published", || {
        for _ in 0..10 {
            n += 1;
            order(&site, n);
        }
        Fold::of(&site, "totals_changes").wholes > 0
    });
    site.kill();
    site.up();
    let token = order(&site, n + 1);
    let there = held(&site, "totals", &format!("?after={token}&timeout=60s"));
    published(&site, "totals", &token);
    let fold = Fold::of(&site, "totals_changes");
    assert_eq!((&fold.rows, fold.wholes), (&there, 1));
    let query = "?consistency=latest&timeout=60s";
    let (code, answer) = ask(&site, "sums", query, "select n, amount from sums", json!([]));
    let sum: i64 = there.values().map(|row| row["amount"].as_i64().expect("a number")).sum();
    assert_eq!((code, &answer["rows"]), (200, &json!([[there.len(), sum]])), "{answer}");
}

#[test]
fn a_new_definition_takes_over_in_the_output_too_in_one_entry() {
    folds_through_a_rebuild("sqlite:totals.db");
}

#[test]
fn a_new_definition_in_postgresql_takes_over_in_the_output_too() {
    folds_through_a_rebuild(&CLUSTER.database());
}

/// Publishing begins on a view that is there, ends, and begins again: what came between is not missing.
#[test]
fn publishing_can_begin_and_end_at_any_time() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", TOTALS);
    let sections = SECTIONS.replace("STORE", "sqlite:totals.db");
    let without = sections.replace("publish = \"totals_changes\"\n", "");
    let mut n = 0;
    let elsewhere = sections.replace("\"totals_changes\"", "\"other_changes\"");
    for sections in [&without, &sections, &without, &sections, &elsewhere, &sections, &elsewhere] {
        site.configure(None, sections);
        site.up();
        let mut token = String::new();
        for _ in 0..20 {
            n += 1;
            token = order(&site, n);
        }
        let there = held(&site, "totals", &format!("?after={token}&timeout=60s"));
        if sections.contains("publish") {
            let log = if sections.contains("other_changes") { "other_changes" } else { "totals_changes" };
            published(&site, "totals", &token);
            assert_eq!(Fold::of(&site, log).rows, there);
        }
        site.stop();
    }
}

#[test]
fn an_output_is_nobody_elses_to_write_and_is_mirrored_as_any_log() {
    let ground = Ground::new();
    let mut site = site(&ground, "sqlite:totals.db", "");
    let mut token = String::new();
    for n in 1..=30 {
        token = order(&site, n);
        if n == 1 {
            // What was there before it began would be one entry.
            published(&site, "totals", &token);
        }
    }
    published(&site, "totals", &token);
    let (code, told) = post(&site, "/v1/logs/totals_changes/entries", &json!({ "row": 1 }));
    assert_eq!((code, &told["code"]), (403, &json!("WS-VIEW-101")), "{told}");
    let made = site.watershed(&["log", "create", "totals_changes"]);
    assert!(!made.status.success() && String::from_utf8_lossy(&made.stderr).contains("WS-FEED-003"), "{made:?}");
    let mut copy = ground.log_site("copy");
    copy.configure(
        None,
        &format!("[log.copied]\nmirror = \"http://127.0.0.1:{}/v1/logs/totals_changes\"\n", site.port),
    );
    copy.up();
    let original = Fold::of(&site, "totals_changes");
    // Before it has reached its original it answers nobody.
    let reached = || copy.get("/v1/logs/copied/entries?after=0").is_some_and(|(status, _)| status == 200);
    wait("the output is mirrored", || reached() && Fold::of(&copy, "copied") == original);
    assert_eq!(Fold::of(&copy, "copied").entries, 30);
    copy.stop();
    // Another view may not go on with what this one has published; nor may an application.
    site.stop();
    let sections = SECTIONS.replace("STORE", "sqlite:others.db").replace("view.totals", "view.others");
    for sections in [
        sections.as_str(),
        "[log.orders]\nappend = true\n[log.totals_changes]\nappend = true\n",
        "[log.orders]\nappend = true\n[view.totals]\nlog = \"orders\"\nstore = \"memory\"\nsql = \"totals.sql\"\npublish = \"orders2\"\n[view.b]\nlog = \"orders\"\nstore = \"memory\"\nsql = \"totals.sql\"\npublish = \"totals_changes\"\n",
    ] {
        site.configure(None, sections);
        site.start();
        assert_eq!(site.ended(), Some(3), "{}", site.log());
        assert!(site.log().contains("WS-VIEW-100"), "{}", site.log());
    }
}
