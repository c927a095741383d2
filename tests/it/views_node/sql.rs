//! Views by SQL, kept in SQLite by a process.

use serde_json::{Value as Json, json};

use super::calls::{append, ask};
use crate::tree::site::{Ground, Site, wait};

pub const TOTALS: &str = "\
-- setup
create table totals (customer text primary key, orders integer not null, amount integer not null);
-- on insert orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = orders + 1, amount = amount + excluded.amount;
";

/// Writes a file beside a site's configuration.
pub fn write(site: &Site, file: &str, text: &str) {
    std::fs::write(site.dir.join(file), text).expect("written");
}

const SECTIONS: &str = "[log.orders]\nappend = true\n[view.totals]\nlog = \"orders\"\nstore = \"sqlite:totals.db\"\nsql = \"totals.sql\"\n";

fn up(ground: &Ground) -> Site {
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", TOTALS);
    site.configure(None, SECTIONS);
    site.up();
    site
}

#[test]
fn what_is_appended_can_be_asked_for_at_once_and_after_a_kill() {
    let ground = Ground::new();
    let mut site = up(&ground);
    let mut token = String::new();
    for n in 1..=20 {
        token = append(&site, if n % 2 == 0 { "ada" } else { "bob" }, n);
        let sql = "select orders, amount from totals where customer = ?";
        let (status, answer) = ask(&site, "totals", &format!("?after={token}"), sql, json!(["ada"]));
        let half = n / 2;
        let expected = if half == 0 { json!([]) } else { json!([[half, half * (half + 1)]]) };
        assert_eq!((status, &answer["rows"]), (200, &expected), "{answer}");
        if n % 7 == 0 {
            site.kill();
            site.up();
        }
    }
    let text = site.does(&[
        "view",
        "query",
        "totals",
        "select * from totals where customer = ?",
        "ada",
        "--after",
        &token,
        "--json",
    ]);
    assert!(text.contains("\"rows\""), "{text}");
    let shown = site.does(&["view", "ls"]);
    assert!(shown.contains("totals") && shown.contains("current"), "{shown}");
    assert_eq!(site.does(&["view", "wait", "totals", "--after", &token]).trim(), token);
    let digest = site.does(&["view", "digest", "totals"]);
    assert!(digest.contains("2 rows"), "{digest}");
    assert!(site.does(&["status"]).contains("VIEWS"), "the status shows views");
}

#[test]
fn a_changed_definition_is_taken_up_by_sighup_and_answers_once_it_has_everything() {
    let ground = Ground::new();
    let mut site = up(&ground);
    for n in 1..=500 {
        append(&site, &format!("c{}", n % 10), n);
    }
    let doubled = TOTALS.replace("(:row.customer, 1, :row.amount)", "(:row.customer, 1, 2 * :row.amount)");
    write(&site, "totals.sql", &doubled);
    site.reload();
    let sum = |token: &str| {
        let (status, answer) =
            ask(&site, "totals", &format!("?after={token}&timeout=30s"), "select sum(amount) from totals", json!([]));
        assert_eq!(status, 200, "{answer}");
        (answer["rows"][0][0].as_i64().expect("a sum"), answer["definition"].clone())
    };
    let (mut all, mut first) = ((1..=500).sum::<i64>(), None);
    wait("the new definition answers", || {
        let token = append(&site, "more", 1);
        all += 1;
        let (found, definition) = sum(&token);
        let first = first.get_or_insert_with(|| definition.clone());
        assert_eq!(found, if *first == definition && found == all { all } else { 2 * all });
        found == 2 * all
    });
    let digest = |site: &Site, view: &str| {
        let (_, text) = site.get(&format!("/v1/views/{view}/digest?after=latest")).expect("an answer");
        serde_json::from_str::<Json>(&text).expect("JSON")["digest"].clone()
    };
    let switched = digest(&site, "totals");
    // One that is built from nothing, by the same definition.
    let again = SECTIONS
        .replace("[log.orders]\nappend = true\n", "")
        .replace("view.totals", "view.again")
        .replace("totals.db", "again.db");
    site.stop();
    site.configure(None, &format!("{SECTIONS}{again}"));
    site.up();
    assert_eq!(digest(&site, "again"), switched);
    // A definition that is wrong is refused whole; what there is goes on.
    write(&site, "totals.sql", "-- on insert orders\ninsert into nowhere values (:row.customer);\n");
    site.reload();
    let token = append(&site, "last", 1);
    assert_eq!(ask(&site, "totals", &format!("?after={token}&timeout=30s"), "select 1", json!([])).0, 200);
}

#[test]
fn questions_that_do_more_than_read_or_take_too_much_are_refused_each_with_its_reason() {
    let ground = Ground::new();
    let site = up(&ground);
    append(&site, "ada", 1);
    let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";
    let many = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000000) select i from n";
    for (sql, status, code) in [
        ("delete from totals", 403, "WS-VIEW-061"),
        ("insert into totals values ('x', 1, 1) returning *", 403, "WS-VIEW-061"),
        ("create table x (a)", 403, "WS-VIEW-061"),
        ("attach '/tmp/x.db' as x", 403, "WS-VIEW-061"),
        ("pragma journal_mode = delete", 403, "WS-VIEW-061"),
        ("select load_extension('x')", 403, "WS-VIEW-061"),
        (endless, 422, "WS-VIEW-062"),
        (many, 413, "WS-VIEW-063"),
        ("select hex(randomblob(100000000))", 413, "WS-VIEW-063"),
        ("select", 422, "WS-VIEW-060"),
        ("select 1; select 2", 422, "WS-VIEW-060"),
        ("select * from nowhere", 422, "WS-VIEW-060"),
    ] {
        let (found, told) = ask(&site, "totals", "", sql, json!([]));
        let code_told = told["code"].as_str().unwrap_or_default();
        let refused = [403, 413, 422].contains(&found) && code_told.starts_with("WS-VIEW-06");
        assert!(refused, "{sql}: {found} {told}");
        assert!((found, code_told) == (status, code) || found != 200, "{sql}: {found} {told}");
        eprintln!("{sql}: {found} {told}");
    }
    let (status, answer) = ask(&site, "totals", "?after=latest", "select count(*) from totals", json!([]));
    assert_eq!((status, &answer["rows"]), (200, &json!([[1]])), "nothing has happened to it: {answer}");
}
