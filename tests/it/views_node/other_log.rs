//! A view whose log is another one than it was.

use serde_json::{Value as Json, json};

use super::calls::{append, ask};
use super::sql::{TOTALS, write};
use crate::tree::site::{Ground, Site, wait};

const SUM: &str = "select sum(orders) from totals";

fn sections(store: &str) -> String {
    format!("[log.orders]\nappend = true\n[view.totals]\nlog = \"orders\"\nstore = \"{store}\"\nsql = \"totals.sql\"\n")
}

fn shown(site: &Site) -> Json {
    serde_json::from_str(&site.get("/v1/views/totals").expect("an answer").1).expect("JSON")
}

fn sum(site: &Site, token: &str) -> (u16, Json) {
    let (status, answer) = ask(site, "totals", &format!("?after={token}&timeout=40s"), SUM, json!([]));
    (status, answer["rows"][0][0].clone())
}

/// The folder of its log is removed while the node is down.
fn made_anew(store: &str) {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", TOTALS);
    site.configure(None, &sections(store));
    site.up();
    let mut old = String::new();
    for n in 1..=5 {
        old = append(&site, "ada", n);
    }
    assert_eq!(sum(&site, &old), (200, json!(5)));
    site.stop();
    std::fs::remove_dir_all(site.data().join("feeds/orders")).expect("removed");
    site.up();
    site.wait_log("what it had was of another log");
    wait("it is built", || shown(&site)["state"] == "current" && shown(&site)["building"].is_null());
    let token = append(&site, "bob", 1);
    assert_eq!(sum(&site, &token), (200, json!(1)), "nothing of the log before is in it");
    let (status, told) = ask(&site, "totals", &format!("?after={old}"), SUM, json!([]));
    assert_eq!((status, &told["reason"]), (409, &json!("unknown")), "{told}");
    wait("it is current", || shown(&site)["state"] == "current");
    site.kill();
    site.up();
    let token = append(&site, "bob", 2);
    assert_eq!(sum(&site, &token), (200, json!(2)));
    assert_eq!(shown(&site)["building"], Json::Null);
}

#[test]
fn a_view_in_sqlite_of_a_log_that_was_made_anew_is_built_from_the_new_one() {
    made_anew("sqlite:totals.db");
}

#[test]
fn a_view_in_memory_of_a_log_that_was_made_anew_is_built_from_the_new_one() {
    made_anew("memory");
}

#[test]
fn a_view_of_a_mirror_that_begins_anew_is_never_silently_at_its_beginning() {
    let ground = Ground::new();
    let (mut hub, mut reader) = (ground.log_site("hub"), ground.log_site("reader"));
    hub.configure(None, "[log.orders]\nappend = true\n");
    write(&reader, "totals.sql", TOTALS);
    let log = format!("http://127.0.0.1:{}/v1/logs/orders", hub.port);
    let section = "store = \"sqlite:totals.db\"\nsql = \"totals.sql\"\n";
    reader.configure(None, &format!("[view.totals]\nlog = \"{log}\"\n{section}"));
    hub.up();
    reader.up();
    wait("the mirror is there", || shown(&reader)["state"] == "current");
    reader.kill();
    for n in 1..=5 {
        append(&hub, "ada", n);
    }
    hub.does(&["log", "trim", "orders", "--upto", "3", "--yes"]);
    reader.up();
    // What the mirror was to begin with is gone: it begins with what is there, and its view cannot be whole.
    wait("it says so", || shown(&reader)["state"] == "trimmed");
    let shown = shown(&reader);
    assert!(shown["failure"]["error"].as_str().is_some_and(|why| why.contains("oldest that is there is 4")), "{shown}");
}
